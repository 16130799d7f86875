"""One instruction at a time: is it allowed now, and what does it leave in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import Geometry, Touch, geometry, last_byte, runs, touch, value_of
from tilewright.backends.ascend.placed.form import Instruction, Placed, Read
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, round_up
from tilewright.backends.ascend.placed.stream import Item
from tilewright.backends.ascend.placed.text import statement_text
from tilewright.backends.ascend.simulator import lanes
from tilewright.backends.ascend.simulator.execute import MOVES, compute, shaped
from tilewright.backends.ascend.simulator.limits import check_item, spoiled
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.simulator.state import Clock, State, Where
from tilewright.ir.types import DType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Moment:
    """Who runs an instruction, and when: core and group, its pipe's number, statement number and clock."""

    core: int
    group: int
    thread: int
    tick: int
    clock: Clock


#: What every byte behind the end of a tensor is.
BEHIND = 0xA5
#: Blocks of a memory, and which bytes of each (``None``: all).
Place = tuple[Where, Array | None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an instruction with certain numbers touches. ``spoils``: lanes that it leaves undefined; ``places``: where
    accesses to the core's own memories are, which never changes."""

    reads: tuple[Touch, ...]
    writes: tuple[Touch, ...]
    spoils: tuple[Touch, ...]
    empty: bool = False
    places: dict[int, Place] = field(default_factory=dict)


class Memories:
    """Every memory of a run. ``describe`` turns (pipe, statement number) into words for a refusal."""

    def __init__(self, placed: Placed, dims: Mapping[str, int], describe: Callable[[int, int], str]):
        self.placed, self.describe = placed, describe
        self.buffers = {b.name: b for b in placed.buffers}
        self.geometry = {b.name: geometry(b, dims) for b in placed.buffers}
        #: A truth value is a byte here, so that whatever else lies in a block beside it goes through unchanged.
        self.dtypes = {b.name: (DType.U8 if b.dtype is DType.BOOL else b.dtype).numpy for b in placed.buffers}
        aliases = {p.alias: p.name for p in placed.kernel.params if p.alias is not None}
        #: The name under which a buffer's memory is known: an output that is an input's new contents shares its memory.
        self.names = {b.name: aliases.get(b.name, b.name) for b in placed.buffers}
        numbers = {b.name: i for i, b in enumerate(placed.buffers)}
        self.owners = {name: numbers[known] for name, known in self.names.items()}
        outputs = {p.name for p in placed.kernel.params if p.role == "out"}
        workspaces = {b.name for b in placed.buffers if b.workspace}
        self.written = outputs | workspaces
        self.states: dict[tuple[Any, ...], State] = {}
        # The destination is kept with its plan, so that its identity stays its own.
        self._plans: dict[tuple[int, int], tuple[Touch, _Plan]] = {}
        self.fault = False
        #: Tensors end with whole blocks where transfers move nothing else; what lies behind them is somebody else's.
        self.tail = 1 if "copy_pad" in placed.target.features else BLOCK_BYTES

    def load(self, inputs: Mapping[str, Array]) -> None:
        """Put the inputs in global memory. Raises ``ValueError`` for a wrong shape or dtype."""
        for p in self.placed.kernel.params:
            if p.role != "out":
                shape = self.geometry[p.name].shape
                value = np.asarray(inputs[p.name], order="C")
                dtype = self.buffers[p.name].dtype
                if value.shape != shape or value.dtype != dtype.numpy:
                    raise ValueError(f"{p.name}: {value.dtype}{list(value.shape)}, expected {dtype}{list(shape)}")
                state = self._state(p.name, 0, 0)
                state.data[: value.nbytes] = value.reshape(-1).view(np.uint8)
                if not state.fixed:
                    state.owner[:], state.valid[:] = self.owners[p.name], 0xFFFFFFFF

    def output(self, name: str) -> Array:
        """The final contents of an output. Raises :class:`Refused` where nobody wrote, or behind its end."""
        state, p = self._state(name, 0, 0), self.placed.kernel.param(name)
        if state.unwritten(slice(None), None):
            raise Refused("unwritten", f"output {name} has bytes that nobody wrote")
        size = self.geometry[name].slot_bytes
        if (state.data[size:] != BEHIND).any():
            raise Refused("bounds", f"bytes behind the end of output {name} are changed")
        return state.data[:size].view(p.dtype.numpy).reshape(self.geometry[name].shape).copy()

    def read(self, node: Read, env: Mapping[str, int]) -> int:
        """What the scalar unit reads from an input. Raises :class:`Refused` for anything but an input's element."""
        param = {p.name: p for p in self.placed.kernel.params}.get(node.source.buffer)
        if param is None or self.names[param.name] in self.written:
            raise Refused(
                "scope", f"the scalar unit reads {node.source.buffer}, which is no input", statement_text(node)
            )
        where = touch(node.source, 1, env)
        low, high = last_byte(where, self.geometry[param.name])
        if low < 0 or (high + 1) * (param.dtype.bits // 8) > self.geometry[param.name].slot_bytes:
            raise Refused("bounds", f"element {low} of {param.name}", statement_text(node))
        value = int(self._state(param.name, 0, 0).data.view(param.dtype.numpy)[low])
        if node.swap is not None and value == node.swap[0]:
            value = node.swap[1]
        if node.add is not None:
            value += value_of(node.add, env)
        if value < 0 and node.wrap is not None:
            value += value_of(node.wrap, env)
        if 0 <= value < value_of(node.limit, env):
            return value
        self.fault = True
        return node.bad

    def execute(self, item: Item, now: Moment) -> None:
        """Check one instruction against everything before it, then compute it. Raises :class:`Refused`."""
        node = item.node
        assert isinstance(node, Instruction)
        plan = self._plan(item, node)
        if plan.empty:
            return
        moves = self._moves(node)
        reads = [(t, self._at(t, now)) for t in plan.reads]
        writes = [(t, self._at(t, now)) for t in (*plan.spoils, *plan.writes)]
        placed_reads = [(t, s, *self._place(plan, n, t, s)) for n, (t, s) in enumerate(reads) if not s.fixed]
        placed_writes = [(t, s, *self._place(plan, -1 - n, t, s)) for n, (t, s) in enumerate(writes)]
        for t, state, where, part in placed_reads:
            self._check_read(item, t, state, (where, part), moves, now)
        for t, state, where, _ in placed_writes:
            self._check_write(item, t, state, where, now)
        values = compute(item, lambda t: self._load(t, now), self.dtypes, self.geometry)
        defined = self._moved(item, node, now) if moves else None
        for _, state, where, _ in placed_reads:
            state.record_read(where, now.thread, now.tick)
        for n, (t, state, where, part) in enumerate(placed_writes):
            state.record_write(where, part, now.thread, now.tick, self.owners[t.buffer])
            if n < len(plan.spoils):
                state.spoil(where, part)
        g = self.geometry[item.dst.buffer]
        state = self._at(item.dst, now)
        lanes.store(state.data, item.dst, g, self.dtypes[item.dst.buffer], values)
        if defined is not None:
            self._define(state, placed_writes[-1][2], item.dst, g, defined)

    def _moves(self, node: Instruction) -> bool:
        """Whether undefined bytes go along: also the neighbours that a transfer of whole blocks brings in."""
        return node.op in MOVES or (node.op == "copy_in" and self.tail > 1)

    # -- memories ------------------------------------------------------------------------------------------------

    def _at(self, t: Touch, now: Moment) -> State:
        return self._state(t.buffer, now.core, now.group)

    def _state(self, buffer: str, core: int, group: int) -> State:
        b, name = self.buffers[buffer], self.names[buffer]
        if b.scope == "gm":
            key: tuple[Any, ...] = ("gm", name, group if b.workspace else 0)
        else:
            key = (core, b.scope)
        state = self.states.get(key)
        if state is None:
            g = self.geometry[buffer]
            local = b.scope != "gm"
            size = self.placed.target.memory[b.scope].size if local else g.slot_bytes * g.slots
            fixed = not local and name not in self.written
            whole = size if local or b.workspace else round_up(size, self.tail)
            state = self.states[key] = State(whole, core=local, fixed=fixed)
            if whole > size:
                state.behind(size, BEHIND, self.owners[buffer])
        return state

    def _place(self, plan: _Plan, n: int, t: Touch, state: State) -> Place:
        place = plan.places.get(n)
        if place is None:
            place = state.place(t, self.geometry[t.buffer])
            if state.core:
                plan.places[n] = place
        return place

    def _plan(self, item: Item, node: Instruction) -> _Plan:
        key = (id(node), id(item.dst))
        known = self._plans.get(key)
        if known is None and (item.dst.empty or any(s.empty for s in item.reads)):
            known = self._plans[key] = (item.dst, _Plan((), (), (), True))
        if known is None:
            check_item(item, self.buffers, self.geometry, self.placed.target)
            reads = list(item.reads)
            if node.adds and (node.op != "mmad" or item.init != 0):
                reads.append(item.dst)
            writes = (item.dst,) if item.scratch is None else (item.scratch, item.dst)
            plan = _Plan(tuple(reads), writes, spoiled(item, self.buffers, self.geometry))
            self._check_own_overlap(item, plan, moves=self._moves(node))
            known = self._plans[key] = (item.dst, plan)
        return known[1]

    # -- rules ---------------------------------------------------------------------------------------------------

    def _check_read(
        self, item: Item, t: Touch, state: State, at: tuple[Where, Array | None], moves: bool, now: Moment
    ) -> None:
        where, part = at
        if late := state.late_writer(where, now.clock):
            raise Refused("race", f"{t.buffer} is read while it may still be written", self.describe(*late), item.text)
        if moves:
            return
        other = state.foreign(where, self.owners[t.buffer])
        if other is not None:
            owner, pipe, tick = other
            message = f"{t.buffer} was overwritten in the name of {self.placed.buffers[owner].name}"
            raise Refused("overlap", message, self.describe(pipe, tick), item.text)
        if state.unwritten(where, part):
            last = state.spoiler(where, part)
            first = "" if last is None else self.describe(*last)
            raise Refused("unwritten", f"{t.buffer}: bytes that nobody wrote are read", first, item.text)

    def _check_write(self, item: Item, t: Touch, state: State, where: Where, now: Moment) -> None:
        if state.fixed:
            raise Refused("scope", f"{t.buffer} is an input and is written", "", item.text)
        if late := state.late_writer(where, now.clock):
            message = f"{t.buffer} is overwritten while it may still be written"
            raise Refused("race", message, self.describe(*late), item.text)
        if late := state.late_reader(where, now.clock):
            message = f"{t.buffer} is overwritten while it may still be read"
            raise Refused("race", message, self.describe(*late), item.text)

    def _check_own_overlap(self, item: Item, plan: _Plan, moves: bool) -> None:
        """An instruction may write exactly where it reads, lane for lane, but not partly over what it reads."""
        for dst in (*plan.writes, *plan.spoils):
            scope = self.buffers[dst.buffer].scope
            for s in item.reads:
                same = self.buffers[s.buffer].scope == scope
                if scope == "gm":
                    same = self.names[s.buffer] == self.names[dst.buffer]
                in_place = not moves and replace(s, buffer=dst.buffer, cycle=0, counts=dst.counts) == dst
                in_place = in_place and s.cycle == 0 and s.buffer == dst.buffer
                if same and not in_place and _meet(s, self.geometry[s.buffer], dst, self.geometry[dst.buffer]):
                    if dst in plan.spoils and s.buffer == dst.buffer and (s.slot, s.offset) == (dst.slot, dst.offset):
                        continue
                    message = f"{dst.buffer} is written over {s.buffer}, which the same instruction reads"
                    raise Refused("overlap", message, "", item.text)

    # -- values --------------------------------------------------------------------------------------------------

    def _load(self, t: Touch, now: Moment) -> Array:
        return lanes.load(self._at(t, now).data, t, self.geometry[t.buffer], self.dtypes[t.buffer])

    def _moved(self, item: Item, node: Instruction, now: Moment) -> Array | None:
        """Which lanes that are moved were ever written, in the shape of the destination; ``None`` where all were."""
        source = item.reads[0]
        g, state = self.geometry[source.buffer], self._at(source, now)
        if state.fixed:
            return None
        where, part = state.place(source, g)
        owner = self.owners[source.buffer]
        if state.foreign(where, owner) is None and not state.unwritten(where, part):
            return None
        written = lanes.load(state.defined(owner, g.element_bytes), source, g, np.dtype(np.uint8))
        return shaped(written.swapaxes(0, 1) if node.transpose else written, item.dst)

    def _define(self, state: State, where: Where, t: Touch, g: Geometry, defined: Array) -> None:
        written = state.defined(self.owners[t.buffer], g.element_bytes)
        lanes.store(written, t, g, np.dtype(np.uint8), defined)
        state.define(where, written, g.element_bytes)


def _meet(a: Touch, ga: Geometry, b: Touch, gb: Geometry) -> bool:
    """Whether two accesses of one memory share a byte."""
    first, length = runs(a, ga)
    other, size = runs(b, gb)
    low, high = max(int(first[0]), int(other[0])), min(int(first[-1]) + length, int(other[-1]) + size)
    if low >= high:
        return False
    at = np.searchsorted(other, first + length, side="left") - 1
    ends = np.where(at >= 0, other[np.maximum(at, 0)] + size, 0)
    return bool((ends > first).any())
