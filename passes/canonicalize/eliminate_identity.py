"""``eliminate-identity``: operators that return their input.

    Identity(x), Cast<same type>(x), Transpose<0,1,2>(x), x * 1, And(x, True), Where(True, x, y), Concat(x), …  →  x

Each operator has one small rule; a rule returns the value that stands for the output, or ``None``. Where an operator
with a neutral operand still broadcasts, the result is an Expand and is left to ``sink-expand``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, known_value, type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import is_number, scalar_of
from tilewright.passes.rewrite import RewritePass, Rewriter


class EliminateIdentity(RewritePass):
    """Replace the output of an operator that does nothing by its input."""

    name: ClassVar[str] = "eliminate-identity"

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        rule = _RULES.get(node.op_type)
        same = rule(node) if rule else None
        if same is None:
            return False
        output = node.outputs[0]
        if (
            output.is_graph_output()
            and node.op_type == "Identity"
            and (same.producer() is None or same.is_graph_output())
        ):
            return False  # an output must be made by a node of its own
        if type_of(same) != type_of(output):
            return Miss.at(node, f"{same.name} is neutral but {type_of(same)} is not {type_of(output)}")
        if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
            return Miss.at(node, "another output of it is used")
        rewriter.replace(output, same)
        return True


def _input(node: ir.Node, index: int = 0) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _same_type(node: ir.Node) -> ir.Value | None:
    """For operators that do nothing whenever the type stays the same."""
    x = _input(node)
    return x if x is not None and type_of(x) == type_of(node.outputs[0]) else None


def _dropout(node: ir.Node) -> ir.Value | None:
    training = _input(node, 2)
    return _input(node) if training is None or is_number(training, 0) else None


def _transpose(node: ir.Node) -> ir.Value | None:
    x = _input(node)
    assert x is not None
    rank = type_of(x).rank
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else tuple(reversed(range(rank)))
    return x if tuple(perm) == tuple(range(rank)) else None


def _slice(node: ir.Node) -> ir.Value | None:
    """Same sizes and forward steps: the whole of it."""
    steps = _input(node, 4)
    forward = steps is None or (is_constant(steps) and bool((constant_array(steps) == 1).all()))
    return _same_type(node) if forward else None


def _concat(node: ir.Node) -> ir.Value | None:
    return _input(node) if len(node.inputs) == 1 else None


def _pad(node: ir.Node) -> ir.Value | None:
    pads = _input(node, 1)
    return _input(node) if pads is not None and is_number(pads, 0) else None


def _where(node: ir.Node) -> ir.Value | None:
    condition = _input(node)
    assert condition is not None
    number = known_scalar(condition)
    return None if number is None else _input(node, 1 if number else 2)


def _neutral(number: float, *, right_only: bool = False) -> Callable[[ir.Node], ir.Value | None]:
    """For binary operators: the other operand, when one is ``number`` throughout."""

    def rule(node: ir.Node) -> ir.Value | None:
        a, b = node.inputs[:2]
        assert a is not None and b is not None
        if known_scalar(b) == number:
            return a
        return b if not right_only and known_scalar(a) == number else None

    return rule


def known_scalar(value: ir.Value) -> float | None:
    """The one number that all elements are, of a constant or of integers that inference knows."""
    number = scalar_of(value)
    if number is None and (known := known_value(value)) is not None and known.size:
        flat = known.reshape(-1)
        if flat[0].is_constant and all(e == flat[0] for e in flat):
            return float(flat[0].value)
    return number


_RULES: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Identity": _input,
    "Dropout": _dropout,
    "Cast": _same_type,
    "Expand": _same_type,
    "Reshape": _same_type,
    "Squeeze": _same_type,
    "Unsqueeze": _same_type,
    "Flatten": _same_type,
    "Tile": _same_type,
    "Transpose": _transpose,
    "Slice": _slice,
    "Concat": _concat,
    "Pad": _pad,
    "Where": _where,
    "Add": _neutral(0),
    "Sub": _neutral(0, right_only=True),
    "Mul": _neutral(1),
    "Div": _neutral(1, right_only=True),
    "Pow": _neutral(1, right_only=True),
    "And": _neutral(True),
    "Or": _neutral(False),
}
