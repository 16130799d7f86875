"""``recognise-rms-norm``: the formula of root mean square normalization becomes the operator (opset 23).

    x / Sqrt(ReduceMean(x², -1) + ε) · w   →  RMSNormalization(x, w)

The root may be a Sqrt with a Div, a Reciprocal or 1 / …, or a Pow with ±0.5; the square a Mul or a Pow.
Formula: Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import Mismatch, Pattern, const, either, match, op, scalar_of, var
from tilewright.passes.reductions import kept_axes
from tilewright.passes.rewrite import RewritePass, Rewriter


def _normalized() -> Pattern:
    x = var("x")
    square = either(x * x, op("Pow", x, 2))
    variance = op("ReduceMean", square, name="mean") + const("epsilon")
    root = either(op("Sqrt", variance), op("Pow", variance, 0.5))
    inverse = either(op("Reciprocal", root), op("Div", 1, root), op("Pow", variance, -0.5))
    return either(x * inverse, x / root)


_PATTERN = _normalized() * var("w")


class RecogniseRmsNorm(RewritePass):
    """One operator instead of seven, computed in one visit to each row."""

    name: ClassVar[str] = "recognise-rms-norm"
    operators: ClassVar[frozenset[str]] = frozenset(["Mul"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        found = match(_PATTERN, node.outputs[0])
        if isinstance(found, Mismatch):
            return Miss.at(node, found.reason) if found.depth > 3 else False
        x, weight = type_of(found["x"]), type_of(found["w"])
        if kept_axes(found["mean"].producer()) != (x.rank - 1,):
            return Miss.at(node, "the mean is not taken over the last axis with keepdims")
        if weight.shape != x.shape[-1:]:
            return Miss.at(node, f"{found['w'].name} is {weight}, not one number per element of the last axis")
        epsilon = scalar_of(found["epsilon"])
        if epsilon is None or type_of(node.outputs[0]) != x:
            return Miss.at(node, "epsilon is no scalar, or the input is broadcast")
        inputs, attributes = [found["x"], found["w"]], {"axis": -1, "epsilon": epsilon}
        new = rewriter.new("RMSNormalization", inputs, before=node, attributes=attributes)
        rewriter.replace(node.outputs[0], new)
        return True
