"""Where a node of a scheduled tree stands: the range of each axis, the tiles that exist, what is known of symbols."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tilewright.ir.ranges import Range, bounds, divisor
from tilewright.ir.symbolic import ZERO, Expr, as_expr, ceildiv, constant, minimum, symbol
from tilewright.kernel.schedule import Alloc, For, Node, Schedule, Scheduled, ScheduleError, Tile
from tilewright.kernel.tile import Kernel


@dataclass(frozen=True, slots=True)
class AxisRange:
    """The lanes ``start … start + size - 1`` of an axis; those at or beyond ``limit`` are padding.

    ``ragged`` is False where there is provably none. ``loops`` are the loops around that cut this axis, outermost
    first.
    """

    start: Expr
    size: Expr
    limit: Expr
    ragged: bool = False
    loops: tuple[For, ...] = ()

    @property
    def lanes(self) -> int | None:
        """Number of lanes when it is a constant."""
        return self.size.value if self.size.is_constant else None


def step(loop: For) -> Expr:
    """By how much the variable of ``loop`` advances: ``size``, or the evened-out piece of a balanced loop."""
    if not loop.balanced:
        return constant(loop.size)
    piece = ceildiv(loop.hi - loop.lo, trips(loop))
    return piece if loop.unit == 1 else ceildiv(piece, loop.unit) * loop.unit


def trips(loop: For) -> Expr:
    """How many iterations ``loop`` has; the extent is taken to be positive where the loop is balanced."""
    return ceildiv(loop.hi - loop.lo, loop.size)


@dataclass(frozen=True, slots=True)
class Scope:
    """What holds at one place of a scheduled tree. Immutable: :meth:`enter` and :meth:`declare` give the inner one."""

    kernel: Kernel
    ranges: Mapping[str, AxisRange]
    facts: Mapping[str, Range]
    loops: tuple[For, ...] = ()
    tiles: Mapping[str, Tile] = field(default_factory=dict)

    @staticmethod
    def root(kernel: Kernel, schedule: Schedule) -> Scope:
        """Outside all loops. Raises :class:`ScheduleError` when a ``whole:`` entry is smaller than its axis may be."""
        facts = dict(kernel.facts)
        wholes = {k.removeprefix("whole:"): v for k, v in schedule.extra if k.startswith("whole:")}
        ranges: dict[str, AxisRange] = {}
        for axis in kernel.axes:
            size, ragged = axis.extent, False
            if axis.name in wholes:
                size = constant(int(wholes[axis.name]))
                ragged = size != axis.extent
                if bounds(axis.extent, facts)[1] > size.value:
                    raise ScheduleError(kernel.name, f"axis {axis.name} may be longer than whole:{axis.name} = {size}")
            ranges[axis.name] = AxisRange(ZERO, size, axis.extent, ragged)
        for axis in kernel.axes:
            facts[axis.name] = Range(0, max(0, bounds(axis.extent, facts)[1] - 1))
        return Scope(kernel, ranges, facts)

    def cut(self, axis: str) -> tuple[Expr, Expr]:
        """The ``lo`` and ``hi`` of a loop over ``axis`` opened here."""
        r = self.ranges[axis]
        return r.start, r.limit

    def enter(self, loop: For) -> Scope:
        """The scope of the body of ``loop``."""
        outer = self.ranges[loop.axis]
        n = loop.hi - loop.lo
        single = bounds(n, self.facts)[1] <= loop.size or bounds(outer.size, self.facts)[1] <= loop.size
        exact = divisor(n, self.facts) % loop.size == 0
        start = loop.lo if single else symbol(loop.var)
        if exact:
            limit = start + loop.size
        else:
            limit = loop.hi if single else minimum(start + step(loop), loop.hi)
        inner = AxisRange(start, constant(loop.size), limit, not exact, (*outer.loops, loop))
        facts = {**self.facts, loop.var: self._variable(loop)}
        return replace(self, ranges={**self.ranges, loop.axis: inner}, facts=facts, loops=(*self.loops, loop))

    def _variable(self, loop: For) -> Range:
        lo, hi = bounds(loop.lo, self.facts)[0], bounds(loop.hi, self.facts)[1] - 1
        if loop.balanced and divisor(loop.hi - loop.lo, self.facts) % loop.size:
            return Range(lo, max(lo, hi), math.gcd(loop.unit, divisor(loop.lo, self.facts)))
        multiple = math.gcd(loop.size, divisor(loop.lo, self.facts))
        return Range(lo, max(lo, hi // multiple * multiple), multiple)

    def declare(self, tile: Tile) -> Scope:
        """The scope after the :class:`Alloc` of ``tile``."""
        return replace(self, tiles={**self.tiles, tile.name: tile})

    def after(self, node: Node) -> Scope:
        """The scope of the statement that follows ``node`` in its body."""
        return self.declare(node.tile) if isinstance(node, Alloc) else self

    def ragged(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Those of ``axes`` that may have padded lanes here."""
        return tuple(a for a in axes if self.ranges[a].ragged)

    def padded_facts(self) -> Mapping[str, Range]:
        """Facts in which each axis runs over all its lanes, padding included."""
        facts = dict(self.facts)
        for name, r in self.ranges.items():
            lo, hi = bounds(r.start, self.facts)[0], bounds(r.start + r.size - 1, self.facts)[1]
            facts[name] = Range(lo, max(lo, hi))
        return facts

    def covers(self, tile: Tile, axis: str) -> bool:
        """Whether all current lanes of ``axis`` provably lie inside ``tile``."""
        r = self.ranges[axis]
        dim = next(d for d in tile.dims if d.axis == axis)
        if bounds(r.start + r.size - dim.start - dim.size, self.facts)[1] <= 0:
            return True
        sizes = [as_expr(loop.size) for loop in r.loops]
        starts = [loop.lo for loop in r.loops]
        if dim.start in starts and dim.size.is_constant:
            # Pieces that divide the tile evenly never reach over its end.
            inner = [dim.size, *sizes[starts.index(dim.start) :]]
            return all(a.value % b.value == 0 for a, b in pairwise(inner))
        return False


def visit(scheduled: Scheduled) -> Iterator[tuple[Node, Scope]]:
    """Every node of a tree with its scope, in program order; a loop comes before its body."""
    yield from _visit(scheduled.body, Scope.root(scheduled.kernel, scheduled.schedule))


def _visit(body: Iterable[Node], scope: Scope) -> Iterator[tuple[Node, Scope]]:
    for node in body:
        yield node, scope
        if isinstance(node, For):
            yield from _visit(node.body, scope.enter(node))
        scope = scope.after(node)
