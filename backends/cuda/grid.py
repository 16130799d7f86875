"""Which program computes what: tiles in the order of one linear grid, and several programs for one tile.

A tile whose reduction is *split* has ``pieces`` programs, each with an equal share of the steps; how many there are
follows from the sizes of a run, so that one kernel serves a single row and thousands. Each program leaves its sums in
the workspace and counts itself; the last to arrive adds all of them in their order, so the result is the same every
time, writes the results and clears the count for the next launch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.backends.cuda.contraction import matrix_product
from tilewright.backends.cuda.functions import LANGUAGE, SIGNATURE
from tilewright.backends.cuda.launch import Argument
from tilewright.backends.cuda.positions import parenthesized
from tilewright.backends.cuda.program import Program
from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum, minimum, product
from tilewright.ir.types import DType
from tilewright.kernel.schedule import Compute, Fill, For, Schedule
from tilewright.kernel.scope import Scope, trips

#: Entries of a schedule: at most so many programs for a tile, and no more than so many programs in all; rows of tiles
#: that are computed together across all columns.
SPLIT, SPLIT_PROGRAMS, GROUP = "split", "split_programs", "group"
#: Names that the text uses for the workspace: its counters and its sums are two views of it.
COUNTERS, SUMS = "tile_counters", "tile_sums"
_COUNTER_BYTES = 4
_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class Split:
    """A reduction that several programs share.

    Attributes:
        loop: the outermost loop of the reduction. tile, dtype, lanes: the accumulator.
        tiles, steps: of the grid and of the reduction. most, programs: as the schedule says.
    """

    loop: For
    tile: str
    dtype: DType
    lanes: int
    tiles: Expr
    steps: Expr
    most: int
    programs: int

    @property
    def each(self) -> Expr:
        """Steps of one program."""
        return ceildiv(self.steps, maximum(1, minimum(self.most, constant(self.programs) // self.tiles)))

    @property
    def pieces(self) -> Expr:
        """Programs of a tile; 1 where tiles alone are enough."""
        return ceildiv(self.steps, self.each)

    @property
    def counters(self) -> int:
        """Bytes of counters: a tile that has several programs is among the first ``programs // 2``."""
        return -(-_COUNTER_BYTES * self.programs // _ALIGNMENT) * _ALIGNMENT

    @property
    def workspace(self) -> Expr:
        """Bytes of counters and sums: those of all pieces of all tiles, none where there is one piece."""
        several = minimum(1, self.pieces - 1)
        return constant(self.counters) + several * self.tiles * self.pieces * self.lanes * (self.dtype.bits // 8)

    def arguments(self) -> tuple[Argument, ...]:
        """The two views of the workspace."""
        return (
            Argument(COUNTERS, "*i32", 16, "workspace"),
            Argument(SUMS, f"*{SIGNATURE[self.dtype]}", 16, "workspace"),
        )


def split_of(nest: Sequence[For], scope: Scope, schedule: Schedule, program: Program) -> Split | None:
    """The reduction inside the block loops ``nest`` that is split, where the schedule says so.

    Raises ``ScheduleError`` where that is not one reduction of one product, whose result is all that is then used.
    """
    most = int(schedule.option(SPLIT, 1))
    if most < 2:
        return None
    body = nest[-1].body
    loops = [node for node in body if isinstance(node, For)]
    fills = [node for node in body if isinstance(node, Fill)]
    if len(loops) != 1 or len(fills) != 1 or any(isinstance(n, Compute) for n in body[: body.index(loops[0])]):
        raise program.refuse("a split of what is not one reduction")
    inner, inside = loops[0], scope.enter(loops[0])
    steps = [trips(inner)]
    while len(inner.body) == 1 and isinstance(deeper := inner.body[0], For):
        steps.append(trips(deeper))
        inner, inside = deeper, inside.enter(deeper)
    node = inner.body[0]
    if len(inner.body) != 1 or not isinstance(node, Compute) or matrix_product(node, inside) is None:
        raise program.refuse("a split of what is not one product")
    lanes = math.prod(scope.ranges[a].lanes or 0 for a in node.axes)
    tiles = product(trips(loop) for loop in nest)
    programs = int(schedule.option(SPLIT_PROGRAMS, 1))
    return Split(loops[0], node.tile, node.value.dtype, lanes, tiles, product(steps), most, programs)


class Pieces:
    """The text of a split reduction, before its loop and after it."""

    def __init__(self, split: Split, program: Program):
        self.split, self._program, self._line = split, program, program.line
        self._each, self._count, self._piece, self._tile, self._sums, self._arrived, self._last, self._other = map(
            program.fresh, ("piece_steps", "pieces", "piece", "tile", "sums", "arrived", "is_last", "other")
        )

    def number(self) -> None:
        """Which piece of its tile a program has, from ``pid``. Programs of a tile are neighbours: they run at the same
        time."""
        tiles, steps = (self._program.at.index(e, ()).operand for e in (self.split.tiles, self.split.steps))
        share = f"tl.minimum({self.split.most}, tl.maximum({self.split.programs} // {tiles}, 1))"
        self._line(f"{self._each} = tl.cdiv({steps}, {share})")
        self._line(f"{self._count} = tl.cdiv({steps}, {self._each})")
        self._line(f"{self._piece} = pid % {self._count}")
        self._line(f"pid = pid // {self._count}")
        self._line(f"{self._tile} = pid")

    @property
    def range(self) -> tuple[str, str]:
        """The first step of a program and the one after its last."""
        first = f"{self._piece} * {self._each}"
        steps = self._program.at.index(self.split.steps, ()).operand
        return first, f"tl.minimum({first} + {self._each}, {steps})"

    def join(self, frame: Sequence[str]) -> None:
        """After the loop: what follows runs in the last program of a tile, with the sums of all pieces."""
        line, acc, lanes = self._line, self.split.tile, self.split.lanes
        shape = [self._program.at.lanes[d] for d in frame]
        offsets = []
        for n, size in enumerate(shape):
            inner = math.prod(shape[n + 1 :])
            index = ", ".join(":" if m == n else "None" for m in range(len(shape)))
            offset = f"tl.arange(0, {size})[{index}]" if len(shape) > 1 else f"tl.arange(0, {size})"
            offsets.append(offset if inner == 1 else f"{offset} * {inner}")
        first = self.split.counters // (self.split.dtype.bits // 8)
        at = f"{SUMS} + {first} + {self._tile} * {self._count} * {lanes} + ({' + '.join(offsets)})"
        line(f"{self._last} = {self._count} == 1")
        line(f"if {self._count} > 1:")
        line(f"    {self._sums} = {at}")
        line(f'    tl.store({self._sums} + {self._piece} * {lanes}, {acc}, cache_modifier=".cg")')
        line("    tl.debug_barrier()  # all threads have written their sums before one counts the program")
        line(f'    {self._arrived} = tl.atomic_add({COUNTERS} + {self._tile}, 1, sem="acq_rel")')
        line(f"    {self._last} = {self._arrived} == {self._count} - 1")
        line(f"    if {self._last}:")
        line(f"        {acc} = tl.full({self._program.at.shape(tuple(frame))}, 0, tl.{LANGUAGE[self.split.dtype]})")
        line(f"        for {self._other} in tl.range(0, {self._count}, num_stages=1):")
        line(f'            {acc} += tl.load({self._sums} + {self._other} * {lanes}, cache_modifier=".cg")')
        line(f"        tl.store({COUNTERS} + {self._tile}, 0)")
        line(f"if {self._last}:")


def order_tiles(nest: Sequence[For], scope: Scope, group: int, pieces: Pieces | None, program: Program) -> None:
    """The variables of block loops from ``pid``, the innermost loop fastest; with a ``group``, so many positions of the
    innermost loop pass by all of the next one before the following ones begin, and what they read stays in the L2."""
    at, line = program.at, program.line
    at.facts = dict(scope.facts)
    left = [loop for loop in reversed(nest) if trips(loop) != 1]
    if left or pieces is not None:
        line("pid = tl.program_id(0)")
    if pieces is not None:
        pieces.number()
    if group > 1 and len(left) > 1:
        rows, columns = left[:2]
        local, band, height = map(program.fresh, ("local", "band", "height"))
        counts = [at.index(trips(loop), ()).operand for loop in (rows, columns)]
        area = f"({counts[0]} * {counts[1]})"
        line(f"{local} = pid" if len(left) == 2 else f"{local} = pid % {area}")
        if len(left) > 2:
            line(f"pid = pid // {area}")
        line(f"{band} = {local} // ({group} * {counts[1]}) * {group}")
        line(f"{height} = tl.minimum({counts[0]} - {band}, {group})")
        line(f"{local} = {local} % ({group} * {counts[1]})")
        line(f"{rows.var} = {_scaled(f'{band} + {local} % {height}', rows.size)}")
        line(f"{columns.var} = {_scaled(f'{local} // {height}', columns.size)}")
        left = left[2:]
    for n, loop in enumerate(left):
        number = at.index(trips(loop), ()).operand
        last = n == len(left) - 1
        line(f"{loop.var} = {_scaled('pid' if last else f'pid % {number}', loop.size)}")
        if not last:
            line(f"pid = pid // {number}")


def _scaled(text: str, size: int) -> str:
    return text if size == 1 else f"{parenthesized(text)} * {size}"
