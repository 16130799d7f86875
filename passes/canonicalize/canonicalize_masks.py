"""``canonicalize-masks``: scores that positions hide are -∞, not some great negative number.

    Softmax(scores + Where(positions t <= s + c, 0, -3.4e38))   →   Softmax(scores + Where(…, 0, -∞))

Bit for bit the same where each row has a position that is not hidden: the others get a weight of exactly 0 either way.
That is proved for comparisons of positions that leave position 0 to every row, where nothing else that is added to the
scores can hide that one. A mask computed from an input keeps its number, and so does every mask beside it: in a row
that is hidden throughout, -3.4e38 gives every position the same weight, -∞ gives it to others or gives NaN.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, type_of
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.eliminate_nan_guard import always_first, may_be_hidden, over_last_axis
from tilewright.passes.match import is_number, scalar_of
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import VIEWS

#: Added to a score below 1e23, numbers below this are the number itself in f32: the score is lost in rounding.
_GREAT = -1e30


class CanonicalizeMasks(RewritePass):
    """One number for what is hidden, and one that needs no care for overflow."""

    name: ClassVar[str] = "canonicalize-masks"
    operators: ClassVar[frozenset[str]] = frozenset(["Where"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        hidden = scalar_of(required(node, 2))
        if hidden is None or not -np.inf < hidden <= _GREAT or not is_number(required(node, 1), 0):
            return False
        if not always_first(required(node, 0), rewriter.model):
            return Miss.at(node, f"which rows {required(node, 0).name} hides only a run knows")
        if not _only_added(node.outputs[0], rewriter.model):
            return Miss.at(node, "not only scores that nothing else hides read it, in front of a softmax")
        infinite = rewriter.constant(np.full_like(constant_array(required(node, 2)), -np.inf), "hidden")
        inputs = [node.inputs[0], node.inputs[1], infinite]
        rewriter.replace(node.outputs[0], rewriter.new("Where", inputs, before=node))
        return True


def _only_added(mask: ir.Value, model: ir.Model) -> bool:
    """True when every reader adds ``mask``, maybe through a view, to scores that are hidden by nothing else that only a
    run knows, and a softmax over the last axis alone reads the sum."""
    if mask.is_graph_output() or not mask.uses():
        return False
    others = []
    for use in mask.uses():
        output = use.node.outputs[0]
        if use.node.op_type in VIEWS and use.idx == 0 and type_of(output).shape[-1:] == type_of(mask).shape[-1:]:
            if not _only_added(output, model):
                return False
        elif use.node.op_type != "Add" or output.is_graph_output() or not all(map(_normalizes_rows, _readers(output))):
            return False
        else:
            others.append(required(use.node, 1 - use.idx))
    return not any(may_be_hidden(scores, model) for scores in others)


def _readers(value: ir.Value) -> list[ir.Node]:
    return [use.node for use in value.uses()]


def _normalizes_rows(node: ir.Node) -> bool:
    return node.op_type == "Softmax" and over_last_axis(node)
