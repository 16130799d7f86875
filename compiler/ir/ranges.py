"""What is known of the symbols in a size: bounds and divisors, and what follows for expressions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.ir.symbolic import Atom, Expr, IntLike, Symbol, as_expr, symbol

#: Bounds that stand for "no bound known".
NEGATIVE_INFINITY = -(2**62)
POSITIVE_INFINITY = 2**62


@dataclass(frozen=True, slots=True)
class Range:
    """What is known of a symbol: inclusive bounds and a divisor of every value."""

    lo: int = NEGATIVE_INFINITY
    hi: int = POSITIVE_INFINITY
    divisor: int = 1


Facts = Mapping[str, Range]


def bounds(e: IntLike, facts: Facts) -> tuple[int, int]:
    """Inclusive bounds of ``e`` by interval arithmetic; infinite where nothing is known. Sound, not tight."""
    e = as_expr(e)
    lo, hi = _polynomial_bounds(e, facts)
    if len({c > 0 for _, c in e.terms}) > 1 and any(sum(p for _, p in m) > 1 for m, _ in e.terms):
        other = _bounds_above_least(e, facts)
        return max(lo, other[0]), min(hi, other[1])
    return lo, hi


def _bounds_above_least(e: Expr, facts: Facts) -> tuple[int, int]:
    """The same with each atom written as its least value and what exceeds that: ``h * w - w`` is ``(1 + h') * w``
    where ``h`` is at least 2, which intervals of the single terms do not see."""
    atoms = {a: _atom_bounds(a, facts) for a in e.atoms}
    if any(lo == NEGATIVE_INFINITY for lo, _ in atoms.values()):
        return NEGATIVE_INFINITY, POSITIVE_INFINITY
    excess = {a: symbol(f"excess_{i}") + lo for i, (a, (lo, _)) in enumerate(atoms.items())}
    known = {
        f"excess_{i}": Range(0, POSITIVE_INFINITY if hi == POSITIVE_INFINITY else hi - lo)
        for i, (lo, hi) in enumerate(atoms.values())
    }
    total = as_expr(0)
    for monomial, c in e.terms:
        product = as_expr(c)
        for atom, power in monomial:
            for _ in range(power):
                product = product * excess[atom]
        total = total + product
    return _polynomial_bounds(total, known)


def _polynomial_bounds(e: Expr, facts: Facts) -> tuple[int, int]:
    """The sum of the intervals of the terms."""
    lo = hi = 0
    for monomial, c in e.terms:
        m_lo = m_hi = 1
        for atom, power in monomial:
            a = _atom_bounds(atom, facts)
            for _ in range(power):
                m_lo, m_hi = _interval_product((m_lo, m_hi), a)
        m_lo, m_hi = _interval_product((m_lo, m_hi), (c, c))
        # An unknown bound stays unknown, whatever is added to it.
        lo = NEGATIVE_INFINITY if NEGATIVE_INFINITY in (lo, m_lo) else _clamp(lo + m_lo)
        hi = POSITIVE_INFINITY if POSITIVE_INFINITY in (hi, m_hi) else _clamp(hi + m_hi)
    return lo, hi


def divisor(e: IntLike, facts: Facts) -> int:
    """A positive integer that divides every value of ``e``; 0 when ``e`` is always 0."""
    result = 0
    for monomial, c in as_expr(e).terms:
        term = abs(c)
        for atom, power in monomial:
            term *= _atom_divisor(atom, facts) ** power
        result = math.gcd(result, term)
    return result


def _atom_divisor(atom: Atom, facts: Facts) -> int:
    if isinstance(atom, Symbol):
        return facts[atom.name].divisor if atom.name in facts else 1
    if atom.op == "//":
        a, b = atom.args
        n = b.value if b.is_constant else 0
        return divisor(a, facts) // abs(n) if n and divisor(a, facts) % n == 0 else 1
    # What divides both operands divides their remainder (a - b * q), and any one of them.
    return math.gcd(*(divisor(a, facts) for a in atom.args))


def _clamp(v: int) -> int:
    return max(NEGATIVE_INFINITY, min(POSITIVE_INFINITY, v))


def _interval_product(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    corners = [_clamp(x * y) for x in a for y in b]
    return min(corners), max(corners)


def _atom_bounds(atom: Atom, facts: Facts) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        r = facts.get(atom.name, Range())
        return r.lo, r.hi
    args = [bounds(a, facts) for a in atom.args]
    match atom.op:
        case "min":
            return min(a[0] for a in args), min(a[1] for a in args)
        case "max":
            return max(a[0] for a in args), max(a[1] for a in args)
        case "//" if args[1][0] > 0:
            corners = [x if abs(x) == POSITIVE_INFINITY else x // y for x in args[0] for y in args[1]]
            return min(corners), max(corners)
        case "%" if args[1][0] > 0:
            if args[0][0] >= 0:
                return args[0] if args[0][1] < args[1][0] else (0, min(args[0][1], args[1][1] - 1))
            return 0, args[1][1] - 1
    return NEGATIVE_INFINITY, POSITIVE_INFINITY
