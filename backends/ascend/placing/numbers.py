"""Which numbers a value can be: intervals of integers and of clamped floats, and the type that carries them exactly.

Vector cores compute in f32, f16 and i32. An integer of any type is carried in f32 where it and everything it is made
of stays within ±2^24, which f32 holds exactly, else in i32 where its interval is known to fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.ir.ranges import Facts, bounds
from tilewright.ir.symbolic import Expr, as_expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import transform
from tilewright.kernel.expr import COMPARE, Binary, Cast, Const, IndexValue, Ref, Select, Unary, Value
from tilewright.kernel.tile import Define

Interval = tuple[float, float]

#: Every integer up to here is an f32.
EXACT = float(1 << 24)
_EVERYTHING: Interval = (-math.inf, math.inf)


def range_of(dtype: DType) -> Interval:
    """All values of a type; floats have no bounds."""
    if dtype is DType.BOOL:
        return 0.0, 1.0
    if dtype.is_float:
        return _EVERYTHING
    if dtype.is_signed:
        return -(2.0 ** (dtype.bits - 1)), 2.0 ** (dtype.bits - 1) - 1
    return 0.0, 2.0**dtype.bits - 1


def within(interval: Interval, outer: Interval) -> bool:
    """Whether an interval lies inside another."""
    return outer[0] <= interval[0] and interval[1] <= outer[1]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Intervals of the values of one kernel. ``facts`` bound dimensions and axes; ``made`` are the tiles by name."""

    facts: Facts
    made: Mapping[str, Define]

    def interval(self, v: Value) -> Interval:
        """Bounds of ``v``, NaN apart; those of its type where nothing better is known."""
        return _met(self._interval(v), range_of(v.dtype))

    def carrier(self, v: Value) -> DType | None:
        """The type in which a vector core computes ``v``; ``None`` for one that it cannot hold."""
        if v.dtype is DType.BOOL:
            return DType.F16
        if v.dtype in (DType.F32, DType.BF16):
            return DType.F32
        if v.dtype is DType.F16:
            return DType.F16
        if not v.dtype.is_integer:
            return None
        found = self.interval(v)
        if within(found, (-EXACT, EXACT)):
            return DType.F32
        return DType.I32 if within(found, range_of(DType.I32)) else None

    def _interval(self, v: Value) -> Interval:
        match v:
            case Const(value=number):
                return float(number), float(number)
            case IndexValue(index=index):
                least, most = bounds(index, self.facts)
                return float(least), float(most)
            case Ref(tile=tile) if tile in self.made:
                return self._tile(self.made[tile])
            case Cast(x=x):
                lo, hi = self.interval(x)
                inner = (lo, hi) if v.dtype.is_float else (_trunc(lo), _trunc(hi))
                return inner if v.dtype.is_float or within(inner, range_of(v.dtype)) else range_of(v.dtype)
            case Select(a=a, b=b):
                left, right = self.interval(a), self.interval(b)
                return min(left[0], right[0]), max(left[1], right[1])
            case Unary(op=op, x=x):
                made = self.applied(op, self.interval(x))
                return made if v.dtype.is_float or within(made, range_of(v.dtype)) else range_of(v.dtype)
            case Binary(op=op, a=a, b=b):
                return self._binary(op, self.interval(a), self.interval(b), v.dtype)
        return _EVERYTHING

    def _tile(self, d: Define) -> Interval:
        if d.reduce is None or d.reduce.op in ("max", "min"):
            return self.interval(d.value) if d.reduce is None or d.value.dtype.is_float else range_of(d.value.dtype)
        return _EVERYTHING

    @staticmethod
    def applied(op: str, x: Interval) -> Interval:
        """Bounds of a function of what lies in ``x``, wider than any type where nothing is known."""
        match op:
            case "neg":
                return -x[1], -x[0]
            case "abs":
                sizes = abs(x[0]), abs(x[1])
                return (0.0 if x[0] <= 0 <= x[1] else min(sizes)), max(sizes)
            case "floor" | "round" | "ceil":
                return _down(x[0]), _up(x[1])
            case "sign" | "tanh" | "erf":
                return -1.0, 1.0
            case "sigmoid":
                return 0.0, 1.0
        return _EVERYTHING

    @staticmethod
    def _binary(op: str, a: Interval, b: Interval, dtype: DType) -> Interval:
        if op in COMPARE:
            return 0.0, 1.0
        match op:
            case "min":
                return min(a[0], b[0]), min(a[1], b[1])
            case "max":
                return max(a[0], b[0]), max(a[1], b[1])
        if math.inf in (-a[0], a[1], -b[0], b[1]):
            return _EVERYTHING
        made = _EVERYTHING
        match op:
            case "add":
                made = a[0] + b[0], a[1] + b[1]
            case "sub":
                made = a[0] - b[1], a[1] - b[0]
            case "mul":
                corners = [x * y for x in a for y in b]
                made = min(corners), max(corners)
            case "div" if dtype.is_integer and b[0] > 0:
                corners = [x / y for x in a for y in b]
                made = _trunc(min(corners)), _trunc(max(corners))
            case "mod" if dtype.is_integer and b[0] > 0:
                made = 0.0, b[1] - 1
        if dtype.is_float and made != _EVERYTHING:  # one rounding
            made = made[0] - abs(made[0]) * 2.0**-8, made[1] + abs(made[1]) * 2.0**-8
        return made if dtype.is_float or within(made, range_of(dtype)) else range_of(dtype)


def folded(value: Value, facts: Facts, made: Mapping[str, Define]) -> Value:
    """``value`` with arithmetic on positions done in index expressions, and selections that the facts decide."""

    def fold(v: Value) -> Value:
        match v:
            case Ref(tile=tile) if tile in made and made[tile].reduce is None and v.dtype.is_integer:
                inner = folded(made[tile].value, facts, made)
                return inner if isinstance(inner, IndexValue) else v
            case Cast(dtype=dtype, x=IndexValue(index=index)) if dtype.is_integer:
                return IndexValue(index, dtype) if _fits(index, dtype, facts) else v
            case Binary(op=op, a=a, b=b) if v.dtype.is_integer:
                x, y = _position(a), _position(b)
                made_of = None if x is None or y is None else _arithmetic(op, x, y, facts)
                return IndexValue(made_of, v.dtype) if made_of is not None and _fits(made_of, v.dtype, facts) else v
            case Select(cond=Binary(op=op, a=a, b=b)) if op in COMPARE:
                x, y = _position(a), _position(b)
                decided = None if x is None or y is None else _decided(op, x - y, facts)
                return v if decided is None else (v.a if decided else v.b)
        return v

    return transform(value, fold)


def _position(v: Value) -> Expr | None:
    if isinstance(v, IndexValue) and v.dtype.is_integer:
        return v.index
    return as_expr(int(v.value)) if isinstance(v, Const) and v.dtype.is_integer else None


def _fits(index: Expr, dtype: DType, facts: Facts) -> bool:
    lo, hi = bounds(index, facts)
    return within((float(lo), float(hi)), range_of(dtype))


def _arithmetic(op: str, a: Expr, b: Expr, facts: Facts) -> Expr | None:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul" if a.is_constant or b.is_constant:
            return a * b
        case "div" if bounds(a, facts)[0] >= 0 and bounds(b, facts)[0] > 0:
            return a // b
        case "mod" if bounds(b, facts)[0] > 0:
            return a % b
    return None


def _decided(op: str, difference: Expr, facts: Facts) -> bool | None:
    """Whether ``difference op 0`` always or never holds."""
    lo, hi = bounds(difference, facts)
    sure = {"lt": hi < 0, "le": hi <= 0, "gt": lo > 0, "ge": lo >= 0, "eq": lo == hi == 0, "ne": lo > 0 or hi < 0}
    never = {"lt": lo >= 0, "le": lo > 0, "gt": hi <= 0, "ge": hi < 0, "eq": lo > 0 or hi < 0, "ne": lo == hi == 0}
    return True if sure[op] else False if never[op] else None


def _met(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _trunc(x: float) -> float:
    return x if math.isinf(x) else float(math.trunc(x))


def _down(x: float) -> float:
    return x if math.isinf(x) else float(math.floor(x))


def _up(x: float) -> float:
    return x if math.isinf(x) else float(math.ceil(x))
