"""Proving that an index stays inside a dimension for every position of the axes it mentions."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.ranges import Facts, Range, bounds
from tilewright.ir.symbolic import ZERO, Expr, Operation, Symbol, constant, floordiv, maximum, minimum, symbol

#: The range of a symbol that chooses between two sizes (``tilewright.ops.choose``), and how many are tried both ways.
_CHOICE = Range(0, 1)
_MOST_CHOICES = 4

Extents = Mapping[str, Expr]
Interval = tuple[Expr, Expr]


def interval(e: Expr, extents: Extents, facts: Facts) -> Interval | None:
    """Symbolic inclusive bounds of ``e`` over the dimensions, each axis running over ``0 … extent - 1``.

    Sound; ``None`` where a product or a division of unknown sign has no bound that can be written down.
    """
    lo, hi = ZERO, ZERO
    for monomial, coefficient in e.terms:
        term: Interval = (constant(coefficient), constant(coefficient))
        for atom, power in monomial:
            part = _atom(atom, extents, facts)
            if part is None:
                return None
            for _ in range(power):
                product = _product(term, part, facts)
                if product is None:
                    return None
                term = product
        lo, hi = lo + term[0], hi + term[1]
    return lo, hi


def _atom(atom: Symbol | Operation, extents: Extents, facts: Facts) -> Interval | None:
    if isinstance(atom, Symbol):
        if atom.name in extents:
            return ZERO, extents[atom.name] - 1
        return symbol(atom.name), symbol(atom.name)
    parts = [interval(a, extents, facts) for a in atom.args]
    known = [p for p in parts if p is not None]
    if atom.op in ("min", "max"):
        return _extremum(atom.op, parts, known)
    if len(known) != len(parts):
        return None
    (a_lo, a_hi), (b_lo, b_hi) = known
    if bounds(b_lo, facts)[0] <= 0:
        return None
    if atom.op == "//":
        if b_lo != b_hi:
            return None
        return floordiv(a_lo, b_lo), floordiv(a_hi, b_lo)
    if bounds(a_lo, facts)[0] >= 0:
        return ZERO, minimum(a_hi, b_hi - 1)
    return ZERO, b_hi - 1


def _extremum(op: str, parts: list[Interval | None], known: list[Interval]) -> Interval | None:
    if len(known) != len(parts):
        return None
    build = minimum if op == "min" else maximum
    return build(*(p[0] for p in known)), build(*(p[1] for p in known))


def _product(a: Interval, b: Interval, facts: Facts) -> Interval | None:
    for x, y in ((a, b), (b, a)):
        if x[0] == x[1]:
            low, high = bounds(x[0], facts)
            if low >= 0:
                return x[0] * y[0], x[0] * y[1]
            if high <= 0:
                return x[0] * y[1], x[0] * y[0]
    if bounds(a[0], facts)[0] >= 0 and bounds(b[0], facts)[0] >= 0:
        return a[0] * b[0], a[1] * b[1]
    return None


def at_most(a: Expr, b: Expr, facts: Facts) -> bool:
    """Whether ``a <= b`` provably."""
    return _not_negative(b - a, facts)


def _not_negative(e: Expr, facts: Facts) -> bool:
    """Whether ``e >= 0``. A minimum that is subtracted (a maximum that is added) may be taken to be any one of its
    operands; one that counts the other way must hold for each of them. For a floor division by ``n > 0``,
    ``a - n + 1 <= n * (a // n) <= a``. What a symbol chooses that is 0 or 1 must hold for both."""
    if bounds(e, facts)[0] >= 0:
        return True
    choices = [n for n in e.symbols if facts.get(n) == _CHOICE]
    if choices and len(choices) <= _MOST_CHOICES:
        name = min(choices)
        return all(_not_negative(e.substitute({name: constant(value)}), facts) for value in (0, 1))
    for monomial, coefficient in e.terms:
        match monomial:
            case ((Operation(op="min" | "max" as op, args=args) as atom, 1),):
                rest = e - Expr([(((atom, 1),), coefficient)])
                tests = (_not_negative(rest + coefficient * arg, facts) for arg in args)
                if any(tests) if (op == "min") == (coefficient < 0) else all(tests):
                    return True
            case ((Operation(op="//", args=(a, n)) as atom, 1),) if bounds(n, facts)[0] > 0:
                rest = e - Expr([(((atom, 1),), coefficient)])
                least = a if coefficient < 0 else a - n + 1
                if _not_negative(rest * n + coefficient * least, facts):
                    return True
    return False


def inside(index: Expr, size: Expr, extents: Extents, facts: Facts) -> bool:
    """Whether ``0 <= index < size`` for every position of the axes."""
    found = interval(index, extents, facts)
    if found is None:
        low, high = bounds(index, {**facts, **{a: _range(e, facts) for a, e in extents.items()}})
        return low >= 0 and high < bounds(size, facts)[0]
    return at_most(ZERO, found[0], facts) and at_most(found[1], size - 1, facts)


def _range(extent: Expr, facts: Facts) -> Range:
    return Range(0, max(0, bounds(extent, facts)[1] - 1))
