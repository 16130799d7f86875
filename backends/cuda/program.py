"""The text of one Triton function under construction: names, axes bound to lanes, program ids and loop heads."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from tilewright.backends.cuda.contraction import matrix_product
from tilewright.backends.cuda.definitions import DEFINITIONS
from tilewright.backends.cuda.positions import Position, Positions
from tilewright.errors import InternalError
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import product
from tilewright.kernel.schedule import Alloc, Compute, For, Scheduled, ScheduleError, Write
from tilewright.kernel.scope import Scope, trips, visit

#: Most lanes that a Triton tensor may have (``TRITON_MAX_TENSOR_NUMEL`` of Triton 3.9).
MAX_LANES = 1 << 20

_RESERVED = frozenset(["tl", "triton", "libdevice", "float", "pid", "fault", *DEFINITIONS])


class Share(Protocol):
    """What cuts the turns of a loop into parts, each for another program."""

    def cut(self, total: str) -> tuple[str, str]:
        """The first turn of this program's part of ``total`` turns, and the one after its last, as text."""
        ...


class Program:
    """Lines of a function body, and what its names mean where the next line goes.

    Attributes:
        at: where each axis stands.
        groups: axes that share one dimension, with the lanes of each.
        depth: indentation of the next line.
    """

    def __init__(self, scheduled: Scheduled):
        self.kernel = scheduled.kernel
        self.lines: list[str] = []
        self.depth = 1
        self.at = Positions()
        self.groups = _groups(scheduled)
        self._heads: list[_Head] = []
        self._guarded = {a for n, _ in visit(scheduled) if isinstance(n, Compute | Write) for a in n.guards}
        tiles = {n.tile.name for n, _ in visit(scheduled) if isinstance(n, Alloc)}
        variables = {n.var for n, _ in visit(scheduled) if isinstance(n, For)}
        names = {p.name for p in self.kernel.params} | {s for s, _ in self.kernel.facts} | tiles | variables
        if clash := sorted(names & _RESERVED):
            raise InternalError(f"{self.kernel.name}: {clash[0]} is a name of the emitted program")
        self._taken = names | {a.name for a in self.kernel.axes} | _RESERVED

    def line(self, text: str) -> None:
        """Write one line."""
        self.lines.append("    " * self.depth + text)

    def early_line(self, text: str, axes: Container[str]) -> None:
        """Write a line that depends on no more than ``axes`` and memory that no one writes: before the outermost of the
        current loops that neither binds one of them nor has a loop inside that does."""
        n = len(self._heads)
        while n and not any(a in axes for a in self._heads[n - 1].axes):
            n -= 1
        if n == len(self._heads):
            self.line(text)
            return
        at = self._heads[n].line
        self.lines.insert(at, "    " * self._heads[n].depth + text)
        for head in self._heads[n:]:
            head.line += 1

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet: ``stem``, or with a number."""
        name = stem if stem not in self._taken else next(n for i in count() if (n := f"{stem}_{i}") not in self._taken)
        self._taken.add(name)
        return name

    def refuse(self, cause: str) -> ScheduleError:
        """The error of a schedule that Triton cannot follow."""
        return ScheduleError(self.kernel.name, f"Triton: {cause}")

    # -- axes ----------------------------------------------------------------------------------------------------

    def open(self, scope: Scope, whole: Sequence[str]) -> None:
        """The lanes of groups, and the axes that no loop cuts."""
        self.at.facts = dict(scope.padded_facts())
        for group, sizes in self.groups.items():
            dim = "_".join(group)
            self.at.lanes[dim] = math.prod(sizes)
            self.line(f"{dim} = tl.arange(0, {math.prod(sizes)})")
        for axis in whole:
            self.bind(axis, scope)

    def bind(self, axis: str, scope: Scope) -> None:
        """Make ``axis`` stand for its range in ``scope``."""
        r = scope.ranges[axis]
        start = self.at.index(r.start, ()).operand
        group = next((g for g in self.groups if axis in g), None)
        if r.lanes is None or r.lanes & (r.lanes - 1):
            raise self.refuse(f"axis {axis} is taken {r.size} at a time, not a power of two (whole:{axis} pads it)")
        end = r.loops[-1].hi if r.loops else r.limit
        if r.lanes == 1:
            empty = r.ragged and axis in self._guarded and bounds(end, self.at.facts)[0] < 1
            mask = f"({start} < {self.at.index(end, ()).text})" if empty else None
            self.at.axes[axis] = Position(start, None, mask, r.start, end)
            return
        if r.lanes is not None and r.lanes > MAX_LANES:
            raise self.refuse(f"a tensor of {r.lanes} lanes")
        name = axis if axis not in self.at.axes else self.fresh(axis)
        if group is None:
            dim = name
            self.at.lanes[dim] = r.lanes
            lane = f"tl.arange(0, {r.lanes})"
        else:
            dim = "_".join(group)
            lane = _member(dim, group.index(axis), self.groups[group])
        self.line(f"{name} = {lane}" if start == "0" else f"{name} = {start} + {lane}")
        mask = None
        if r.ragged and axis in self._guarded:
            mask = self.fresh(f"{name}_in")
            self.line(f"{mask} = {name} < {self.at.index(end, ()).text}")
        self.at.axes[axis] = Position(name, dim, mask, r.start, end)

    def enter(self, loops: Sequence[For], scope: Scope) -> Scope:
        """The scope inside ``loops``."""
        for loop in loops:
            if loop.balanced:
                raise self.refuse(f"the loop over {loop.axis} is balanced; lanes are powers of two")
            scope = scope.enter(loop)
        return scope

    def settle(self, loops: Sequence[For], scope: Scope) -> None:
        """Bind the axes of ``loops``, whose variables are set, to their ranges inside."""
        self.at.facts = dict(scope.padded_facts())
        for loop in loops:
            self.bind(loop.axis, scope)

    # -- loops ---------------------------------------------------------------------------------------------------

    def head(self, many: Sequence[For], stages: int, share: Share | None = None, specialize: bool = False) -> None:
        """The ``for`` line of one loop, or of several as one; with ``share``, of this program's part of it. Without any
        ``stages`` the loop is unrolled; ``specialize``: reads and products are for warps of their own."""
        kind, ahead = ("range", f", num_stages={stages}") if stages else ("static_range", "")
        ahead += ", warp_specialize=True" if specialize else ""
        if share is not None:
            first, end = share.cut(self.at.index(product(trips(x) for x in many), ()).operand)
        self.enter_loop([x.axis for x in many])
        if len(many) == 1 and share is None:
            lo, hi = (self.at.index(e, ()).text for e in (many[0].lo, many[0].hi))
            self.line(f"for {many[0].var} in tl.{kind}({lo}, {hi}, {many[0].size}{ahead}):")
            return
        step = self.fresh("step")
        total = self.at.index(product(trips(x) for x in many), ()).text
        if share is None:
            first, end = "0", total
        self.line(f"for {step} in tl.{kind}({first}, {end}{ahead}):")
        for n, loop in enumerate(many):
            inner = product(trips(x) for x in many[n + 1 :])
            text = step if inner == 1 else f"{step} // {self.at.index(inner, ()).operand}"
            text = text if n == 0 else f"{text} % {self.at.index(trips(loop), ()).operand}"
            text = text if loop.size == 1 else f"({text}) * {loop.size}"
            lo = "" if loop.lo == 0 else f" + {self.at.index(loop.lo, ()).operand}"
            self.line(f"    {loop.var} = {text}{lo}")

    def enter_loop(self, axes: Sequence[str]) -> None:
        """The next line is the head of a loop that binds ``axes``."""
        self._heads.append(_Head(len(self.lines), self.depth, tuple(axes)))

    def leave(self) -> None:
        """The loop whose head came last is over."""
        self._heads.pop()


@dataclass(slots=True)
class _Head:
    """The head of a loop that is being written: the number of its line, how far that is indented, what it binds."""

    line: int
    depth: int
    axes: tuple[str, ...]


def _groups(scheduled: Scheduled) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Axes that a matrix product takes as one role, and so share a dimension, with the lanes of each."""
    groups: dict[tuple[str, ...], tuple[int, ...]] = {}
    for node, scope in visit(scheduled):
        found = matrix_product(node, scope) if isinstance(node, Compute) else None
        for role in (found.rows, found.columns, found.depth) if found is not None else ():
            if len(role) > 1:
                groups[role] = tuple(scope.ranges[a].lanes or 0 for a in role)
    members = [a for g in groups for a in g]
    if len(members) != len(set(members)):
        raise ScheduleError(scheduled.kernel.name, "Triton: two products gather the same axis differently")
    return groups


def _member(dim: str, n: int, sizes: tuple[int, ...]) -> str:
    """The lane of the ``n``-th axis of a group inside the lanes of the whole group (powers of two: bit fields)."""
    inner = math.prod(sizes[n + 1 :])
    text = dim if inner == 1 else f"{dim} // {inner}"
    return text if n == 0 else f"({text}) % {sizes[n]}" if inner != 1 else f"{text} % {sizes[n]}"
