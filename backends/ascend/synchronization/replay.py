"""Replay of a synchronised kernel on clocks alone: does a choice of edges order every dependence?

The statements of all cores of one group run here in the order of the scheduled kernel. That order is one the hardware
may take, and since order is judged by clocks and not by what happened to come first, one such order is enough.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from tilewright.backends.ascend.placed.footprint import Touch, geometry, units
from tilewright.backends.ascend.placed.form import Barrier, CrossFlag, Flag, Instruction, Placed, Read
from tilewright.backends.ascend.placed.stream import PIPE_ORDER, Item, item_of, walk
from tilewright.backends.ascend.simulator.memory import Memory

#: Bytes that are tracked as one: every memory moves blocks of 32 bytes.
UNIT = 32
_PIPES = len(PIPE_ORDER)


@dataclass(frozen=True, slots=True)
class _Event:
    """One statement of one core. ``needs``: (pipe, number of the instruction) that must have ended."""

    kind: str  # "run", "barrier", "set", "wait", "cross-set", "cross-wait"
    core: int
    thread: int
    item: Item
    needs: tuple[tuple[int, int], ...] = ()
    number: int = -1
    slot: int = 0


class Replay:
    """A kernel with every candidate edge, unrolled for one binding of its dimension symbols."""

    def __init__(self, placed: Placed, dims: Mapping[str, int]):
        self.placed = placed
        self.buffers = {b.name: b for b in placed.buffers}
        self.geometry = {b.name: geometry(b, dims) for b in placed.buffers}
        self.memories: dict[tuple[object, ...], Memory] = {}
        subblocks = max(1, int(placed.target.extra["subblocks"]))
        kinds = placed.cores
        if kinds == ("vector",):
            subblocks = 1  # vector cores that share no cube core never meet
        self.cores = [(k, s) for k in kinds for s in range(subblocks if k == "vector" else 1)]
        self.cross_count = int(placed.target.extra["cross_count"])
        self.instructions = 0
        self.events = self._unroll({**dims, "_group": 0, "_groups": 1, "_sub": 0})

    def _unroll(self, env: dict[str, int]) -> list[_Event]:
        events: list[_Event] = []
        for node, values, where in walk(self.placed.body, env, ""):
            if isinstance(node, Read):
                continue  # the scalar unit issues everything: what it reads is there before what comes after
            for number, (kind, sub) in enumerate(self.cores):
                if kind == node.core:
                    values["_sub"] = sub
                    events.append(self._event(number, item_of(node, self.buffers, values, where)))
        return events

    def _event(self, core: int, item: Item) -> _Event:
        thread = core * _PIPES + PIPE_ORDER.index(item.pipe)
        match item.node:
            case Instruction():
                self.instructions += 1
                return _Event("run", core, thread, item, self._needs(core, thread, item), self.instructions)
            case Barrier():
                return _Event("barrier", core, thread, item)
            case Flag(action=action, events=events):
                return _Event(action, core, thread, item, slot=events.index(item.event))
            case CrossFlag(action="set"):
                return _Event("cross-set", core, thread, item)
        return _Event("cross-wait", core, core * _PIPES + PIPE_ORDER.index("S"), item)

    def _needs(self, core: int, thread: int, item: Item) -> tuple[tuple[int, int], ...]:
        node = item.node
        assert isinstance(node, Instruction)
        sources = [s for s in item.sources if isinstance(s, Touch)]
        if item.dst.empty or any(s.empty for s in sources):
            return ()
        needs: dict[int, int] = {}
        if node.op == "mmad" and item.init != 0:
            sources.append(item.dst)
        writes = [item.dst, *([item.scratch] if item.scratch else [])]
        for t in sources:
            self._writers(core, t, needs)
        for t in writes:
            self._writers(core, t, needs)
            self._readers(core, t, needs)
        for t in sources:
            if memory := self._memory(core, t):
                memory.record_read(units(t, self.geometry[t.buffer], UNIT), thread, self.instructions)
        for t in writes:
            if memory := self._memory(core, t):
                memory.record_write(units(t, self.geometry[t.buffer], UNIT), thread, self.instructions, 0)
        return tuple(needs.items())

    def _writers(self, core: int, t: Touch, needs: dict[int, int]) -> None:
        if memory := self._memory(core, t):
            where = units(t, self.geometry[t.buffer], UNIT)
            writer, tick = memory.writer[where], memory.tick[where]
            for thread in np.unique(writer):
                if thread >= 0:
                    needs[int(thread)] = max(needs.get(int(thread), 0), int(tick[writer == thread].max()))

    def _readers(self, core: int, t: Touch, needs: dict[int, int]) -> None:
        if memory := self._memory(core, t):
            where = units(t, self.geometry[t.buffer], UNIT)
            for thread, ticks in memory.readers.items():
                latest = int(ticks[where].max())
                if latest:
                    needs[thread] = max(needs.get(thread, 0), latest)

    def _memory(self, core: int, t: Touch) -> Memory | None:
        b, g = self.buffers[t.buffer], self.geometry[t.buffer]
        if b.scope == "gm":
            if not b.workspace:
                return None
            key: tuple[object, ...] = ("gm", b.name)
            size = g.slot_bytes * g.slots
        else:
            key, size = (core, b.scope), self.placed.target.memory[b.scope].size
        if key not in self.memories:
            self.memories[key] = Memory(str(key), size // UNIT + 1)
        return self.memories[key]

    # -- judging -------------------------------------------------------------------------------------------------

    def first_problem(self, edges: Collection[int], numbers: Mapping[int, tuple[int, ...]]) -> str | None:
        """What ``edges`` leave unordered (or set twice) under the event ``numbers``, or ``None``."""
        return _Judge(self, edges, numbers).run()


class _Judge:
    def __init__(self, replay: Replay, edges: Collection[int], numbers: Mapping[int, tuple[int, ...]]):
        self.replay, self.edges, self.numbers = replay, edges, numbers
        count = len(replay.cores) * _PIPES
        self.clocks = [[0] * count for _ in range(count)]
        self.ticks = [0] * count
        self.tick_of = [0] * (replay.instructions + 1)
        self.issued: list[list[int] | None] = [None] * len(replay.cores)
        self.seen: list[list[int] | None] = [None] * count
        self.pending: dict[tuple[object, ...], deque[list[int]]] = {}
        self.sets: dict[tuple[object, ...], int] = {}
        self.waits: dict[tuple[object, ...], list[int]] = {}
        self.waiter: dict[tuple[object, ...], int] = {}

    def run(self) -> str | None:
        for event in self.replay.events:
            node = event.item.node
            if not isinstance(node, Instruction | Read) and node.edge not in self.edges:
                continue
            if problem := self._step(event):
                return f"{problem}: {event.item.text}"
        left = [k for k, q in self.pending.items() if q]
        return f"flag {left[0]} left set" if left else None

    def _step(self, event: _Event) -> str | None:
        thread = event.thread
        clock = self.clocks[thread]
        issued = self.issued[event.core]
        if issued is not None and self.seen[thread] is not issued:
            clock = self.clocks[thread] = list(map(max, clock, issued))
            self.seen[thread] = issued
        self.ticks[thread] += 1
        node = event.item.node
        if isinstance(node, Instruction):
            self.tick_of[event.number] = self.ticks[thread]
            for pipe, number in event.needs:
                if clock[pipe] < self.tick_of[number]:
                    return "unordered"
        elif isinstance(node, Barrier):
            clock[thread] = self.ticks[thread]
        elif isinstance(node, Flag):
            key = (event.core, node.src, node.dst, self.numbers[node.edge][event.slot])
            return self._set(key, thread, 1) if event.kind == "set" else self._wait(key, thread, clock)
        elif event.kind == "cross-set" and isinstance(node, CrossFlag):
            return self._cross_set(event, self.numbers[node.edge][0])
        elif isinstance(node, CrossFlag):
            return self._cross_wait(event, self.numbers[node.edge][0])
        return None

    def _set(self, key: tuple[object, ...], thread: int, limit: int) -> str | None:
        clock = self.clocks[thread]
        waits = self.waits.get(key, [])
        known = bisect_right(waits, clock[self.waiter[key]]) if waits else 0
        self.sets[key] = self.sets.get(key, 0) + 1
        if self.sets[key] - known > limit:
            return "set twice"
        message = list(clock)
        message[thread] = self.ticks[thread]
        self.pending.setdefault(key, deque()).append(message)
        return None

    def _wait(self, key: tuple[object, ...], thread: int, clock: list[int]) -> str | None:
        if not self.pending.get(key):
            return "waits for ever"
        self.clocks[thread] = list(map(max, clock, self.pending[key].popleft()))
        self.waits.setdefault(key, []).append(self.ticks[thread])
        self.waiter[key] = thread
        return None

    def _cross_set(self, event: _Event, flag: int) -> str | None:
        for other, (kind, _) in enumerate(self.replay.cores):
            if kind != self.replay.cores[event.core][0]:
                problem = self._set(("cross", other, flag, event.core), event.thread, self.replay.cross_count)
                if problem:
                    return problem
        return None

    def _cross_wait(self, event: _Event, flag: int) -> str | None:
        clock = self.clocks[event.thread]
        for other, (kind, _) in enumerate(self.replay.cores):
            if kind != self.replay.cores[event.core][0]:
                problem = self._wait(("cross", event.core, flag, other), event.thread, clock)
                if problem:
                    return problem
                clock = self.clocks[event.thread]
        clock[event.thread] = self.ticks[event.thread]
        self.issued[event.core] = list(clock)
        return None
