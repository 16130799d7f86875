"""How many cycles the cube cores take for a product with a tiling, before anything is placed: pipes as in-order queues.

The same numbers as :mod:`tilewright.backends.ascend.simulator.timing` goes by, without its statements: a piece of both
operands into L1, steps of them into L0, products, and sums on their way out, each behind what it waits for. The scalar
unit issues in order and stands where the cube unit's queue is full. Blocks beyond the third round take what that takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tilewright.backends.ascend.placed.layout import FRACTAL, round_up, square
from tilewright.target import Target

#: Products a cycle of the cube unit, of 16 bits; i8 has twice as many.
RATE = 4096
#: Rounds of blocks that are gone through.
_ROUNDS = 3
#: Cycles until a core has issued the first transfers.
_ISSUE = 55
#: Statements of the cube unit for each product: what is waited for, the product, what is told; one more for each pane,
#: which may be the last of its sum.
_STATEMENTS = 4


@dataclass(frozen=True, slots=True)
class Tiling:
    """``rows × columns`` sums at a time, in blocks of ``width`` columns, over which the rows stay in L1 where that is
    more than ``columns``. ``depth`` lanes of the reduced axis come into L1 at a time, into one of ``ring`` slots;
    ``panes`` of the rows lie in slots of L0C of their own, and so do ``lead`` rows that come before the columns;
    ``height``: rows of a pane that is higher than its share, so that the first one is lower."""

    rows: int
    columns: int
    width: int
    depth: int
    ring: int = 2
    panes: int = 1
    lead: int = 0
    height: int = 0

    @property
    def turns(self) -> int:
        """How many tiles lie beside each other in a block."""
        return -(-self.width // self.columns)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is computed: ``others`` products of ``rows × depth`` and ``depth × columns`` elements of ``size`` bytes.

    ``out`` bytes a sum leave L0C; ``vector``: repeats of the vector unit for 64 sums behind it, 0 where there is none;
    ``adds``: whether sums are added to what global memory holds.
    """

    rows: int
    columns: int
    depth: int
    others: int
    size: int
    out: int
    vector: float
    adds: bool = False


@dataclass(slots=True)
class _Clock:
    """When each pipe is free, and when slots are."""

    mte2: float = _ISSUE
    mte1: float = 0.0
    cube: float = 0.0
    fix: float = 0.0
    vector: float = 0.0
    ring: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    sums: dict[int, float] = field(default_factory=dict)
    handed: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)


def pace(p: Problem, t: Tiling, target: Target) -> float:
    """Modelled cycles of the core with the most to do, all inputs but weights in L2."""
    model = _Model(p, t, target)
    rounds = -(-(-(-p.rows // t.rows) * -(-p.columns // t.width) * p.others) // target.units)
    clock, ends = _Clock(), [0.0]
    for n in range(min(rounds, _ROUNDS)):
        model.block(clock, n)
        ends.append(max(clock.fix, clock.vector) + model.cycles["write_latency"])
    return ends[-1] + max(0, rounds - _ROUNDS) * (ends[-1] - ends[-2])


class _Model:
    def __init__(self, p: Problem, t: Tiling, target: Target):
        self.p, self.t = p, t
        c: dict[str, Any] = target.extra["cycles"]
        self.cycles = c
        flag = c["flag_latency"]
        blocks = min(target.units, -(-p.rows // t.rows) * -(-p.columns // t.width) * p.others)
        dram = min(float(c["l2_read"]), c["dram"] * target.units / blocks)
        self.left = float(c["l2_read"])
        seen = 1 / -(-p.rows // t.rows)
        self.right = 1 / (seen / dram + (1 - seen) / c["l2_read"])
        self.kept = t.width > t.columns
        self.arrive, self.load = c["read_latency"] + flag, c["load_latency"] + flag
        self.done, self.free = c["mmad_latency"] + flag, c["write_latency"] + flag
        self.cross = c["cross_latency"] + c["read_latency"]
        self.lanes = 32 // p.size
        rows = min(t.rows, round_up(p.rows, FRACTAL))
        rest = rows - min(t.lead, rows)
        high = max(t.height, round_up(-(-rest // t.panes), square(p.size) if t.panes > 1 else FRACTAL))
        missing = min(t.panes * high - rest, high - FRACTAL)
        ends = [min(rest, (n + 1) * high - missing) for n in range(t.panes)]
        self.heights = [b - a for a, b in zip([0, *ends], ends, strict=False) if b > a]
        self.heights = [*([min(t.lead, rows)] if t.lead else []), *self.heights]
        half = min(target.memory[s].size for s in ("l0a", "l0b")) // 2
        most = half // (p.size * max(high, t.columns))
        self.step = min(t.depth, most // self.lanes * self.lanes) or self.lanes
        self.ahead = int(c["queue"] / (_STATEMENTS + (t.panes > 1)))
        self.slots = t.panes if t.panes > 1 else 2 if 8 * t.rows * t.columns <= target.memory["l0c"].size else 1

    def block(self, k: _Clock, number: int) -> None:
        """One block: its turns, each through all of the depth."""
        for turn in range(self.t.turns):
            columns = min(self.t.columns, self.t.width - turn * self.t.columns)
            self._turn(k, columns, turn == 0 or not self.kept, number * self.t.turns + turn)

    def _turn(self, k: _Clock, columns: int, fetch: bool, turn: int) -> None:
        p, t, c = self.p, self.t, self.cycles
        for first in range(0, p.depth, t.depth):
            deep = min(t.depth, p.depth - first)
            start = max(k.mte2, _back(k.ring, t.ring), _back(k.started, self.ahead))
            row = -(-deep * p.size // c["l2_line"]) * c["l2_line"]
            early, late = (
                n * max(1.0, row / self.left) + c["transfer_start"] if fetch and n else 0.0
                for n in ((t.lead, t.rows - t.lead) if t.lead else (t.rows, 0))
            )
            k.mte2 = start + early + deep * columns * p.size / self.right + c["transfer_start"]
            there = k.mte2 + self.arrive
            k.mte2 += late
            for at in range(0, deep, self.step):
                last = first + at + self.step >= p.depth
                self._step(k, (there, there + late), min(self.step, deep - at), columns, turn, last)
            k.ring.append(k.mte1 + self.load)

    def _step(self, k: _Clock, there: tuple[float, float], deep: int, columns: int, turn: int, last: bool) -> None:
        """Operands into L0, products, and behind the last ones the way out."""
        t, c = self.t, self.cycles
        wide, across = -(-columns // FRACTAL), -(-deep // self.lanes)
        start = max(k.mte1, there[0], _back(k.loaded, 2))
        k.mte1 = start + wide * across * 512 / c["l1_l0b"] + min(wide, across)
        for n, rows in enumerate(self.heights):
            high = -(-rows // FRACTAL)
            k.mte1 = max(k.mte1, there[1] if n or not t.lead else 0.0)
            k.mte1 += high * across * 512 / c["l1_l0a"] + min(high, across)
            slot = n if t.panes > 1 else turn % self.slots
            wait = 0.0 if t.panes > 1 else c["mmad_latency"]
            k.started.append(max(k.cube + wait, k.mte1 + self.load, k.sums.get(slot, 0.0)))
            k.cube = k.started[-1] + high * wide * across
            if last:
                self._leave(k, slot, rows, columns)
        k.loaded.append(k.cube + self.done)

    def _leave(self, k: _Clock, slot: int, rows: int, columns: int) -> None:
        p, c = self.p, self.cycles
        line = -(-columns * p.out // c["l2_line"]) * c["l2_line"]
        outside = line / c["l2_write"] + (line / c["l2_read"] if p.adds else 0.0)
        busy = max(round_up(columns, FRACTAL) * 4 / c["l0c_out"], outside) * rows + c["transfer_start"]
        room = _back(k.handed, 2) + c["cross_latency"] if p.vector else 0.0
        k.fix = max(k.fix, k.cube + self.done, room) + busy
        k.sums[slot] = k.fix + self.free
        if p.vector:
            k.vector = max(k.vector, k.fix + self.free + self.cross) + p.vector * rows * columns / 128
            k.handed.append(k.vector)


def _back(times: list[float], n: int) -> float:
    """The ``n``-th time from the end, 0 where there are not as many."""
    return times[-n] if len(times) >= n else 0.0
