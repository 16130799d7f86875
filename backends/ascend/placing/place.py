"""From the scheduled form to the placed form: sums of products to the cube core, everything else to vector cores.

The block loops of the scheduled tree become one loop in which each group of cores takes every n-th block. A contraction
goes gm → L1 → L0 → L0C; what it made reaches a vector core through a workspace in global memory, and so does an operand
that a vector core has computed. The two vector cores of a group halve one axis of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import GROUP, GROUPS, SUBBLOCK, Buffer, Loop, Placed
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.backends.ascend.placing.frame import BLOCK_LOOP, Frame, Tree, assign_addresses, with_slots
from tilewright.backends.ascend.placing.operand import is_contraction
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.errors import UnsupportedError
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant, maximum, minimum, product, symbol
from tilewright.kernel.analysis import refs_of
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Rotate, Scheduled, ScheduleError, Write
from tilewright.kernel.scope import AxisRange, Scope, step, trips
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.cube import CubePart
    from tilewright.backends.ascend.placing.vector import VectorPart


def place(scheduled: Scheduled, target: Target) -> Placed:
    """``scheduled`` in placed form, synchronised.

    Raises :class:`UnsupportedError` for what this target or this backend cannot do, :class:`ScheduleError` when a
    memory is too small for the schedule's tiles.
    """
    placed = place_unsynchronized(scheduled, target)
    return synchronize(placed)


def place_unsynchronized(scheduled: Scheduled, target: Target) -> Placed:
    """The placed form before flags and barriers; the checker refuses it."""
    if scheduled.schedule.packs:
        raise UnsupportedError(
            "ascend-packed",
            where=f"kernel {scheduled.kernel.name} on {target.spelling}",
            cause="packed constants are not placed",
            fix="use a schedule without packs",
        )
    context = Context(scheduled, target)
    context.run()
    kernel = scheduled.kernel
    tensors = [Buffer(p.name, "gm", p.dtype, p.shape) for p in kernel.params]
    local = assign_addresses(kernel.name, context.tree.buffers.values(), target)
    buffers = {b.name: b for b in (*tensors, *local.values())}
    block = Loop(BLOCK_LOOP, GROUP, context.blocks, GROUPS, tuple(context.tree.frames[0].nodes))
    return Placed(kernel, target, tuple(buffers.values()), with_slots([block], buffers), context.blocks)


@dataclass(slots=True)
class Context:
    """The walk over the scheduled tree. ``scope`` is where it stands; ``cube_tiles`` come from contractions."""

    scheduled: Scheduled
    target: Target
    tree: Tree = field(init=False)
    scope: Scope = field(init=False)
    blocks: Expr = field(default_factory=lambda: constant(1))
    block_vars: dict[str, Expr] = field(default_factory=dict)
    cube_tiles: frozenset[str] = frozenset()
    split: str | None = None

    def __post_init__(self) -> None:
        self.tree = Tree([Frame(BLOCK_LOOP)])
        self.scope = Scope.root(self.scheduled.kernel, self.scheduled.schedule)

    # -- ranges --------------------------------------------------------------------------------------------------

    def expr(self, e: Expr) -> Expr:
        """``e`` with block variables in terms of the block number."""
        return e.substitute(self.block_vars)

    def lanes(self, axis: str) -> int:
        """Allocated lanes of ``axis`` on a cube core."""
        r = self.scope.ranges[axis]
        high = r.size.value if r.size.is_constant else bounds(r.size, self.scope.facts)[1]
        if high > 1 << 20:
            raise ScheduleError(self.scheduled.kernel.name, f"axis {axis} is taken whole and has no small bound")
        return min(high, max(1, bounds(r.limit - r.start, self.scope.facts)[1]))

    def share(self) -> int:
        """Lanes of the split axis that one vector core takes."""
        assert self.split is not None
        lanes = self.lanes(self.split)
        half = -(-lanes // max(1, int(self.target.extra["subblocks"])))
        return min(lanes, round_up(half, 8))

    def vector_lanes(self, axis: str) -> int:
        """Allocated lanes of ``axis`` on a vector core."""
        return self.share() if axis == self.split else self.lanes(axis)

    def start(self, axis: str, vector: bool = False) -> Expr:
        """Index of the first lane."""
        start = self.expr(self.scope.ranges[axis].start)
        return start + SUBBLOCK * self.share() if vector and axis == self.split else start

    def count(self, axis: str, vector: bool = False) -> Expr:
        """How many lanes are not padding."""
        r = self.scope.ranges[axis]
        valid = self.expr(r.limit - r.start) if not r.ragged else self.expr(_valid(r))
        if vector and axis == self.split:
            return maximum(0, minimum(self.share(), valid - SUBBLOCK * self.share()))
        return valid

    def wide(self, axes: Sequence[str]) -> tuple[str, ...]:
        """Those of ``axes`` that have more than one lane here."""
        return tuple(a for a in axes if self.lanes(a) > 1)

    # -- the walk ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        from tilewright.backends.ascend.placing.cube import CubePart
        from tilewright.backends.ascend.placing.vector import VectorPart

        body = self._blocks(self.scheduled.body)
        self.cube_tiles = frozenset(_contractions(body))
        if self.cube_tiles and "split" not in self.target.features:
            raise UnsupportedError(
                "ascend-fused-core",
                where=f"kernel {self.scheduled.kernel.name} on {self.target.spelling}",
                cause="the way from L0C through the unified buffer of a fused core is not placed yet",
                fix="compile this kernel for a 910B target or run it on the host",
            )
        if int(self.target.extra["subblocks"]) > 1:
            self.split = self._split_axis(body)
            if self.split is None:
                raise ScheduleError(
                    self.scheduled.kernel.name, "no axis that the two vector cores of a group could halve"
                )
        vector = VectorPart(self)
        cube = CubePart(self, vector)
        vector.cube = cube
        self._body(body, cube, vector)

    def _blocks(self, body: Sequence[Node]) -> Sequence[Node]:
        """Enter the nest of block loops: one loop over block numbers, each variable in terms of it."""
        nest: list[For] = []
        while len(body) == 1 and isinstance(body[0], For) and body[0].kind == "block":
            nest.append(body[0])
            self.scope = self.scope.enter(body[0])
            body = body[0].body
        counts = [trips(loop) for loop in nest]
        number: Expr = symbol(BLOCK_LOOP)
        for n, loop in enumerate(nest):
            turn = number // product(counts[n + 1 :])
            turn = turn % counts[n] if n else turn
            self.block_vars[loop.var] = loop.lo + turn * step(loop)
        self.blocks = product(counts)
        return body

    def _split_axis(self, body: Sequence[Node]) -> str | None:
        """The first axis with lanes that every result has and that no vector core reduces."""
        reduced: set[str] = set()
        written: list[tuple[str, ...]] = []
        for node in _flat(body):
            if isinstance(node, Compute) and node.reduce is not None and node.tile not in self.cube_tiles:
                reduced |= set(node.reduce.axes)
            if isinstance(node, Write):
                written.append(node.axes)
        for axis in written[0] if written else ():
            if self.lanes(axis) > 1 and axis not in reduced and all(axis in axes for axes in written):
                return axis
        return None

    def _body(self, body: Sequence[Node], cube: CubePart, vector: VectorPart) -> None:
        outer = self.scope
        for n, node in enumerate(body):
            match node:
                case For():
                    self._loop(node, cube, vector)
                case Alloc():
                    pass
                case Fill() if node.tile not in self.cube_tiles:
                    vector.fill(node)
                case Compute() if node.tile in self.cube_tiles:
                    cube.contract(node)
                case Compute():
                    vector.compute(node)
                case Write():
                    if not cube.write(node):
                        vector.write(node)
                case Rotate():
                    vector.rotate(node)
            self.scope = self.scope.after(node)
            vector.release(node, _used(body[n + 1 :]))
        self.scope = outer

    def _loop(self, node: For, cube: CubePart, vector: VectorPart) -> None:
        if node.kind == "block":
            raise UnsupportedError(
                "ascend-block-nest",
                where=f"kernel {self.scheduled.kernel.name}",
                cause=f"block loop {node.var} does not belong to one perfect nest",
                fix="schedule the kernel with one nest of block loops",
            )
        frame = Frame(node.var)
        self.tree.frames.append(frame)
        outer, self.scope = self.scope, self.scope.enter(node)
        self._body(node.body, cube, vector)
        self.scope = outer
        self.tree.frames.pop()
        loop = Loop(node.var, self.expr(node.lo), self.expr(node.hi), self.expr(step(node)), tuple(frame.nodes))
        self.tree.top.nodes.append(loop)


def _valid(r: AxisRange) -> Expr:
    """Lanes before the limit, written so that the loop variable occurs once."""
    if r.loops and r.limit != r.loops[-1].hi:
        return minimum(step(r.loops[-1]), r.loops[-1].hi - r.start)
    return r.limit - r.start


def _flat(body: Sequence[Node]) -> list[Node]:
    result: list[Node] = []
    for node in body:
        result += _flat(node.body) if isinstance(node, For) else [node]
    return result


def _contractions(body: Sequence[Node]) -> set[str]:
    return {n.tile for n in _flat(body) if isinstance(n, Compute) and is_contraction(n)}


def _used(body: Sequence[Node]) -> set[str]:
    """Tiles that ``body`` still reads or adds to."""
    names: set[str] = set()
    for node in _flat(body):
        match node:
            case Compute():
                names |= {r.tile for r in refs_of(node.value)} | ({node.tile} if node.accumulate else set())
            case Write():
                names |= {r.tile for r in refs_of(node.value)}
            case Rotate():
                names |= {t for pair in node.pairs for t in pair}
    return names
