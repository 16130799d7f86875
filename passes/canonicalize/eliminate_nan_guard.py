"""``eliminate-nan-guard``: a softmax whose rows all have something to look at needs no guard against NaN.

    Where(IsNaN(p), 0, p)  with  p = Softmax(scores + Where(positions t <= s + c, 0, -∞))   →  p

The guard is there for rows that are hidden throughout. It goes where scores are masked by nothing, or by comparisons of
positions that are proved to leave position 0 to every row. It stays where a mask is computed from an input: which rows
that hides only a run knows, and the fused kernel computes the guard for free. What the proof takes for granted is that
scores before the mask are numbers: a NaN that was there is handed on, and no longer turned into 0.
"""

from __future__ import annotations

import math
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.facts import facts
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import constant
from tilewright.passes.base import Miss
from tilewright.passes.index_values import compare_positions, operand_formula, position
from tilewright.passes.match import is_number, scalar_of
from tilewright.passes.rewrite import RewritePass, Rewriter, required

_COMPARE = frozenset(["GreaterOrEqual", "Greater", "LessOrEqual", "Less"])


class EliminateNanGuard(RewritePass):
    """One Where and one IsNaN less in each layer."""

    name: ClassVar[str] = "eliminate-nan-guard"
    operators: ClassVar[frozenset[str]] = frozenset(["Where"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        test, weights = required(node, 0).producer(), required(node, 2)
        softmax = weights.producer()
        if (
            test is None
            or test.op_type != "IsNaN"
            or test.inputs[0] is not weights
            or not is_number(required(node, 1), 0)
        ):
            return False
        if softmax is None or softmax.op_type != "Softmax" or not over_last_axis(softmax):
            return Miss.at(node, "what it guards is no softmax over the last axis")
        if type_of(node.outputs[0]) != type_of(weights):
            return Miss.at(node, "it adds axes")
        reason = may_be_hidden(required(softmax, 0), rewriter.model)
        if reason:
            return Miss.at(node, reason)
        rewriter.replace(node.outputs[0], weights)
        return True


def may_be_hidden(scores: ir.Value, model: ir.Model) -> str:
    """Why a row of ``scores`` might be -∞ throughout; empty when it is proved that none is."""
    node = scores.producer()
    if node is None:
        return f"{scores.name} is not computed here"
    if node.op_type == "MatMul":
        return ""
    if node.op_type == "Tanh":
        return may_be_hidden(required(node, 0), model)
    if node.op_type in ("Mul", "Div"):
        a, b = required(node, 0), required(node, 1)
        if node.op_type == "Mul" and scalar_of(a) is not None:
            a, b = b, a
        factor = scalar_of(b)
        # A negative factor makes +∞ of what is hidden, 0 and ∞ make NaN: then the guard has something to do.
        fits = factor is not None and 0 < factor < math.inf
        return may_be_hidden(a, model) if fits else f"{scores.name} is no multiple of scores by a positive number"
    if node.op_type != "Add":
        return f"{node.op_type} computes the scores"
    reasons = []
    for index in (0, 1):
        reason = may_be_hidden(required(node, index), model)
        if not reason:
            return _masks(required(node, 1 - index), model)
        reasons.append(reason)
    return reasons[0]


def _masks(mask: ir.Value, model: ir.Model) -> str:
    """Why ``mask``, which is added to scores, might hide a row."""
    node = mask.producer()
    if node is None or node.op_type != "Where" or not is_number(required(node, 1), 0):
        return f"the mask {mask.name} is no choice between 0 and -∞"
    hidden = scalar_of(required(node, 2))
    if hidden is None or not hidden < math.inf:
        return f"{mask.name} adds more than a number below +∞ to what it hides"
    condition = required(node, 0)
    return "" if always_first(condition, model) else f"which rows {condition.name} hides only a run knows"


def over_last_axis(softmax: ir.Node) -> bool:
    """True for a softmax over the last axis."""
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    return axis in (-1, type_of(required(softmax, 0)).rank - 1)


def always_first(condition: ir.Value, model: ir.Model) -> bool:
    """True when ``condition`` compares positions, and holds in column 0 of every row."""
    node = condition.producer()
    if node is None or node.op_type not in _COMPARE:
        return False
    last = position(type_of(condition).rank - 1)
    a, b = (operand_formula(node, i) for i in (0, 1))
    if a is None or b is None:
        return False
    first = {last: constant(0)}
    return compare_positions(node, a.substitute(first), b.substitute(first), facts(model)) is True
