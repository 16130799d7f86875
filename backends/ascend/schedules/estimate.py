"""What a launch of vector work takes, estimated before flags are put in: to choose between sizes of tiles.

Instructions start as soon as their pipe is free and all that they depend on has ended, by the costs of the simulator;
a buffer's slot counts as one place, and each instruction as two statements in the queue of its pipe: itself and a flag
or barrier. A few turns of each outermost loop are gone through, the others take as long as the last of these. The
numbers are those of ``simulator/cost.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tilewright.backends.ascend.placed.footprint import Geometry, Touch, geometry
from tilewright.backends.ascend.placed.form import Instruction, Loop, Node, Placed, Read
from tilewright.backends.ascend.placed.stream import Evaluator, Item, turns
from tilewright.backends.ascend.simulator.cost import Costs
from tilewright.backends.ascend.simulator.traffic import Traffic, rates
from tilewright.ir.symbolic import Expr, constant
from tilewright.kernel.tile import Kernel

#: Sizes that only the run tells are taken to be as large as each of these, where their facts allow.
USUAL = (1024, 16384)
#: Turns of an outermost loop that are gone through, and instructions in all of them at which no other turn begins.
_TURNS = 4
_MOST = 1500
#: Statements that an instruction is in the queue of its pipe, with the flag or barrier in front of it.
_STATEMENTS = 2


def usual_dims(kernel: Kernel) -> tuple[dict[str, int], ...]:
    """Sizes that open dimensions are taken to have; just one set of them where nothing is open."""
    found: list[dict[str, int]] = []
    for size in USUAL:
        dims = {name: max(r.lo, min(r.hi, size) // r.divisor * r.divisor) for name, r in kernel.facts}
        if dims not in found:
            found.append(dims)
    return tuple(found)


def estimated_cycles(placed: Placed, dims: Mapping[str, int]) -> float:
    """Cycles of a launch of ``placed``, which needs no synchronisation yet, on the core with most blocks."""
    units = int(placed.target.units)
    groups = min(units, max(1, placed.blocks.evaluate(dims)))
    env = {**dims, "_group": 0, "_groups": groups, "_sub": 0}
    known = {b.name: geometry(b, dims) for b in placed.buffers}
    evaluate = Evaluator({b.name: b for b in placed.buffers})
    parts = [_part(node, env, evaluate) for node in placed.body]
    traffic = Traffic()
    for part in parts:
        counted = Traffic()
        counted.count(part.items, known)
        for sums, more in ((traffic.read, counted.read), (traffic.written, counted.written)):
            for name, size in more.items():
                sums[name] = sums.get(name, 0) + round(size * part.share)
    cores = groups * max(1, int(placed.target.extra["subblocks"]))
    found = rates(traffic, placed.target, evaluate.buffers, known, groups, cores)
    clock = _Clock(placed, Costs(placed.target, evaluate.buffers, known, found.by_tensor), known)
    return sum(clock.run(part) for part in parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """An outermost loop, or a statement in front of one: its instructions, where each turn ends, and how many turns
    there are for each of those."""

    items: list[Item]
    ends: list[int]
    share: float


def _part(node: Node, env: Mapping[str, int], evaluate: Evaluator) -> _Part:
    values, items, ends, total = dict(env), list[Item](), list[int](), 1
    if isinstance(node, Loop):
        lo, hi, step = (e.evaluate(env) for e in (node.lo, node.hi, node.step))
        total = len(range(lo, hi, step))
        for turn in range(min(total, _TURNS)):
            first: Expr = constant(lo + turn * step)
            one = replace(node, lo=first, hi=first + 1, step=constant(1))
            items += _items((one,), values, evaluate)
            ends.append(len(items))
            if len(items) > _MOST and turn:
                break
    else:
        items += _items((node,), values, evaluate)
        ends.append(len(items))
    return _Part(items, ends, total / max(1, len(ends)))


def _items(body: tuple[Node, ...], values: dict[str, int], evaluate: Evaluator) -> list[Item]:
    found = []
    for node, env, where in turns(body, values, "", _lowest):
        if isinstance(node, Instruction | Read):
            found.append(evaluate(node, env, where))
    return found


def _lowest(node: Read, env: Mapping[str, int]) -> int:
    return 0


#: A slot of a buffer.
_Slot = tuple[str, int]


@dataclass(slots=True)
class _Clock:
    """When pipes are free and slots were last written and read: (pipe, end) of each."""

    placed: Placed
    costs: Costs
    known: Mapping[str, Geometry]
    issued: float = 0.0
    starts: dict[str, deque[float]] = field(default_factory=dict)
    free: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    written: dict[_Slot, dict[str, float]] = field(default_factory=dict)
    read: dict[_Slot, dict[str, float]] = field(default_factory=dict)
    meeting: dict[_Slot, list[_Slot]] = field(default_factory=dict)

    def run(self, part: _Part) -> float:
        """Cycles that a part adds."""
        begin = self._now()
        marks, at = [], 0
        for end in part.ends:
            for item in part.items[at:end]:
                self._step(item)
            marks.append(self._now())
            at = end
        seen = len(part.ends)
        if not seen:
            return 0.0
        total = round(part.share * seen)
        last = (marks[-1] - marks[seen // 2 - 1]) / (seen - seen // 2) if seen > 1 else marks[-1] - begin
        return marks[-1] - begin + (total - seen) * last

    def _now(self) -> float:
        return max((self.issued, *self.ended.values()))

    def _step(self, item: Item) -> None:
        cycles, pipe = self.costs.cycles, item.pipe
        if isinstance(item.node, Read):
            self.issued += cycles["scalar_read"]
            return
        cost = self.costs.of(item)
        starts = self.starts.setdefault(pipe, deque())
        if len(starts) >= cycles["queue"] // _STATEMENTS:
            self.issued = max(self.issued, starts.popleft())
        self.issued += cost.calls * cycles["call"] + cycles["flag"]
        if cost.busy == 0:
            return
        start = max(self.free.get(pipe, 0.0), self.issued)
        reads = [self._slot(t) for t in item.reads]
        writes = [self._slot(t) for t in (item.dst, *([item.scratch] if item.scratch else []))]
        for slot in reads:
            start = max(start, self._after(self.written, slot, pipe))
        for slot in writes:
            start = max(start, self._after(self.written, slot, pipe), self._after(self.read, slot, pipe))
        starts.append(start)
        self.free[pipe] = start + cost.busy
        self.ended[pipe] = max(self.ended.get(pipe, 0.0), start + cost.busy + cost.latency)
        for table, slots in ((self.written, writes), (self.read, reads)):
            for slot in slots:
                table.setdefault(slot, {})[pipe] = self.ended[pipe]

    def _slot(self, t: Touch) -> _Slot:
        return t.buffer, t.slot

    def _after(self, table: Mapping[_Slot, Mapping[str, float]], slot: _Slot, pipe: str) -> float:
        """When all of ``table`` that meets ``slot`` has ended, for somebody on ``pipe``."""
        wait = float(self.costs.cycles["flag_latency"])
        latest = 0.0
        for other in self._meets(slot):
            for source, end in table.get(other, {}).items():
                latest = max(latest, end if source == pipe else end + wait)
        return latest

    def _meets(self, slot: _Slot) -> list[_Slot]:
        """Slots that share bytes with ``slot``."""
        if slot not in self.meeting:
            scope, low, high = self._bytes(slot)
            everything = [(b.name, n) for b in self.placed.buffers for n in range(b.slots)]
            spans = [(other, *self._bytes(other)) for other in everything]
            self.meeting[slot] = [o for o, s, first, last in spans if s == scope and first < high and low < last]
            if scope == "gm":
                self.meeting[slot] = [slot] if self.placed.buffer(slot[0]).workspace else []
        return self.meeting[slot]

    def _bytes(self, slot: _Slot) -> tuple[str, int, int]:
        g = self.known[slot[0]]
        low = g.base + slot[1] * g.slot_bytes
        return g.scope, low, low + g.slot_bytes
