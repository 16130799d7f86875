"""Whether a size of a padded program is never less than the true one.

Padding works where a larger true size of a symbol never makes a size smaller: the static size, at the bucket's sizes,
then holds every run of the bucket. ``8 - S`` and ``S % 4`` are not of that kind; programs with these are exact in
``S``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import product

from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import Expr, Operation, Symbol, symbol

#: Combinations of true sizes that are tried one by one where the form of an expression does not tell.
TRIED = 16384


def holds(e: Expr, bucket: Mapping[str, int], padded: Collection[str], known: Mapping[str, Range]) -> bool:
    """Whether ``e`` at the bucket's sizes is at least ``e`` at every smaller size of the padded symbols.

    Decided by the form of the expression, else by trying (at most :data:`TRIED` combinations); ``False`` where neither
    tells.
    """
    open_ = sorted(e.symbols & set(padded))
    if not open_:
        return True
    fixed = e.substitute({s: n for s, n in bucket.items() if s not in open_})
    ranges = {s: _within(known.get(s, Range(1)), bucket[s]) for s in open_}
    return _rises(fixed, ranges) or _tried(fixed, bucket, ranges)


def _within(bounds_: Range, size: int) -> Range:
    return Range(min(max(bounds_.lo, 0), size), size, bounds_.divisor)


def _rises(e: Expr, ranges: Mapping[str, Range]) -> bool:
    """Whether the form tells that ``e`` never falls: operations never do, and neither does the polynomial over them,
    one step of each of its atoms at a time."""
    names: dict[Symbol | Operation, str] = {a: f"atom_{i}" for i, a in enumerate(e.atoms)}
    if not all(_atom_rises(a, ranges) for a in e.atoms):
        return False
    known = {}
    for atom, name in names.items():
        lo, hi = bounds(Expr([(((atom, 1),), 1)]), ranges)
        known[name] = Range(lo, hi)
    polynomial = Expr((tuple((Symbol(names[a]), p) for a, p in monomial), c) for monomial, c in e.terms)
    for name in names.values():
        step = polynomial.substitute({name: symbol(name) + 1}) - polynomial
        if bounds(step, known)[0] < 0:
            return False
    return True


def _atom_rises(atom: Symbol | Operation, ranges: Mapping[str, Range]) -> bool:
    if isinstance(atom, Symbol):
        return True
    if atom.op in ("min", "max"):
        return all(_rises(a, ranges) for a in atom.args)
    left, right = atom.args
    if atom.op == "//":
        return right.is_constant and right.value > 0 and _rises(left, ranges)
    return False


def _tried(e: Expr, bucket: Mapping[str, int], ranges: Mapping[str, Range]) -> bool:
    sizes = [range(-(-r.lo // r.divisor) * r.divisor, r.hi + 1, r.divisor) for r in ranges.values()]
    if math.prod(map(len, sizes)) > TRIED:
        return False
    try:
        most = e.evaluate(bucket)
        return all(e.evaluate(dict(zip(ranges, each, strict=True))) <= most for each in product(*sizes))
    except ZeroDivisionError:
        return False
