"""The checker: runs a placed program, pipes in parallel, and refuses what real hardware could get wrong.

Every pipe of every core is a queue of its own, in order; a clock per pipe says which statements of every other pipe are
known to have ended. Order comes from flags, barriers and cross-core flags alone. Statements of one pipe start in order
but need a barrier between dependent ones: "PipeBarrier … needs to be inserted between the same pipelines with data
dependency" (Ascend C reference, PipeBarrier). Refused: races, reads of bytes nobody wrote or that another buffer has
overwritten, accesses outside their buffer, capacity, alignment, wrong pipe or layout, leaked or doubled flags, event
ids beyond the hardware's, deadlock. What is left computes real numbers.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.form import (
    Barrier,
    CrossFlag,
    Flag,
    Instruction,
    Placed,
    Read,
    statements,
)
from tilewright.backends.ascend.placed.stream import PIPE_ORDER, Item, issue, programs
from tilewright.backends.ascend.simulator.instruct import Array, Memories, Moment
from tilewright.backends.ascend.simulator.legal import check_static
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.simulator.state import Clock


@dataclass(slots=True)
class _Flag:
    """State of one event or counter: clocks of sets not yet waited for, and the waits that its setter may not know of.

    ``sets`` counts the sets whose waits the setter did not know to have happened.
    """

    pending: deque[Clock] = field(default_factory=deque)
    waits: list[tuple[int, int]] = field(default_factory=list)
    sets: int = 0
    last: Item | None = None


@dataclass(slots=True)
class _Core:
    """One core: what it has still to issue, and its pipes' queues."""

    number: int
    kind: str
    group: int
    stream: Any
    queues: dict[str, deque[tuple[Item, Clock]]]
    issued: Clock
    blocked: Item | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Outputs by name, how many statements ran, and whether an index outside its tensor was met."""

    outputs: Mapping[str, Array]
    executed: int
    fault: bool = False


def check(
    placed: Placed,
    inputs: Mapping[str, Array],
    dims: Mapping[str, int],
    groups: int = 2,
    seed: int = 0,
    run: Collection[int] | None = None,
) -> Result:
    """Run ``placed`` on ``groups`` groups of cores. Raises :class:`Refused`.

    Args:
        inputs: a tensor for every parameter that is read, in its dtype and shape.
        dims: a value for every dimension symbol.
        seed: order in which ready pipes are tried; an accepted program gives the same numbers for every seed.
        run: the groups that are run, where not all are; there are no outputs then, of which others write the rest.
    """
    check_static(placed)
    return _Machine(placed, inputs, dims, (groups, range(groups) if run is None else run), seed).run()


class _Machine:
    def __init__(
        self,
        placed: Placed,
        inputs: Mapping[str, Array],
        dims: Mapping[str, int],
        groups: tuple[int, Collection[int]],
        seed: int,
    ):
        self.placed, self.dims, self.random = placed, dims, random.Random(seed)
        self.target = placed.target
        self.buffers = {b.name: b for b in placed.buffers}
        self.cores, self.whole = self._make_cores(*groups), len(groups[1]) == groups[0]
        pipes = len(PIPE_ORDER)
        count = len(self.cores) * pipes
        self.clocks = np.zeros((count, count), np.int64)
        self.ticks = [0] * count
        self.log: list[list[Item]] = [[] for _ in range(count)]
        self.flags: dict[tuple[Any, ...], _Flag] = {}
        for core in self.cores:
            core.issued = np.zeros(count, np.int64)
        self.executed = 0
        self.memories = Memories(placed, dims, self._describe)
        self.memories.load(inputs)

    def _make_cores(self, groups: int, run: Collection[int]) -> list[_Core]:
        """A cube core and its vector cores a group; where they are one core, that one runs every statement."""
        cores: list[_Core] = []
        for group in run:
            for kind, subs, body in programs(self.placed):
                for sub in range(subs):
                    env = {**self.dims, "_group": group, "_groups": groups, "_sub": sub}
                    stream = issue(body, self.buffers, env, self._read)
                    queues: dict[str, deque[tuple[Item, Clock]]] = {p: deque() for p in PIPE_ORDER}
                    cores.append(_Core(len(cores), kind, group, stream, queues, np.zeros(0, np.int64)))
        return cores

    def _read(self, node: Read, env: Mapping[str, int]) -> int:
        return self.memories.read(node, env)

    def _describe(self, thread: int, tick: int) -> str:
        core = self.cores[thread // len(PIPE_ORDER)]
        return f"{self.log[thread][tick - 1].text} ({core.kind} core {core.number})"

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        ready = [(core, pipe) for core in self.cores for pipe in PIPE_ORDER]
        moved = True
        while moved:
            moved = sum(self._issue(core) for core in self.cores) > 0
            self.random.shuffle(ready)
            for core, pipe in ready:
                while core.queues[pipe] and self._step(core, pipe):
                    moved = True
        self._finish()
        made = [p.name for p in self.placed.kernel.params if p.role == "out" and self.whole]
        outputs = {name: self.memories.output(name) for name in made}
        return Result(outputs, self.executed, self.memories.fault)

    def _next(self, core: _Core) -> Item | None:
        """The next statement of a core, its expressions evaluated."""
        try:
            found: Item | None = next(core.stream, None)
        except KeyError as missing:
            reads = {n.var for n in statements(self.placed.body) if isinstance(n, Read)}
            if missing.args[0] not in reads:
                raise
            message = f"{missing.args[0]} is used before the scalar unit has read it"
            raise Refused("order", message, "", f"{core.kind} core {core.number}") from missing
        return found

    def _issue(self, core: _Core) -> bool:
        """Issue statements until the core waits for another core or has no more."""
        moved = False
        while not core.done:
            item = core.blocked or self._next(core)
            if item is None:
                core.done = True
                return True
            if isinstance(item.node, CrossFlag) and item.node.action == "wait":
                core.blocked = item
                if not self._cross_wait(core, item):
                    return moved
                core.blocked, moved = None, True
                continue
            core.queues[item.pipe].append((item, core.issued))
            moved = True
        return moved

    def _thread(self, core: _Core, pipe: str) -> int:
        return core.number * len(PIPE_ORDER) + PIPE_ORDER.index(pipe)

    def _step(self, core: _Core, pipe: str) -> bool:
        """Run the statement at the head of a queue; False when it has to wait."""
        item, issued = core.queues[pipe][0]
        node, thread = item.node, self._thread(core, pipe)
        if isinstance(node, Flag) and node.action == "wait" and not self._flag(core, item).pending:
            return False
        core.queues[pipe].popleft()
        clock = self.clocks[thread]
        np.maximum(clock, issued, out=clock)
        self.ticks[thread] += 1
        self.log[thread].append(item)
        self.executed += 1
        match node:
            case Instruction():
                self.memories.execute(item, Moment(core.number, core.group, thread, self.ticks[thread], clock))
            case Barrier():
                clock[thread] = self.ticks[thread]
            case Flag(action="wait"):
                flag = self._flag(core, item)
                np.maximum(clock, flag.pending.popleft(), out=clock)
                flag.waits.append((thread, self.ticks[thread]))
            case Flag():
                self._set(self._flag(core, item), thread, item, 1, "flag set twice before it was waited for")
            case CrossFlag():
                self._cross_set(core, thread, item)
        return True

    def _flag(self, core: _Core, item: Item) -> _Flag:
        node = item.node
        assert isinstance(node, Flag)
        return self.flags.setdefault((core.number, node.src, node.dst, item.event), _Flag())

    def _message(self, thread: int) -> Clock:
        message: Clock = self.clocks[thread].copy()
        message[thread] = self.ticks[thread]
        return message

    def _set(self, flag: _Flag, thread: int, item: Item, limit: int, why: str) -> None:
        clock = self.clocks[thread]
        unknown = [(pipe, tick) for pipe, tick in flag.waits if clock[pipe] < tick]
        flag.sets += 1 - (len(flag.waits) - len(unknown))
        flag.waits = unknown
        if flag.sets > limit:
            raise Refused("doubled flag", why, flag.last.text if flag.last else "", item.text)
        flag.pending.append(self._message(thread))
        flag.last = item

    # -- between cores -------------------------------------------------------------------------------------------

    def _cross_set(self, core: _Core, thread: int, item: Item) -> None:
        node = item.node
        assert isinstance(node, CrossFlag)
        limit = int(self.target.extra["cross_count"])
        others = [c for c in self.cores if c.group == core.group and c.kind != core.kind]
        for other in others:
            # The cube core's counter steps only when every vector core has set it: one state per sender here.
            flag = self.flags.setdefault(("cross", other.number, node.flag, core.number), _Flag())
            self._set(flag, thread, item, limit, f"a cross-core counter may run more than {limit} sets ahead")

    def _cross_wait(self, core: _Core, item: Item) -> bool:
        node = item.node
        assert isinstance(node, CrossFlag)
        senders = [c for c in self.cores if c.group == core.group and c.kind != core.kind]
        flags = [self.flags.setdefault(("cross", core.number, node.flag, c.number), _Flag()) for c in senders]
        if not all(f.pending for f in flags):
            return False
        thread = self._thread(core, "S")
        self.ticks[thread] += 1
        self.log[thread].append(item)
        self.executed += 1
        joined = core.issued.copy()
        for f in flags:
            np.maximum(joined, f.pending.popleft(), out=joined)
            f.waits.append((thread, self.ticks[thread]))
        joined[thread] = self.ticks[thread]
        core.issued = joined
        return True

    # -- the end -------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        stuck = [q[0][0].text for core in self.cores for q in core.queues.values() if q]
        stuck += [core.blocked.text for core in self.cores if core.blocked is not None]
        if stuck:
            raise Refused("deadlock", f"{len(stuck)} pipes wait for ever", stuck[0], stuck[-1])
        for flag in self.flags.values():
            if flag.pending:
                raise Refused(
                    "leaked flag",
                    f"set {len(flag.pending)} times and never waited for",
                    flag.last.text if flag.last else "",
                )
