"""How an index moves across the lanes of a vector: not at all, by a fixed stride, or irregularly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.ir.ranges import Range, divisor
from tilewright.ir.symbolic import ZERO, Atom, Expr, Symbol, constant
from tilewright.kernel.expr import Value


@dataclass(frozen=True, slots=True)
class Vectorized:
    """An axis of which consecutive values lie in the lanes of a vector.

    Attributes:
        axis: its name; as a symbol, the value in lane 0. ``None``: one lane only.
        facts: what is known of all symbols; the divisor of ``axis`` holds at lane 0.
        width: lanes; 1 where the axis is walked one by one, as far as it goes.
    """

    axis: str | None
    facts: Mapping[str, Range]
    width: int

    def aligned(self, start: Expr, step: int) -> Vectorized:
        """With the fact that lane 0 is ``start`` plus a multiple of ``step``."""
        if self.axis is None:
            return self
        known = math.gcd(divisor(start, self.facts), step)
        old = self.facts.get(self.axis, Range())
        return replace(self, facts={**self.facts, self.axis: Range(old.lo, old.hi, known or step)})

    def stride(self, e: Expr) -> Expr | None:
        """By how much ``e`` grows from one lane to the next, or from one value of the axis to the next where there is
        one lane; ``None`` where that is not the same everywhere."""
        if self.axis is None or self.axis not in e.symbols:
            return ZERO
        total = constant(0)
        for monomial, c in e.terms:
            moving = [(atom, power) for atom, power in monomial if self._moves(atom)]
            if not moving:
                continue
            if len(moving) > 1 or moving[0][1] != 1:
                return None
            step = self._atom_stride(moving[0][0])
            if step is None:
                return None
            rest = Expr([(tuple(x for x in monomial if x[0] != moving[0][0]), c)])
            total = total + rest * step
        return total

    def _moves(self, atom: Atom) -> bool:
        if isinstance(atom, Symbol):
            return atom.name == self.axis
        return any(self.axis in a.symbols for a in atom.args)

    def _atom_stride(self, atom: Atom) -> int | None:
        if isinstance(atom, Symbol):
            return 1
        if atom.op in ("//", "%") and atom.args[1].is_constant and self.width > 1:
            inner, size = atom.args[0], atom.args[1].value
            # Lanes stay within one piece of `size` when pieces are whole vectors and lane 0 starts a vector. A walk of
            # any length does not.
            if size % self.width == 0 and divisor(inner, self.facts) % self.width == 0 and self.stride(inner) == 1:
                return 0 if atom.op == "//" else 1
        return None


def plain_index(index: tuple[Expr | Value, ...]) -> tuple[Expr, ...]:
    """An index with 0 for the entries that are known at run time only."""
    return tuple(i if isinstance(i, Expr) else ZERO for i in index)
