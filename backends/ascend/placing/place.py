"""From the scheduled form to the placed form: sums of products to the cube core, everything else to vector cores.

The block loops of the scheduled tree become one loop in which each group of cores takes every n-th block. A contraction
goes gm → L1 → L0 → L0C; what it made reaches a vector core through a workspace in global memory, and so does an operand
that a vector core has computed. The two vector cores of a group halve one axis of the block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tilewright.backends.ascend.memory.addresses import with_addresses
from tilewright.backends.ascend.placed.form import GROUP, GROUPS, SUBBLOCK, Buffer, Loop, Placed
from tilewright.backends.ascend.placed.form import Node as Placing
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.backends.ascend.placing.ahead import brought_ahead
from tilewright.backends.ascend.placing.frame import BLOCK_LOOP, RING, Frame, Tree, with_slots
from tilewright.backends.ascend.placing.nests import flat, index_tiles, lane_order, nests_of, tiles_used
from tilewright.backends.ascend.placing.numbers import Numbers
from tilewright.backends.ascend.placing.online import PIPELINED
from tilewright.backends.ascend.placing.operand import is_contraction
from tilewright.backends.ascend.placing.prepared import prepared_ahead
from tilewright.backends.ascend.placing.widening import bytes_of
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.errors import UnsupportedError
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, product, symbol
from tilewright.kernel.apply import defines
from tilewright.kernel.pack import packed_params
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Pack, Rotate, Scheduled, ScheduleError, Write
from tilewright.kernel.scope import AxisRange, Scope, step, trips
from tilewright.kernel.tile import Kernel, Param
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.cube import CubePart
    from tilewright.backends.ascend.placing.vector import VectorPart


#: The loop over pieces of the rows of a block that a vector core takes.
_STRIP_LOOP = "_strip"

#: In how many pieces of rows a vector core takes its half of a block, at most: few, since each costs a start.
_STRIPS = (1, 2, 4, 8, 16)


def place(scheduled: Scheduled, target: Target) -> Placed:
    """``scheduled`` in placed form, synchronised.

    Raises :class:`UnsupportedError` for what this target or this backend cannot do, :class:`ScheduleError` when a
    memory is too small for the schedule's tiles.
    """
    single: frozenset[str] = frozenset()
    inner = True
    while True:
        placed = place_unsynchronized(scheduled, target, single, inner)
        try:
            return synchronize(placed)
        except Refused as refused:
            if refused.kind != "event ids":
                raise
            # What inner loops bring in a turn ahead takes more events than what comes in its own turn.
            if inner and placed != place_unsynchronized(scheduled, target, single, inner=False):
                inner = False
                continue
            single |= {_least(placed, str(refused), refused)}


def _least(placed: Placed, message: str, refused: Refused) -> str:
    """The smallest buffer with two slots among those whose flags the hardware has too few events for."""
    vector = any(pair in message for pair in ("V->", "->V", "MTE3"))
    scopes = ("ub",) if vector else ("l1", "l0a", "l0b", "l0c")
    double = [b for b in placed.buffers if b.slots == 2 and b.scope in scopes]
    if not double:
        raise ScheduleError(placed.kernel.name, "its flags need more events than there are") from refused
    return min(double, key=lambda b: b.slot_bytes).name


def place_unsynchronized(
    scheduled: Scheduled, target: Target, single: frozenset[str] = frozenset(), inner: bool = True
) -> Placed:
    """The placed form before flags and barriers; the checker refuses it. ``single``: buffers that get one slot;
    ``inner``: whether inner loops too bring in rows a turn ahead."""
    if scheduled.schedule.option(PIPELINED, 0):
        from tilewright.backends.ascend.placing.pipelined import place_pipelined

        return place_pipelined(scheduled, target, single)
    draft = _fitted(scheduled, target, single)
    slotted = replace(draft, body=with_slots(draft.body, {b.name: b for b in draft.buffers}))
    return prepared_ahead(brought_ahead(slotted, inner))


def _tensor(param: Param, packed: Collection[str], target: Target) -> Buffer:
    """A tensor in global memory; packed integers of 4 bits as the bytes or words that they lie in."""
    dtype, per = bytes_of(param, target)
    if per == 1 or param.name not in packed:
        return Buffer(param.name, "gm", param.dtype, param.shape)
    *outer, last = param.shape
    if last.value % per == 0:
        return Buffer(param.name, "gm", dtype, (*outer, last // per))
    raise ScheduleError(param.name, f"rows of {last} integers of 4 bits are no whole {dtype}")


def _fitted(scheduled: Scheduled, target: Target, single: frozenset[str]) -> Placed:
    """The walked tree and its buffers with addresses: vector work in as few strips as keep every second slot."""
    fallback: Placed | None = None
    problem: ScheduleError | None = None
    for strips in _STRIPS:
        context = Context(scheduled, target, strips)
        context.run()
        for name in single & context.tree.buffers.keys():
            if name in context.tree.kept:
                raise ScheduleError(scheduled.kernel.name, f"its flags need more events than there are: {name}")
            context.tree.buffers[name] = replace(context.tree.buffers[name], slots=1, rotates=None)
        draft = context.draft()
        try:
            placed = with_addresses(draft, context.tree.kept)
        except ScheduleError as error:
            problem = error
        else:
            pairs = zip(draft.buffers, placed.buffers, strict=True)
            if all(before.slots == after.slots for before, after in pairs if before.scope == "ub"):
                return placed
            fallback = fallback or placed
        if not context.stripped:
            break
    if fallback is None:
        assert problem is not None
        raise problem
    return fallback


@dataclass(slots=True)
class Context:
    """The walk over the scheduled tree. ``scope`` is where it stands; ``cube_tiles`` come from contractions; ``front``
    is what comes before the blocks."""

    scheduled: Scheduled
    target: Target
    strips: int = 1
    tree: Tree = field(init=False)
    scope: Scope = field(init=False)
    blocks: Expr = field(default_factory=lambda: constant(1))
    loops: list[Placing] = field(default_factory=list)
    front: Frame = field(default_factory=lambda: Frame(""))
    block_vars: dict[str, Expr] = field(default_factory=dict)
    cube_tiles: frozenset[str] = frozenset()
    split: str | None = None
    body: Sequence[Node] = ()
    strip: Expr = ZERO
    stripped: bool = False
    fused: bool = False
    #: An axis of which only a part is looked at: its first lane there, and how many there are at most.
    window: tuple[str, int, int] | None = None

    def __post_init__(self) -> None:
        self.tree = Tree([Frame(BLOCK_LOOP)])
        self.scope = Scope.root(self.scheduled.kernel, self.scheduled.schedule)

    @property
    def ring(self) -> int:
        """Slots of an operand in L1 that comes in piece by piece."""
        return int(self.scheduled.schedule.option(RING, 2))

    def pack_of(self, tensor: str) -> Pack | None:
        """The packed layout of a constant, if the schedule gives it one."""
        return next((p for p in self.scheduled.schedule.packs if p.tensor == tensor), None)

    def draft(self) -> Placed:
        """What was walked, its buffers without addresses and its accesses without slots."""
        packed = {pack.tensor for pack in self.scheduled.schedule.packs}
        tensors = [_tensor(p, packed, self.target) for p in packed_params(self.scheduled)]
        buffers = {b.name: b for b in (*tensors, *self.tree.buffers.values())}
        return Placed(self.scheduled.kernel, self.target, tuple(buffers.values()), tuple(self.loops), self.blocks)

    # -- ranges --------------------------------------------------------------------------------------------------

    def expr(self, e: Expr) -> Expr:
        """``e`` with block variables in terms of the block number."""
        return e.substitute(self.block_vars)

    def lanes(self, axis: str) -> int:
        """Allocated lanes of ``axis`` on a cube core."""
        if self.window is not None and axis == self.window[0]:
            return self.window[2]
        r = self.scope.ranges[axis]
        high = r.size.value if r.size.is_constant else bounds(r.size, self.scope.facts)[1]
        if high > 1 << 20:
            raise ScheduleError(self.scheduled.kernel.name, f"axis {axis} is taken whole and has no small bound")
        return min(high, max(1, bounds(r.limit - r.start, self.scope.facts)[1]))

    def share(self) -> int:
        """Lanes of the split axis that one vector core takes."""
        if self.split is None:
            raise ScheduleError(self.scheduled.kernel.name, "no axis that the two vector cores of a group could halve")
        lanes = self.lanes(self.split)
        half = -(-lanes // max(1, int(self.target.extra["subblocks"])))
        return min(lanes, round_up(half, 8))

    def piece(self) -> int:
        """Lanes of the split axis that a vector core takes at a time."""
        share = self.share()
        return min(share, round_up(-(-share // self.strips), 16 if self.fused else 8)) if self.stripped else share

    def vector_lanes(self, axis: str) -> int:
        """Allocated lanes of ``axis`` on a vector core."""
        return self.piece() if axis == self.split else self.lanes(axis)

    def vector_offset(self) -> Expr:
        """How many lanes of the split axis come before those that a vector core works on."""
        return self.strip if self.fused else SUBBLOCK * self.share() + self.strip

    def start(self, axis: str, vector: bool = False) -> Expr:
        """Index of the first lane."""
        start = self.expr(self.scope.ranges[axis].start)
        if self.window is not None and axis == self.window[0]:
            start = start + self.window[1]
        return start + self.vector_offset() if vector and axis == self.split else start

    def count(self, axis: str, vector: bool = False) -> Expr:
        """How many lanes are not padding."""
        r = self.scope.ranges[axis]
        valid = self.expr(r.limit - r.start) if not r.ragged else self.expr(_valid(r))
        if self.window is not None and axis == self.window[0]:
            return maximum(0, minimum(self.window[2], valid - self.window[1]))
        if vector and axis == self.split:
            share, piece = self.share(), self.piece()
            most: Expr = constant(piece) if share % piece == 0 else minimum(piece, share - self.strip)
            return maximum(0, minimum(most, valid - self.vector_offset()))
        return valid

    @contextmanager
    def within(self, window: tuple[str, int, int] | None) -> Iterator[None]:
        """A look at a part of an axis."""
        before, self.window = self.window, window
        yield
        self.window = before

    def wide(self, axes: Sequence[str]) -> tuple[str, ...]:
        """Those of ``axes`` that have more than one lane here."""
        return tuple(a for a in axes if self.lanes(a) > 1)

    # -- the walk ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        from tilewright.backends.ascend.placing.cube import CubePart
        from tilewright.backends.ascend.placing.vector import VectorPart

        kernel = self.scheduled.kernel
        for axis in kernel.axes:
            if axis.name in _never_cut(self.scheduled.body) and bounds(axis.extent, dict(kernel.facts))[0] < 1:
                raise UnsupportedError(
                    "ascend-empty",
                    where=f"kernel {kernel.name} on {self.target.spelling}",
                    cause=f"axis {axis.name}, which is reduced or taken whole, may be empty",
                    fix="give the sizes of the inputs a lower bound of 1, or run this kernel on the host",
                )
        nests = nests_of(self.scheduled.body, kernel.name)
        self.cube_tiles = frozenset(_contractions(self.scheduled.body))
        if self.scheduled.schedule.packs and not self.cube_tiles:
            raise UnsupportedError(
                "ascend-packed",
                where=f"kernel {kernel.name} on {self.target.spelling}",
                cause="an operand of its product is a difference or another value of several, not the cube unit's",
                fix="run this kernel on the host",
            )
        self.fused = "split" not in self.target.features
        self.tree.fused = self.fused
        if self.cube_tiles and len(nests) > 1:
            raise UnsupportedError(
                "ascend-block-nest",
                where=f"kernel {kernel.name}",
                cause="outputs of a product stand under different block loops",
                fix="schedule the kernel with one nest of block loops",
            )
        vector = VectorPart(self)
        cube = CubePart(self, vector)
        vector.cube = cube
        made = {d.tile: d for d in defines(kernel)}
        groups: list[Expr] = []
        for nest, body in nests:
            var = self.tree.variable(BLOCK_LOOP)
            self.tree.frames, self.front = [Frame(var)], Frame("")
            self._enter(nest, var)
            self.body = body
            if self.cube_tiles:
                self.split = self._split_axis(body)
            vector.order = lane_order(kernel, body, self.lanes) if not self.cube_tiles else _axes(kernel)
            vector.numbers = Numbers(self.scope.facts, made)
            vector.indices = index_tiles(body)
            self._body(body, cube, vector)
            vector.tiles.clear()
            groups.append(self._close(var))
        self.blocks = maximum(*groups) if len(groups) > 1 else groups[0]

    def _close(self, var: str) -> Expr:
        """The loop over the blocks of a nest; how many groups of cores have work. Without a cube core each vector core
        takes blocks of its own."""
        cores = max(1, int(self.target.extra["subblocks"])) if not self.cube_tiles else 1
        first = GROUP * cores + SUBBLOCK if cores > 1 else GROUP
        nodes = tuple(self.tree.frames[0].nodes)
        self.loops += [*self.front.nodes, Loop(var, first, self.blocks, GROUPS * cores, nodes)]
        return ceildiv(self.blocks, cores)

    def _epilogue(self, body: Sequence[Node]) -> tuple[Sequence[Node], Sequence[Node]]:
        """What vector cores do with finished sums, apart, where all of it comes after all sums and splits into rows."""
        first = 1 + max((n for n, node in enumerate(body) if self.cube_tiles & _made([node])), default=-1)
        inner = flat(body[:first])
        early = [n for n in inner if isinstance(n, Write) or _fills(n, self.cube_tiles)]
        if not first or early or self.split is None or any(isinstance(n, For | Rotate) for n in body[first:]):
            return body, ()
        return body[:first], body[first:]

    def _strips(self, body: Sequence[Node], cube: CubePart, vector: VectorPart) -> None:
        """The rows of a vector core in pieces."""
        self.stripped = True
        frame = Frame(_STRIP_LOOP)
        self.tree.frames.append(frame)
        whole = self.count(str(self.split))
        self.strip = symbol(_STRIP_LOOP) if self.piece() < self.share() else ZERO
        self._nodes(body, (), cube, vector)
        self.tree.frames.pop()
        rows = minimum(self.share(), whole)
        if frame.nodes and self.piece() < self.share():
            self.tree.top.nodes.append(Loop(_STRIP_LOOP, ZERO, rows, constant(self.piece()), tuple(frame.nodes)))
        else:
            self._without_loop(frame)
        self.stripped = bool(frame.nodes)

    def _without_loop(self, frame: Frame) -> None:
        """One piece needs no loop: what rotates with it rotates with the loop around."""
        around = self.tree.top
        around.nodes += frame.nodes
        for name, b in self.tree.buffers.items():
            if b.rotates == _STRIP_LOOP:
                self.tree.buffers[name] = replace(b, rotates=around.var)

    def _enter(self, nest: Sequence[For], var: str) -> None:
        """Enter a nest of block loops: one loop over block numbers, each variable in terms of it."""
        self.scope = Scope.root(self.scheduled.kernel, self.scheduled.schedule)
        self.block_vars = {}
        counts = [trips(loop) for loop in nest]
        number: Expr = symbol(var)
        for n, loop in enumerate(nest):
            self.scope = self.scope.enter(loop)
            turn = number // product(counts[n + 1 :])
            turn = turn % counts[n] if n else turn
            self.block_vars[loop.var] = loop.lo + turn * step(loop)
        self.blocks = product(counts)

    def _split_axis(self, body: Sequence[Node]) -> str | None:
        """The first axis with lanes that every result has and that no vector core reduces."""
        reduced: set[str] = set()
        written: list[tuple[str, ...]] = []
        for node in flat(body):
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
        head, tail = self._epilogue(body)
        self._nodes(head, tail, cube, vector)
        if tail:
            self._strips(tail, cube, vector)
        self.scope = outer

    def _nodes(self, body: Sequence[Node], later: Sequence[Node], cube: CubePart, vector: VectorPart) -> None:
        """Place ``body``; ``later`` comes behind it in the same scope."""
        for n, raw in enumerate(body):
            node = raw
            vector.later = tiles_used(flat([*body[n + 1 :], *later]))
            if isinstance(raw, Compute | Write) and not _sums(raw, self.cube_tiles):
                node = replace(raw, value=cube.rewritten(raw.value))
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
            vector.release(node, tiles_used(flat([*body[n + 1 :], *later])))

    def _loop(self, node: For, cube: CubePart, vector: VectorPart) -> None:
        if node.kind == "block":
            raise UnsupportedError(
                "ascend-block-nest",
                where=f"kernel {self.scheduled.kernel.name}",
                cause=f"block loop {node.var} does not belong to one perfect nest",
                fix="schedule the kernel with one nest of block loops",
            )
        frame = Frame(node.var, lo=self.expr(node.lo), trips=self.expr(trips(node)))
        self.tree.frames.append(frame)
        outer, self.scope = self.scope, self.scope.enter(node)
        self._body(node.body, cube, vector)
        self.scope = outer
        self.tree.frames.pop()
        loop = Loop(node.var, self.expr(node.lo), self.expr(node.hi), self.expr(step(node)), tuple(frame.nodes))
        self.tree.top.nodes.append(loop)


def _never_cut(body: Sequence[Node]) -> set[str]:
    """Axes of what is computed that no block loop goes along: where one of those that do is empty nothing runs."""
    found: set[str] = set()

    def visit(nodes: Sequence[Node], cut: frozenset[str]) -> None:
        for node in nodes:
            match node:
                case For():
                    visit(node.body, cut | {node.axis} if node.kind == "block" else cut)
                case Compute():
                    found.update(set(node.axes) - cut, node.reduce.axes if node.reduce is not None else ())
                case Write():
                    found.update(set(node.axes) - cut)

    visit(body, frozenset())
    return found


def _valid(r: AxisRange) -> Expr:
    """Lanes before the limit, written so that the loop variable occurs once."""
    if r.loops and r.limit != r.loops[-1].hi:
        return minimum(step(r.loops[-1]), r.loops[-1].hi - r.start)
    return r.limit - r.start


def _sums(node: Compute | Write, tiles: frozenset[str]) -> bool:
    """Whether the cube core computes ``node``."""
    return isinstance(node, Compute) and node.tile in tiles


def _fills(node: Node, tiles: frozenset[str]) -> bool:
    """Whether a vector core makes something in ``node``."""
    return isinstance(node, Compute | Fill) and node.tile not in tiles


def _made(body: Sequence[Node]) -> set[str]:
    return {n.tile for n in flat(body) if isinstance(n, Compute)}


def _axes(kernel: Kernel) -> tuple[str, ...]:
    return tuple(a.name for a in kernel.axes)


def _contractions(body: Sequence[Node]) -> set[str]:
    return {n.tile for n in flat(body) if isinstance(n, Compute) and is_contraction(n)}
