"""A loop dealt out to several programs, and the last of them to arrive put to combining what they found.

``split:k`` of a schedule cuts the loop over a reduced or scanned axis into up to that many parts. Each part is a
program. It writes its accumulators to the workspace and adds one to the counter of its group; whichever arrives last
reads all of them back *in the order of the parts*, so that the result does not depend on who was last, sets the counter
to zero again and does what follows the loop. How many parts there are is an expression over the sizes: none to share
where there are programs enough without.

A workspace begins with counters, at the same place for every kernel: kernels run one after the other in it, each finds
zeros there and leaves zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.backends.cuda.functions import LANGUAGE, combine_text, literal
from tilewright.backends.cuda.merging import Merge
from tilewright.backends.cuda.positions import Frame, Positions, spread
from tilewright.backends.cuda.program import Program
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, ceildiv, maximum, minimum, product
from tilewright.ir.types import DType
from tilewright.kernel.analysis import identity
from tilewright.kernel.schedule import For, Scheduled
from tilewright.kernel.scope import trips

#: Counters at the start of every workspace, and their bytes. A group takes part only where it shares its work with
#: fewer than twice as many programs.
COUNTERS = 4096
COUNTER_BYTES = 4 * COUNTERS
#: Parts that are read ahead while others are added, and the bytes that they may take.
_AHEAD, _READ_AHEAD = 4, 48 * 1024


@dataclass(frozen=True, slots=True)
class Partial:
    """An accumulator of a split loop: what one program found of it stands in the workspace at ``offset``, in elements
    of four bytes from the start of that program's share."""

    tile: str
    dtype: DType
    frame: Frame
    offset: int
    op: str = "sum"


@dataclass(frozen=True, slots=True)
class Split:
    """A loop over ``axis`` in ``parts`` parts (an expression over dimension symbols), at most ``programs`` in all where
    there is more than one part."""

    axis: str
    parts: Expr
    programs: int


def split_of(scheduled: Scheduled, nest: Sequence[For]) -> Split | None:
    """The split that the schedule asks for, under block loops ``nest``; ``None`` where every loop stays whole.

    ``programs`` of the schedule says how many programs fill the device; ``least`` how many turns of the loop are worth
    a program of their own.
    """
    option = scheduled.schedule.option
    names = [k for k, _ in scheduled.schedule.extra if k.startswith("split:")]
    if not names:
        return None
    axis = names[0].removeprefix("split:")
    facts = dict(scheduled.kernel.facts)
    groups = maximum(1, product(trips(loop) for loop in nest))
    programs = min(int(option("programs", 256)), 2 * COUNTERS)
    loops = [x for x in scheduled.schedule.reduce if any(r.axis == x.axis for r in _siblings(scheduled, axis))]
    turns = product(ceildiv(scheduled.kernel.extent(x.axis), x.size) for x in loops)
    parts = minimum(int(option(names[0], 1)), programs // groups, turns // int(option("least", 1)))
    if bounds(parts, facts)[1] <= 1:
        return None
    return Split(axis, parts if bounds(parts, facts)[0] >= 1 else maximum(1, parts), programs)


def _siblings(scheduled: Scheduled, axis: str) -> tuple[For, ...]:
    """The loops that run as one with the loop over ``axis``."""
    found: list[For] = []

    def visit(body: Sequence[object], around: tuple[For, ...]) -> None:
        for node in body:
            if isinstance(node, For):
                inside = (*around, node) if node.kind != "block" else around
                if node.axis == axis and node.kind != "block":
                    found.extend(inside)
                visit(node.body, inside)

    visit(scheduled.body, ())
    return tuple(found)


class Arrival:
    """Spells the parts of one split: what a program's share of the loop is, and what is done after it.

    ``workspace`` is the name of the kernel's parameter.
    """

    def __init__(self, program: Program, split: Split):
        self.program, self.split = program, split
        self.lanes = 0
        fresh = program.fresh
        self.workspace, self.parts, self.part, self.share = map(fresh, ("workspace", "parts", "part", "share"))
        self.group, self.turns, self.last, self.other = map(fresh, ("group", "turns", "last", "other"))

    @property
    def at(self) -> Positions:
        return self.program.at

    @property
    def bytes(self) -> int:
        """Bytes of the workspace, counters included; known once the split is closed."""
        return COUNTER_BYTES + 4 * self.lanes * self.split.programs

    def open(self) -> None:
        """Variables for the number of this part and of its group; ``pid`` then counts groups."""
        line = self.program.line
        self.at.facts = dict(self.program.kernel.facts)
        line("pid = tl.program_id(0)")
        line(f"{self.parts} = {self.at.index(self.split.parts, ()).text}")
        line(f"{self.part} = pid % {self.parts}")
        line(f"{self.share} = pid")
        line(f"pid = pid // {self.parts}")
        line(f"{self.group} = pid")

    def cut(self, total: str) -> tuple[str, str]:
        """The first turn of this program's share of ``total`` turns, and the one after the last, as text."""
        self.program.line(f"{self.turns} = ({total} + {self.parts} - 1) // {self.parts}")
        return f"{self.part} * {self.turns}", f"tl.minimum(({self.part} + 1) * {self.turns}, {total})"

    def close(self, tiles: Sequence[tuple[str, DType, Frame, str]], merge: Merge | None) -> None:
        """Write what was found, and go on as the last to arrive; what follows is indented."""
        partials = []
        for tile, dtype, frame, op in tiles:
            partials.append(Partial(tile, dtype, frame, self.lanes, op))
            self.lanes += math.prod(self.at.lanes[d] for d in frame)
        line = self.program.line
        always = bounds(self.split.parts, dict(self.program.kernel.facts))[0] > 1
        if not always:
            line(f"{self.last} = {self.part} == 0")
            line(f"if {self.parts} > 1:")
            self.program.depth += 1
        counter = f"{self.workspace}.to(tl.pointer_type(tl.int32)) + {self.group}"
        for p in partials:
            line(f"tl.store({self._place(p, self.share)}, {p.tile}{self._mask(p)})")
        # All threads have written before the one that counts says so; what it is told is seen before any reads on.
        line("tl.debug_barrier()")
        line(f'{self.last} = tl.atomic_add({counter}, 1, sem="acq_rel", scope="gpu") == {self.parts} - 1')
        line(f"if {self.last}:")
        self.program.depth += 1
        line(f"tl.store({counter}, 0)")
        self._combine(partials, merge)
        if not always:
            self.program.depth -= 2
            line(f"if {self.last}:")
            self.program.depth += 1

    def _combine(self, partials: Sequence[Partial], merge: Merge | None) -> None:
        line = self.program.line
        for p in partials:
            start = merge.start[p.tile] if merge else identity(p.op, p.dtype).value
            line(f"{p.tile} = tl.full({self.at.shape(p.frame)}, {literal(start, p.dtype)}, tl.{LANGUAGE[p.dtype]})")
        # What is read ahead stands in shared memory: no more than every device has without asking.
        stages = max(1, min(_AHEAD, _READ_AHEAD // (4 * self.lanes)))
        line(f"for {self.other} in tl.range(0, {self.parts}, num_stages={stages}):")
        self.program.depth += 1
        for p in partials:
            place = self._place(p, f"({self.group} * {self.parts} + {self.other})")
            line(f'{p.tile}_other = tl.load({place}{self._mask(p)}, cache_modifier=".cg")')
        if merge is None:
            for p in partials:
                line(f"{p.tile} = {combine_text(p.op, p.tile, p.tile + '_other', p.dtype)}")
        else:
            for text in merge.lines({p.tile: p.frame for p in partials}):
                line(text)
        self.program.depth -= 1

    def _mask(self, p: Partial) -> str:
        """The lanes of a partial tile that are not padding: of 16 rows of which one counts, one is told."""
        masks = {x.mask: (x.dim,) for x in self.at.axes.values() if x.mask is not None and x.dim in p.frame}
        texts = [spread(mask, p.frame, tuple(d for d in dims if d)) for mask, dims in masks.items()]
        return f", mask={' & '.join(texts)}" if texts else ""

    def _place(self, p: Partial, slot: str) -> str:
        """The addresses of a partial tile in the share of program ``slot``."""
        lanes = [self.at.lanes[d] for d in p.frame]
        parts = [f"{self.workspace}.to(tl.pointer_type(tl.{LANGUAGE[p.dtype]}))"]
        parts.append(f"{slot} * {self.lanes} + {COUNTERS + p.offset}")
        for n, count in enumerate(lanes):
            text = spread(f"tl.arange(0, {count})", p.frame, (p.frame[n],))
            inner = math.prod(lanes[n + 1 :])
            parts.append(text if inner == 1 else f"{text} * {inner}")
        return " + ".join(parts)
