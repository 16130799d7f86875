"""When each pipe of the cores does what: cycles from costs, flags and the order of issue, without data.

A scalar unit issues the statements of its core in order, each at its price, into queues in front of the pipes. A pipe
takes its queue in order: an instruction starts when the pipe is free, when it was issued, and behind the waits and
barriers before it; it keeps the pipe for its ``busy`` cycles, and a flag behind it is set when its result is there.
Everything is computed in the order of issue, since a statement depends on earlier ones only; a core that waits for
another one stands still until that one has gone on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tilewright.backends.ascend.placed.footprint import geometry
from tilewright.backends.ascend.placed.form import Barrier, CrossFlag, Flag, Instruction, Let, Loop, Node, Placed, Read
from tilewright.backends.ascend.placed.stream import PIPE_ORDER, Evaluator, Item, Reader, lowest, programs, turns
from tilewright.backends.ascend.simulator.cost import Costs
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.simulator.times import Span, Timing
from tilewright.backends.ascend.simulator.traffic import Traffic, rates


@dataclass(slots=True)
class _Pipe:
    """A pipe: when it is free, when all it started has ended, and when its latest statements started."""

    name: str
    free: float = 0.0
    ended: float = 0.0
    busy: float = 0.0
    starts: deque[float] = field(default_factory=deque)


@dataclass(slots=True)
class _Core:
    """A core: its program, the time of its scalar unit, its pipes, and why the scalar unit was last held up."""

    number: int
    kind: str
    group: int
    items: Iterator[Item | None]
    pipes: dict[str, _Pipe]
    time: float = 0.0
    held: tuple[float, str] = (0.0, "")
    blocked: Item | None = None
    done: bool = False
    waiting: dict[str, deque[tuple[Item, float]]] = field(default_factory=dict)


def launch_time(
    placed: Placed,
    dims: Mapping[str, int],
    *,
    groups: int | None = None,
    simulate: int | None = 1,
    spans: bool = False,
    read: Reader = lowest,
    warm: Collection[str] = (),
) -> Timing:
    """How long a launch of ``placed`` takes. Raises :class:`Refused` for a deadlock.

    Args:
        dims: a value for every dimension symbol.
        groups: groups of cores; as many as the target has, or as there are blocks.
        simulate: how many groups are simulated, those with the most to do first; ``None`` for all. The others do the
            same on other blocks, so that one group tells how long the launch takes.
        spans: whether to keep what happened.
        read: what scalar reads give.
        warm: tensors that L2 holds when the launch begins; the others are in DRAM.
    """
    return _Clockwork(placed, dims, groups, simulate, spans, read, warm).run()


def _is_uneven(body: tuple[Node, ...]) -> bool:
    """Whether a loop inside of a block runs a number of times that depends on the block."""
    for node in body:
        if isinstance(node, Loop):
            inner = list(node.body)
            while inner:
                below = inner.pop()
                if isinstance(below, Loop):
                    given = {n.var for n in (*body, *node.body) if isinstance(n, Let)}
                    if ({node.var} | given) & (below.lo.symbols | below.hi.symbols):
                        return True
                    inner += below.body
    return False


class _Clockwork:
    def __init__(
        self,
        placed: Placed,
        dims: Mapping[str, int],
        groups: int | None,
        simulate: int | None,
        spans: bool,
        read: Reader,
        warm: Collection[str],
    ):
        self.placed, self.dims, self.read = placed, dict(dims), read
        self.target = placed.target
        self.cycles: Mapping[str, Any] = self.target.extra["cycles"]
        self.buffers = {b.name: b for b in placed.buffers}
        self.known = {b.name: geometry(b, dims) for b in placed.buffers}
        self.blocks = max(1, placed.blocks.evaluate(dims))
        self.groups = groups or min(self.blocks, self.target.units)
        self.simulated = self.groups if simulate is None else min(simulate, self.groups)
        self.keep = spans
        self.spans: list[Span] = []
        self.stalls: dict[tuple[str, str, str], float] = {}
        self.flags: dict[tuple[Any, ...], deque[float]] = {}
        self.statements = 0
        self.counted = 0
        self.depths: set[str] = set()
        self.evaluate = Evaluator(self.buffers)
        kinds = [(kind, body, sub) for kind, subs, body in programs(placed) for sub in range(subs)]
        total, order = self._scan(kinds)
        self.rates = rates(total, self.target, self.buffers, self.known, self.groups, self.share, warm)
        self.macs = total.macs * self.share
        self.costs = Costs(self.target, self.buffers, self.known, self.rates.by_tensor)
        self.cores = [
            _Core(n, kind, group, self._items(body, group, sub), {p: _Pipe(p) for p in PIPE_ORDER})
            for n, (group, (kind, body, sub)) in enumerate(product(order[: self.simulated], kinds))
        ]

    def _scan(self, kinds: list[tuple[str, tuple[Node, ...], int]]) -> tuple[Traffic, list[int]]:
        """What groups of cores do, and the groups, those with the most instructions first.

        Group 0 stands for all where blocks are alike but for their edges; where loops inside a block depend on which
        block it is, as under a causal mask, every group is gone through.
        """
        uneven = _is_uneven(self.placed.body)
        total, work = Traffic(), []
        for group in range(self.groups if uneven else 1):
            before = total.instructions
            for _, body, sub in kinds:
                total.count((i for i in self._items(body, group, sub) if i is not None), self.known)
            work.append((before - total.instructions, group))
        self.share = 1.0 if uneven else self.blocks / -(-self.blocks // self.groups)
        return total, [group for _, group in sorted(work)] if uneven else list(range(self.groups))

    def _items(self, body: tuple[Node, ...], group: int, sub: int) -> Iterator[Item | None]:
        """The statements of a core; ``None`` for a turn of a loop."""
        env = {**self.dims, "_group": group, "_groups": self.groups, "_sub": sub}
        for node, values, where in turns(body, env, "", self.read):
            yield None if isinstance(node, Loop) else self.evaluate(node, values, where)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> Timing:
        moved = True
        while moved:
            moved = False
            for core in self.cores:
                moved |= self._advance(core)
        stuck = [c for c in self.cores if not c.done or any(c.waiting.values())]
        if stuck:
            first = stuck[0].blocked
            raise Refused("deadlock", f"{len(stuck)} cores wait for ever", first.text if first is not None else "")
        return self._result()

    def _advance(self, core: _Core) -> bool:
        """Issue what the core may; whether there was anything."""
        if core.blocked is not None:
            if not self._cross_wait(core, core.blocked):
                return False
            core.blocked = None
        for item in core.items:
            if item is None:
                core.time += self.cycles["loop"]
                continue
            self.statements += 1
            if isinstance(item.node, CrossFlag) and item.node.action == "wait":
                if not self._cross_wait(core, item):
                    core.blocked = item
                    return True
            else:
                self._issue(core, item)
        moved, core.done = not core.done, True
        return moved

    def _issue(self, core: _Core, item: Item) -> None:
        """Give a statement to its pipe."""
        node = item.node
        if isinstance(node, Read):
            core.time += self.cycles["scalar_read"]
            core.held = (core.time, f"the scalar unit, which reads {node.source.buffer}")
            return
        pipe = core.pipes[item.pipe]
        if len(pipe.starts) >= self.cycles["queue"]:
            room = pipe.starts.popleft()
            if room > core.time:
                core.time = room
                core.held = (room, f"room in the queue of {item.pipe}")
        calls = self.costs.of(item).calls if isinstance(node, Instruction) else 0
        core.time += calls * self.cycles["call"] if isinstance(node, Instruction) else self.cycles["flag"]
        queue = core.waiting.setdefault(item.pipe, deque())
        if len(queue) >= self.cycles["queue"]:
            raise Refused("deadlock", f"{item.pipe} waits for what is issued behind it", queue[0][0].text, item.text)
        queue.append((item, core.time))
        self._drain(core)

    def _drain(self, core: _Core) -> None:
        again = True
        while again:
            again = False
            for queue in core.waiting.values():
                while queue and self._step(core, *queue[0]):
                    queue.popleft()
                    again = True

    def _step(self, core: _Core, item: Item, issued: float) -> bool:
        pipe, node = core.pipes[item.pipe], item.node
        if isinstance(node, Flag) and node.action == "wait":
            times = self.flags.get((core.number, node.src, node.dst, item.event))
            if not times:
                return False
            self._idle(core, pipe, issued, item)
            if times[0] > pipe.free:
                self._stall(core, pipe, times[0], f"{node.src} (edge {node.edge}: {self._reason(node.edge)})", item)
            times.popleft()
            pipe.starts.append(pipe.free)
            return True
        self._idle(core, pipe, issued, item)
        pipe.starts.append(pipe.free)
        match node:
            case Instruction():
                self._run(core, pipe, item)
            case Barrier():
                if pipe.ended > pipe.free:
                    self._stall(core, pipe, pipe.ended, f"its own result (barrier, edge {node.edge})", item)
            case Flag():
                at = max(pipe.ended, pipe.free) + self.cycles["flag_latency"]
                self.flags.setdefault((core.number, node.src, node.dst, item.event), deque()).append(at)
            case CrossFlag():
                at = max(pipe.ended, pipe.free) + self.cycles["cross_latency"]
                for other in self.cores:
                    if other.group == core.group and other.kind != core.kind:
                        key = ("cross", other.number, node.flag, core.number)
                        self.flags.setdefault(key, deque()).append(at)
        return True

    def _run(self, core: _Core, pipe: _Pipe, item: Item) -> None:
        cost = self.costs.of(item)
        node = item.node
        assert isinstance(node, Instruction)
        if cost.busy == 0:
            return
        start, pipe.free = pipe.free, pipe.free + cost.busy
        pipe.ended = max(pipe.ended, pipe.free + cost.latency)
        pipe.busy += cost.busy
        if cost.macs:
            self.counted += cost.macs
            self.depths.add(str(self.buffers[item.reads[0].buffer].dtype))
        if self.keep:
            self.spans.append(Span(core.number, pipe.name, start, pipe.free, node.op, item.where))

    def _idle(self, core: _Core, pipe: _Pipe, issued: float, item: Item) -> None:
        """The pipe stands until the statement was issued."""
        if issued > pipe.free:
            held, why = core.held
            reason = why if why and held > pipe.free else "the scalar unit, which issues"
            self._stall(core, pipe, issued, reason, item)

    def _stall(self, core: _Core, pipe: _Pipe, until: float, reason: str, item: Item) -> None:
        key = (core.kind, pipe.name, reason)
        self.stalls[key] = self.stalls.get(key, 0.0) + until - pipe.free
        if self.keep:
            self.spans.append(Span(core.number, pipe.name, pipe.free, until, f"waits for {reason}", item.where, True))
        pipe.free = until

    def _cross_wait(self, core: _Core, item: Item) -> bool:
        node = item.node
        assert isinstance(node, CrossFlag)
        senders = [c for c in self.cores if c.group == core.group and c.kind != core.kind]
        queues = [self.flags.setdefault(("cross", core.number, node.flag, c.number), deque()) for c in senders]
        if not all(queues):
            return False
        at = max((q.popleft() for q in queues), default=0.0)
        core.time += self.cycles["flag"]
        if at > core.time:
            core.time = at
            core.held = (at, f"the {senders[0].kind} core (edge {node.edge}: {self._reason(node.edge)})")
        return True

    def _reason(self, edge: int) -> str:
        for e in self.placed.edges:
            if e.number == edge:
                return e.reason
        return "no reason given"

    # -- the end -------------------------------------------------------------------------------------------------

    def _result(self) -> Timing:
        cycles = max((max(p.ended, p.free) for c in self.cores for p in c.pipes.values()), default=0.0)
        cycles = max(cycles, max((c.time for c in self.cores), default=0.0))
        kinds = sorted({c.kind for c in self.cores})
        busy: dict[tuple[str, str], float] = {}
        for kind in kinds:
            cores = [c for c in self.cores if c.kind == kind]
            for name in PIPE_ORDER:
                total = sum(c.pipes[name].busy for c in cores)
                if total:
                    busy[kind, name] = total / len(cores) / cycles
        step = max((int(self.cycles["step"][d]) for d in self.depths), default=0)
        stalls = sorted(((*key, value) for key, value in self.stalls.items()), key=lambda s: -s[3])
        return Timing(
            cycles,
            float(self.target.extra["clock_mhz"]),
            self.counted if self.simulated == self.groups else self.macs,
            cycles * self.target.units * 16 * 16 * step,
            busy,
            tuple(stalls),
            tuple(self.spans),
            tuple(c.kind for c in self.cores),
            self.groups,
            self.simulated,
            self.blocks,
            self.statements,
            self.rates,
        )
