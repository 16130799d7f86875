"""``recognise-softmax``: the formula of softmax becomes the operator.

    e = Exp(x - ReduceMax(x, a));  e / ReduceSum(e, a)   →  Softmax<axis=a>(x)

Without the subtraction of the maximum the formula overflows where Softmax does not; that form is left alone.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import Match, match, op, var
from tilewright.passes.reductions import kept_axes
from tilewright.passes.rewrite import RewritePass, Rewriter

_X = var("x")
_EXP = op("Exp", _X - op("ReduceMax", _X, name="top"), name="exp")
_SOFTMAX = _EXP / op("ReduceSum", _EXP, name="total")


class RecogniseSoftmax(RewritePass):
    """One operator, that attention fusion and the lowering know."""

    name: ClassVar[str] = "recognise-softmax"
    operators: ClassVar[frozenset[str]] = frozenset(["Div"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        found = match(_SOFTMAX, node.outputs[0])
        if not isinstance(found, Match):
            return Miss.at(node, found.reason) if found.depth > 1 else False
        axes = [kept_axes(found[n].producer()) for n in ("top", "total")]
        if axes[0] is None or axes[0] != axes[1] or len(axes[0]) != 1:
            return Miss.at(node, "maximum and sum are not taken over one and the same axis with keepdims")
        if type_of(found["x"]) != type_of(node.outputs[0]):
            return Miss.at(node, "the input is broadcast")
        new = rewriter.new("Softmax", [found["x"]], before=node, attributes={"axis": axes[0][0]})
        rewriter.replace(node.outputs[0], new)
        return True
