"""Patterns: an expression in ordinary Python is the subgraph to be found.

    x = var("x")
    gelu = x * 0.5 * (op("Erf", x / math.sqrt(2)) + 1)
    match(gelu, value)          # → Match with .values["x"] and .nodes, or Mismatch with the deepest reason

Commutative operators match in both orders; numbers match constants of one repeated value up to their dtype's rounding;
``either`` tries alternatives. A variable that occurs twice must be the same value both times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Union

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, constant_tensor
from tilewright.ir.late import is_late

COMMUTATIVE = frozenset("Add Mul And Or Xor Max Min Equal BitwiseAnd BitwiseOr BitwiseXor".split())

Operand = Union["Pattern", float]


class Pattern:
    """Base of patterns, with arithmetic that builds operator patterns."""

    def __add__(self, other: Operand) -> Pattern:
        return op("Add", self, other)

    def __radd__(self, other: Operand) -> Pattern:
        return op("Add", other, self)

    def __sub__(self, other: Operand) -> Pattern:
        return op("Sub", self, other)

    def __mul__(self, other: Operand) -> Pattern:
        return op("Mul", self, other)

    def __rmul__(self, other: Operand) -> Pattern:
        return op("Mul", other, self)

    def __truediv__(self, other: Operand) -> Pattern:
        return op("Div", self, other)


@dataclass(frozen=True, eq=False)
class _Var(Pattern):
    name: str
    constant: bool


@dataclass(frozen=True, eq=False)
class _Number(Pattern):
    number: float


@dataclass(frozen=True, eq=False)
class _Op(Pattern):
    op_type: str
    inputs: tuple[Pattern, ...]
    name: str | None


@dataclass(frozen=True, eq=False)
class _Either(Pattern):
    options: tuple[Pattern, ...]


def var(name: str) -> Pattern:
    """Any value."""
    return _Var(name, constant=False)


def const(name: str) -> Pattern:
    """Any constant of the model."""
    return _Var(name, constant=True)


def op(op_type: str, *inputs: Operand, name: str | None = None) -> Pattern:
    """A node of the default domain; ``name`` binds its output. Inputs that are left out of the pattern are free."""
    return _Op(op_type, tuple(_as_pattern(i) for i in inputs), name)


def either(*options: Operand) -> Pattern:
    """The first option that lets the whole pattern match."""
    return _Either(tuple(_as_pattern(o) for o in options))


def _as_pattern(operand: Operand) -> Pattern:
    return operand if isinstance(operand, Pattern) else _Number(float(operand))


@dataclass(frozen=True, slots=True)
class Match:
    """The values that variables and named nodes stand for, and the nodes that were matched."""

    values: Mapping[str, ir.Value]
    nodes: frozenset[ir.Node]

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]


@dataclass(slots=True)
class Mismatch:
    """Why nothing matched: the reason found deepest in the pattern, and how many nodes had matched by then."""

    reason: str = ""
    depth: int = -1

    def note(self, depth: int, reason: str) -> None:
        if depth > self.depth:
            self.depth, self.reason = depth, reason


def match(pattern: Pattern, value: ir.Value) -> Match | Mismatch:
    """Match ``pattern`` against the expression that computes ``value``."""
    mismatch = Mismatch()
    for state in _match(pattern, value, _State({}, ()), mismatch):
        return Match(state.values, frozenset(state.nodes))
    return mismatch


@dataclass(frozen=True, slots=True)
class _State:
    values: dict[str, ir.Value]
    nodes: tuple[ir.Node, ...] = field(default=())

    def bind(self, name: str, value: ir.Value) -> _State | None:
        bound = self.values.get(name)
        if bound is None:
            return _State({**self.values, name: value}, self.nodes)
        return self if bound is value or _equal_constants(bound, value) else None


def _match(pattern: Pattern, value: ir.Value, state: _State, miss: Mismatch) -> Iterator[_State]:
    depth = len(state.nodes)
    match pattern:
        case _Either(options=options):
            for option in options:
                yield from _match(option, value, state, miss)
        case _Number(number=number):
            if is_number(value, number):
                yield state
            else:
                miss.note(depth, f"{value.name} is not the constant {number:g}")
        case _Var(name=name, constant=constant):
            if constant and constant_tensor(value) is None:
                miss.note(depth, f"{value.name} is not a constant")
            elif (bound := state.bind(name, value)) is None:
                miss.note(depth, f"{value.name} is not {state.values[name].name}, which it should be")
            else:
                yield bound
        case _Op():
            yield from _match_op(pattern, value, state, miss)


def _match_op(pattern: _Op, value: ir.Value, state: _State, miss: Mismatch) -> Iterator[_State]:
    node, depth = value.producer(), len(state.nodes)
    if node is None or node.op_type != pattern.op_type or node.domain not in ("", "ai.onnx"):
        found = "an input or constant" if node is None else node.op_type
        miss.note(depth, f"{value.name} is {found}, not {pattern.op_type}")
        return
    if is_late(node):
        miss.note(depth, f"the shape of {value.name} hangs on run-time values")
        return
    inputs = [v for v in node.inputs if v is not None]
    if value is not node.outputs[0] or len(inputs) < len(pattern.inputs):
        miss.note(depth, f"{value.name} is another output or has fewer inputs than the pattern")
        return
    started: _State | None = _State(state.values, (*state.nodes, node))
    if pattern.name is not None:
        started = started.bind(pattern.name, value) if started else None
        if started is None:
            miss.note(depth, f"{value.name} is not the {pattern.name} met before")
            return
    orders = [inputs[: len(pattern.inputs)]]
    if pattern.op_type in COMMUTATIVE and len(pattern.inputs) == 2:
        orders.append(orders[0][::-1])
    for order in orders:
        assert started is not None
        yield from _match_all(pattern.inputs, order, started, miss)


def _match_all(
    patterns: tuple[Pattern, ...], values: list[ir.Value], state: _State, miss: Mismatch
) -> Iterator[_State]:
    if not patterns:
        yield state
        return
    for after in _match(patterns[0], values[0], state, miss):
        yield from _match_all(patterns[1:], values[1:], after, miss)


# -- constants -----------------------------------------------------------------------------------------------------


def is_number(value: ir.Value, number: float) -> bool:
    """True when ``value`` is a constant whose elements all are ``number``, up to four roundings of its dtype."""
    found = scalar_of(value)
    if found is None:
        return False
    if not np.isfinite(number):
        return found == number
    return abs(found - number) <= 4 * _epsilon(value) * abs(number)


def scalar_of(value: ir.Value) -> float | None:
    """The one number that all elements of a constant are; ``None`` for other values (and for big tensors)."""
    tensor = constant_tensor(value)
    if tensor is None or not 1 <= tensor.size <= 1024 or tensor.dtype == ir.DataType.STRING:
        return None
    flat = constant_array(value).reshape(-1)
    return float(flat[0]) if bool((flat == flat[0]).all()) else None


def _epsilon(value: ir.Value) -> float:
    dtype = constant_array(value).dtype
    try:
        return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    except ValueError:
        return 0.0


def _equal_constants(a: ir.Value, b: ir.Value) -> bool:
    left, right = scalar_of(a), scalar_of(b)
    return left is not None and left == right and a.dtype == b.dtype and a.shape == b.shape
