"""What a scan need not visit: positions of its axis that provably leave every carry as it is.

A causal attention hides the keys after a query: ``select(t <= i + T - S, score, -inf)``. From the position on at which
the comparison is decided, scores are -∞; what follows from that is found by evaluating the body of the scan over
constants and carries. No name, operator or form of mask is known here.

Two cases cover every state. Either a running maximum (a carry that starts at -∞ and becomes the maximum of itself and
something) has left -∞: then each carry must come out as it went in. Or it has not: then all that came before was -∞
too, so that each carry still has its start, and must keep it.

Taken as finite are the values that a zero weight is multiplied with and the scores that -∞ is added to: a hidden value
that is no number no longer makes its row one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.ir.symbolic import Expr, minimum, symbol
from tilewright.kernel.analysis import walk
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Ref, Select, Unary, Value
from tilewright.kernel.tile import Define, Scan


@dataclass(frozen=True, slots=True)
class _Carry:
    """The value that a carry had before the piece."""

    tile: str


#: What is known of a value: a number or truth value, a carry's old value, or nothing.
Known = float | bool | _Carry | None

_NEUTRAL: Mapping[str, Known] = {"add": 0.0, "mul": 1.0}


def visible_limit(scan: Scan) -> Expr | None:
    """The first position of the scanned axis that is hidden together with all after it, over axes and dimensions;
    ``None`` where nothing is known to be hidden."""
    limits: Expr | None = None
    values = [v for d in scan.body for v in walk(d.value)]
    for test in dict.fromkeys(v for v in values if isinstance(v, Binary)):
        found = _decided(test, scan.axis)
        if found is not None and _changes_nothing(scan, test, found[1]):
            limits = found[0] if limits is None else minimum(limits, found[0])
    return limits


def _decided(test: Binary, axis: str) -> tuple[Expr, bool] | None:
    """The position from which on a comparison of indices has one outcome, and that outcome."""
    a, b = _index(test.a), _index(test.b)
    if a is None or b is None or test.op not in ("lt", "le", "gt", "ge"):
        return None
    # The comparison holds where `slack` is not negative.
    slack = b - a if test.op in ("lt", "le") else a - b
    slack = slack - 1 if test.op in ("lt", "gt") else slack
    for sign in (-1, 1):
        rest = slack - symbol(axis) * sign
        if axis not in rest.symbols:
            return (rest + 1, False) if sign < 0 else (-rest, True)
    return None


def _index(v: Value) -> Expr | None:
    while isinstance(v, Cast) and v.dtype.is_integer:
        v = v.x
    return v.index if isinstance(v, IndexValue) else None


def _changes_nothing(scan: Scan, test: Binary, outcome: bool) -> bool:
    tops = [c.tile for c in scan.carries if c.init.value == -math.inf]
    if len(tops) != 1:
        return False
    (top,) = tops
    moved: dict[str, Known] = {c.tile: _Carry(c.tile) for c in scan.carries}
    started: dict[str, Known] = {c.tile: c.init.value for c in scan.carries}
    for before in (moved, started):
        after = _Body(test, outcome, top, before)
        for define in scan.body:
            after.define(define)
        if not all(_same(after.known[tile], before[carry]) for carry, tile in scan.yields):
            return False
    return _is_running_maximum(scan, top, after.known)


def _is_running_maximum(scan: Scan, top: str, hidden: Mapping[str, Known]) -> bool:
    """Whether ``top`` becomes the maximum of itself and of scores, which are what is hidden."""
    made = {d.tile: d for d in scan.body}
    value = made[dict(scan.yields)[top]].value
    if not isinstance(value, Binary) or value.op != "max":
        return False
    sides = [v for v in (value.a, value.b) if isinstance(v, Ref)]
    others = [made.get(v.tile) for v in sides if v.tile != top]
    if len(sides) != 2 or len(others) != 1 or others[0] is None:
        return False
    new = others[0]
    scores = isinstance(new.value, Ref) and _same(hidden.get(new.value.tile), -math.inf)
    return new.reduce is not None and new.reduce.op == "max" and new.reduce.axes == (scan.axis,) and scores


def _same(a: Known, b: Known) -> bool:
    return a is not None and type(a) is type(b) and a == b


class _Body:
    """Evaluates the statements of a scan's body with one comparison decided."""

    def __init__(self, test: Binary, outcome: bool, top: str, carries: Mapping[str, Known]):
        self.test, self.outcome, self.top = test, outcome, top
        self.known: dict[str, Known] = dict(carries)

    def define(self, d: Define) -> None:
        value = self.value(d.value)
        if d.reduce is not None:
            keeps = d.reduce.op in ("max", "min", "any", "all") or (d.reduce.op == "sum" and value == 0.0)
            value = value if keeps and isinstance(value, float | bool) else None
        self.known[d.tile] = value

    def value(self, v: Value) -> Known:
        if v == self.test:
            return self.outcome
        match v:
            case Const(value=number):
                return number if isinstance(number, bool) else float(number)
            case Ref(tile=tile):
                return self.known.get(tile)
            case Cast(dtype=dtype, x=x):
                inner = self.value(x)
                kept = dtype is x.dtype or inner in (0.0, 1.0, -math.inf)
                return inner if kept and dtype.is_float and x.dtype.is_float else None
            case Select(cond=cond, a=a, b=b):
                chosen, yes, no = self.value(cond), self.value(a), self.value(b)
                return (yes if chosen else no) if isinstance(chosen, bool) else yes if _same(yes, no) else None
            case Unary(op=op, x=x):
                return self.unary(op, self.value(x))
            case Binary(op=op, a=a, b=b):
                return self.binary(op, self.value(a), self.value(b))
        return None

    def unary(self, op: str, x: Known) -> Known:
        if op == "not" and isinstance(x, bool):
            return not x
        return math.exp(x) if op == "exp" and x in (0.0, -math.inf) and isinstance(x, float) else None

    def binary(self, op: str, x: Known, y: Known) -> Known:
        for a, b in ((x, y), (y, x)):
            if isinstance(a, bool) and op in ("and", "or"):
                return a if a is (op == "or") else b
            if op == "eq" and isinstance(a, _Carry) and a.tile == self.top and _same(b, -math.inf):
                return False
            if (op == "max" and _same(a, -math.inf)) or _same(a, _NEUTRAL.get(op)):
                return b
            if ((op == "mul" and _same(a, 0.0)) or (op == "add" and _same(a, -math.inf))) and not _same(b, math.inf):
                return a
        if op == "sub":
            return self.difference(x, y)
        return x == y if op == "eq" and isinstance(x, float) and isinstance(y, float) else None

    def difference(self, x: Known, y: Known) -> Known:
        if _same(y, 0.0):
            return x
        if isinstance(x, _Carry) and x == y:
            return 0.0
        above = y != -math.inf if isinstance(y, float) else isinstance(y, _Carry) and y.tile == self.top
        return x if _same(x, -math.inf) and above else None
