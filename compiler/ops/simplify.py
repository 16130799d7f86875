"""Index simplification with the ranges of index variables: ``(32*h + d) // 32`` is ``h`` when ``0 <= d < 32``."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import Expr, Operation, constant, floordiv, maximum, minimum, mod, symbol
from tilewright.ir.types import TensorType


def simplify(e: Expr, ranges: Mapping[str, Range]) -> Expr:
    """An expression equal to ``e`` for every assignment within ``ranges``, with as few divisions as we can prove."""
    if not any(isinstance(a, Operation) for a in e.atoms):
        return e
    total = constant(0)
    for monomial, coefficient in e.terms:
        term = constant(coefficient)
        for atom, power in monomial:
            simple = _operation(atom, ranges) if isinstance(atom, Operation) else symbol(atom.name)
            for _ in range(power):
                term = term * simple
        total = total + term
    return total


def simplify_type(t: TensorType, ranges: Mapping[str, Range]) -> TensorType:
    """A tensor type with simplified sizes."""
    return TensorType(t.dtype, tuple(simplify(s, ranges) for s in t.shape))


def _undominated(args: tuple[Expr, ...], ranges: Mapping[str, Range], sign: int) -> list[Expr]:
    """``args`` of a minimum (sign 1) or maximum (-1) without those that another one always beats."""
    kept = list(args)
    for a in args:
        if any(o is not a and bounds(sign * (a - o), ranges)[0] >= 0 for o in kept):
            kept = [o for o in kept if o is not a]
    return kept


def _operation(atom: Operation, ranges: Mapping[str, Range]) -> Expr:
    args = tuple(simplify(a, ranges) for a in atom.args)
    match atom.op:
        case "min":
            return minimum(*_undominated(args, ranges, 1))
        case "max":
            return maximum(*_undominated(args, ranges, -1))
        case "//":
            result = floordiv(*args)
            lo, hi = bounds(result, ranges)
            return constant(lo) if lo == hi else result
    value, divisor = args
    lo, hi = bounds(value, ranges)
    least = bounds(divisor, ranges)[0]
    return value if lo >= 0 and hi < least else mod(value, divisor)
