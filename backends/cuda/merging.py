"""How what several programs found of one scan becomes what one would have: the algebra of a running maximum.

Attention carries the largest score, and sums of exponentials relative to it. Nothing here knows names: a scan is such
where one carry starts at -∞ and becomes the maximum of itself and something, and every other starts at 0 and becomes
itself times ``exp(before - after)`` plus a piece, whose only dependence on carries is a factor ``exp(s - after)``.
Such pieces of the axis combine by the same rule in any order, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tilewright.backends.cuda.positions import Frame, spread
from tilewright.kernel.analysis import refs_of
from tilewright.kernel.expr import Binary, Cast, Const, Ref, Select, Unary, Value
from tilewright.kernel.tile import Define, Scan


@dataclass(frozen=True, slots=True)
class Merge:
    """``top`` is the running maximum, ``sums`` what is relative to it, ``start`` what each carry starts at."""

    top: str
    sums: tuple[str, ...]
    start: Mapping[str, float]

    def lines(self, frames: Mapping[str, Frame]) -> Iterator[str]:
        """Text that takes ``<carry>_other`` into each carry; ``frames`` are the dimensions of each."""
        rows = frames[self.top]
        yield f"{self.top}_both = tl.maximum({self.top}, {self.top}_other, propagate_nan=tl.PropagateNan.ALL)"
        yield f'{self.top}_base = tl.where({self.top}_both == float("-inf"), 0.0, {self.top}_both)'
        yield f"{self.top}_shrink = tl.exp({self.top} - {self.top}_base)"
        yield f"{self.top}_grow = tl.exp({self.top}_other - {self.top}_base)"
        for carry in self.sums:
            shrink, grow = (spread(f"{self.top}_{x}", frames[carry], rows) for x in ("shrink", "grow"))
            yield f"{carry} = {carry} * {shrink} + {carry}_other * {grow}"
        yield f"{self.top} = {self.top}_both"


def merge_of(scan: Scan) -> Merge | None:
    """How parts of ``scan`` combine; ``None`` where it is no such scan."""
    made = {d.tile: d for d in scan.body}
    tops = [c for c in scan.carries if c.init.value == -math.inf]
    others = [c for c in scan.carries if c.init.value == 0]
    if len(tops) != 1 or len(others) != len(scan.carries) - 1:
        return None
    top, yields = tops[0].tile, dict(scan.yields)
    carries = {c.tile for c in scan.carries}
    reader = _Reader(made, top, yields[top], carries)
    if not reader.is_running_maximum() or not all(reader.is_relative(c.tile, yields[c.tile]) for c in others):
        return None
    if any(tuple(c.axes[: len(tops[0].axes)]) != tops[0].axes for c in others):
        return None
    return Merge(top, tuple(c.tile for c in others), {c.tile: float(c.init.value) for c in scan.carries})


@dataclass(frozen=True, slots=True)
class _Reader:
    """Questions about the statements of a scan: ``after`` is the tile that the maximum ``top`` becomes."""

    made: Mapping[str, Define]
    top: str
    after: str
    carries: set[str]

    def is_running_maximum(self) -> bool:
        """Whether the new maximum is that of the old one and of scores in which no carry is."""
        value = self.made[self.after].value
        if not isinstance(value, Binary) or value.op != "max" or self.made[self.after].reduce is not None:
            return False
        sides = [v.tile for v in (value.a, value.b) if isinstance(v, Ref)]
        others = [t for t in sides if t != self.top]
        return len(sides) == 2 and len(others) == 1 and self._is_free(others[0])

    def is_relative(self, carry: str, becomes: str) -> bool:
        """Whether ``carry`` becomes ``carry * exp(before - after) + piece`` with a piece relative to ``after``."""
        value = self.made[becomes].value
        if not isinstance(value, Binary) or value.op != "add" or self.made[becomes].reduce is not None:
            return False
        for kept, piece in ((value.a, value.b), (value.b, value.a)):
            if isinstance(kept, Binary) and kept.op == "mul":
                factors = {v.tile for v in (kept.a, kept.b) if isinstance(v, Ref)}
                rest = factors - {carry}
                if len(factors) == 2 and len(rest) == 1 and self._is_shrink(rest.pop()) and self._scales(piece):
                    return True
        return False

    def _is_shrink(self, tile: str) -> bool:
        d = self.made.get(tile)
        return d is not None and d.reduce is None and self._exponential(d.value, lambda v: self._is_ref(v, self.top))

    def _exponential(self, value: Value, of: object) -> bool:
        """Whether ``value`` is ``exp(x - after)`` with ``of(x)``."""
        if not (isinstance(value, Unary) and value.op == "exp" and isinstance(value.x, Binary) and value.x.op == "sub"):
            return False
        assert callable(of)
        return self._is_after(value.x.b) and bool(of(value.x.a))

    def _is_after(self, value: Value) -> bool:
        """The new maximum, or 0 in its place where it is -∞."""
        if self._is_ref(value, self.after):
            return True
        if isinstance(value, Ref) and value.tile in self.made and self.made[value.tile].reduce is None:
            return self._is_after(self.made[value.tile].value)
        return (
            isinstance(value, Select)
            and isinstance(value.cond, Binary)
            and value.cond.op == "eq"
            and self._is_ref(value.cond.a, self.after)
            and isinstance(value.cond.b, Const)
            and value.cond.b.value == -math.inf
            and isinstance(value.a, Const)
            and value.a.value == 0
            and self._is_ref(value.b, self.after)
        )

    def _scales(self, value: Value) -> bool:
        """Whether ``value`` is a sum of terms with just one factor ``exp(s - after)`` and no other carry in them."""
        match value:
            case Cast(x=x):
                return x.dtype.is_float and value.dtype.is_float and self._scales(x)
            case Binary(op="mul", a=a, b=b):
                return (self._scales(a) and self._is_free_value(b)) or (self._scales(b) and self._is_free_value(a))
            case Ref(tile=tile) if tile in self.made:
                d = self.made[tile]
                return (d.reduce is None or d.reduce.op == "sum") and self._scales(d.value)
        return self._exponential(value, self._is_free_value)

    def _is_free_value(self, value: Value) -> bool:
        """Whether no carry is in ``value``."""
        return all(self._is_free(r.tile) for r in refs_of(value))

    def _is_free(self, tile: str) -> bool:
        if tile in self.carries:
            return False
        return tile not in self.made or self._is_free_value(self.made[tile].value)

    @staticmethod
    def _is_ref(value: object, tile: str) -> bool:
        return isinstance(value, Ref) and value.tile == tile
