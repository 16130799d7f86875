"""``recognise-layer-norm``: the formula of layer normalization becomes the operator.

    d = x - ReduceMean(x, -1);  d / Sqrt(ReduceMean(d², -1) + ε) · w + b   →  LayerNormalization(x, w, b)

Formula: Ba, Kiros and Hinton, Layer Normalization, arXiv 1607.06450, equations 3 and 4.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import Match, Mismatch, Pattern, const, either, match, op, scalar_of, var
from tilewright.passes.reductions import kept_axes
from tilewright.passes.rewrite import RewritePass, Rewriter


def _normalized() -> Pattern:
    x = var("x")
    centred = x - op("ReduceMean", x, name="mean")
    square = either(centred * centred, op("Pow", centred, 2))
    variance = op("ReduceMean", square, name="variance") + const("epsilon")
    root = either(op("Sqrt", variance), op("Pow", variance, 0.5))
    return either(centred / root, centred * op("Reciprocal", root), centred * op("Div", 1, root))


_NORMALIZED = _normalized()
_PATTERNS = (_NORMALIZED * var("w") + var("b"), _NORMALIZED * var("w"))


class RecogniseLayerNorm(RewritePass):
    """One operator instead of nine; with its bias when there is one."""

    name: ClassVar[str] = "recognise-layer-norm"
    operators: ClassVar[frozenset[str]] = frozenset(["Add", "Mul"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        found: Match | Mismatch = match(_PATTERNS[0 if node.op_type == "Add" else 1], node.outputs[0])
        if isinstance(found, Mismatch):
            return Miss.at(node, found.reason) if found.depth > 3 else False
        if node.op_type == "Mul" and _bias_follows(node):
            return False
        x = type_of(found["x"])
        axes = [kept_axes(found[n].producer()) for n in ("mean", "variance")]
        if axes != [(x.rank - 1,)] * 2:
            return Miss.at(node, "mean and variance are not taken over the last axis with keepdims")
        parameters = [found[n] for n in ("w", "b") if n in found.values]
        for p in parameters:
            if type_of(p).shape != x.shape[-1:]:
                return Miss.at(node, f"{p.name} is {type_of(p)}, not one number per element of the last axis")
        epsilon = scalar_of(found["epsilon"])
        if epsilon is None or type_of(node.outputs[0]) != x:
            return Miss.at(node, "epsilon is no scalar, or the input is broadcast")
        attributes = {"axis": -1, "epsilon": epsilon}
        new = rewriter.new("LayerNormalization", [found["x"], *parameters], before=node, attributes=attributes)
        rewriter.replace(node.outputs[0], new)
        return True


def _bias_follows(node: ir.Node) -> bool:
    """True when an Add reads the product: then the match that starts there takes all of it."""
    return any(
        use.node.op_type == "Add" and isinstance(match(_PATTERNS[0], use.node.outputs[0]), Match)
        for use in node.outputs[0].uses()
    )
