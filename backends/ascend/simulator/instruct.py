"""One instruction at a time: is it allowed now, and what does it leave in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import (
    Index,
    Touch,
    byte_index,
    geometry,
    last_byte,
    touch,
    units,
    value_of,
)
from tilewright.backends.ascend.placed.form import Instruction, Placed, Read
from tilewright.backends.ascend.placed.stream import Item
from tilewright.backends.ascend.placed.text import statement_text
from tilewright.backends.ascend.simulator import elementwise
from tilewright.backends.ascend.simulator.execute import MOVES, fixpipe, mmad, vector
from tilewright.backends.ascend.simulator.legal import check_touch
from tilewright.backends.ascend.simulator.memory import Clock, Memory, Refused

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Moment:
    """Who runs an instruction, and when: core and group, its pipe's number, statement number and clock."""

    core: int
    group: int
    thread: int
    tick: int
    clock: Clock


class Memories:
    """Every memory of a run. ``describe`` turns (pipe, statement number) into words for a refusal."""

    def __init__(self, placed: Placed, dims: Mapping[str, int], describe: Callable[[int, int], str]):
        self.placed, self.describe = placed, describe
        self.buffers = {b.name: b for b in placed.buffers}
        self.owners = {b.name: i for i, b in enumerate(placed.buffers)}
        self.geometry = {b.name: geometry(b, dims) for b in placed.buffers}
        self.memories: dict[tuple[Any, ...], Memory] = {}
        self.fault = False

    def load(self, inputs: Mapping[str, Array]) -> None:
        """Put the inputs in global memory. Raises ``ValueError`` for a wrong shape or dtype."""
        for p in self.placed.kernel.params:
            if p.role != "out":
                shape = self.geometry[p.name].shape
                value = np.ascontiguousarray(inputs[p.name])
                if value.shape != shape or value.dtype != p.dtype.numpy:
                    raise ValueError(f"{p.name}: {value.dtype}{list(value.shape)}, expected {p.dtype}{list(shape)}")
                memory = self._memory(p.name, 0, 0)
                memory.data[:] = value.view(np.uint8).reshape(-1)
                memory.owner[:] = self.owners[p.name]

    def output(self, name: str) -> Array:
        """The final contents of an output. Raises :class:`Refused` where nobody wrote."""
        memory, p = self._memory(name, 0, 0), self.placed.kernel.param(name)
        if (memory.owner == -1).any():
            raise Refused("unwritten", f"output {name} has bytes that nobody wrote")
        return memory.data.view(p.dtype.numpy).reshape(self.geometry[name].shape).copy()

    def read(self, node: Read, env: Mapping[str, int]) -> int:
        """What the scalar unit reads from an input. Raises :class:`Refused` for anything but an input's element."""
        param = {p.name: p for p in self.placed.kernel.params}.get(node.source.buffer)
        if param is None or param.role == "out":
            raise Refused(
                "scope", f"the scalar unit reads {node.source.buffer}, which is no input", statement_text(node)
            )
        where = touch(node.source, 1, env)
        low, high = last_byte(where, self.geometry[param.name])
        if low < 0 or (high + 1) * (param.dtype.bits // 8) > self.geometry[param.name].slot_bytes:
            raise Refused("bounds", f"element {low} of {param.name}", statement_text(node))
        memory = self._memory(param.name, 0, 0)
        value = int(memory.data.view(param.dtype.numpy)[low])
        if value < 0 and node.wrap is not None:
            value += value_of(node.wrap, env)
        if 0 <= value < value_of(node.limit, env):
            return value
        self.fault = True
        return 0

    def execute(self, item: Item, now: Moment) -> None:
        """Check one instruction against everything before it, then compute it. Raises :class:`Refused`."""
        node = item.node
        assert isinstance(node, Instruction)
        sources = [s for s in item.sources if isinstance(s, Touch)]
        if item.dst.empty or any(s.empty for s in sources):
            return
        writes = [item.dst, *([item.scratch] if item.scratch else [])]
        starts = node.init is None or item.init == 0
        reads = [*sources, item.dst] if node.op == "mmad" and not starts else sources
        for t in (*sources, *writes):
            check_touch(item, t, self.geometry[t.buffer], self.placed.target)
        for t in writes:
            self._check_own_overlap(item, t, sources, now)
        for t in reads:
            self._check_read(item, node, t, now)
        for t in writes:
            self._check_write(item, t, now)
        moved = self._take(item, node.transpose, now) if node.op in MOVES else None
        values = self._compute(node, item, starts, now) if moved is None else None
        for t in reads:
            self._at(t, now).record_read(self._units(t), now.thread, now.tick)
        for t in writes:
            self._at(t, now).record_write(self._units(t), now.thread, now.tick, self.owners[t.buffer])
        if moved is not None:
            self._put(item, *moved, now)
        elif values is not None:
            self._store(item.dst, values, now)

    # -- memories ------------------------------------------------------------------------------------------------

    def _at(self, t: Touch, now: Moment) -> Memory:
        return self._memory(t.buffer, now.core, now.group)

    def _memory(self, buffer: str, core: int, group: int) -> Memory:
        b, g = self.buffers[buffer], self.geometry[buffer]
        if b.scope == "gm":
            key: tuple[Any, ...] = ("gm", buffer, group if b.workspace else 0)
            size = g.slot_bytes * g.slots
        else:
            key, size = (core, b.scope), self.placed.target.memory[b.scope].size
        if key not in self.memories:
            self.memories[key] = Memory(str(key), size)
        return self.memories[key]

    def _units(self, t: Touch) -> Index | slice:
        return units(t, self.geometry[t.buffer], 1)

    # -- rules ---------------------------------------------------------------------------------------------------

    def _check_read(self, item: Item, node: Instruction, t: Touch, now: Moment) -> None:
        memory, where = self._at(t, now), self._units(t)
        if late := memory.unordered_writer(where, now.clock):
            raise Refused("race", f"{t.buffer} is read while it may still be written", self.describe(*late), item.text)
        if node.op in MOVES:
            return
        owner = memory.owner[where]
        if (owner == -1).any():
            raise Refused("unwritten", f"{t.buffer}: bytes that nobody wrote are read", "", item.text)
        foreign = owner[owner != self.owners[t.buffer]]
        if foreign.size:
            other = self.placed.buffers[int(foreign[0])].name
            raise Refused("overlap", f"{t.buffer} was overwritten in the name of {other}", "", item.text)

    def _check_write(self, item: Item, t: Touch, now: Moment) -> None:
        memory, where = self._at(t, now), self._units(t)
        if late := memory.unordered_writer(where, now.clock):
            message = f"{t.buffer} is overwritten while it may still be written"
            raise Refused("race", message, self.describe(*late), item.text)
        if late := memory.unordered_reader(where, now.clock):
            message = f"{t.buffer} is overwritten while it may still be read"
            raise Refused("race", message, self.describe(*late), item.text)

    def _check_own_overlap(self, item: Item, dst: Touch, sources: list[Touch], now: Moment) -> None:
        """An instruction may write exactly where it reads, lane for lane, but not partly over what it reads."""
        memory = self._at(dst, now)
        for s in sources:
            in_place = (s.buffer, s.slot, s.offset, s.strides) == (dst.buffer, dst.slot, dst.offset, dst.strides)
            if self._at(s, now) is not memory or in_place:
                continue
            if np.intersect1d(_flat(self._units(s)), _flat(self._units(dst))).size:
                message = f"{dst.buffer} is written over {s.buffer}, which the same instruction reads"
                raise Refused("overlap", message, "", item.text)

    # -- values --------------------------------------------------------------------------------------------------

    def _compute(self, node: Instruction, item: Item, starts: bool, now: Moment) -> Array:
        values = [self._load(s, now) if isinstance(s, Touch) else np.asarray(s) for s in item.sources]
        dtype = self.buffers[item.dst.buffer].dtype.numpy
        match node.op:
            case "zero_l1":
                return np.full(item.dst.counts, node.parameter("value", 0), dtype)
            case "copy_nz" if values[0].ndim == 3:
                return values[0].swapaxes(0, 1).reshape(item.dst.counts)
            case "copy_nz" | "load_bias":
                return values[0].astype(dtype)
            case "nd2nz" | "copy_in" | "copy_out":
                return values[0].reshape(item.dst.counts)
            case "mmad":
                bias = values[2].astype(dtype) if len(values) > 2 else None
                return mmad(values[0], values[1], bias if starts else self._load(item.dst, now), dtype)
            case "fixpipe":
                return fixpipe(values[0], dtype, bool(node.parameter("relu"))).reshape(item.dst.counts)
            case "gather":
                return self._gathered(item, now)
            case "transpose":
                return values[0].swapaxes(-1, -2)
            case "cast":
                return elementwise.vector("cast", values, dtype, str(node.parameter("round", "rint")))
        return vector(node.op, values, item.dst.counts, dtype)

    def _gathered(self, item: Item, now: Moment) -> Array:
        """Elements at byte offsets from the beginning of the source's slot."""
        source, offsets = item.sources
        assert isinstance(source, Touch) and isinstance(offsets, Touch)
        g, dtype = self.geometry[source.buffer], self.buffers[item.dst.buffer].dtype.numpy
        index = self._load(offsets, now).astype(np.int64)[..., None] + np.arange(dtype.itemsize)
        if index.min() < 0 or index.max() >= g.slot_bytes:
            raise Refused("bounds", f"a gather reads byte {int(index.max())} of {source.buffer}", "", item.text)
        data = self._at(source, now).data[index + g.base + source.slot * g.slot_bytes]
        return np.ascontiguousarray(data).view(dtype)[..., 0]

    def _bytes(self, t: Touch) -> Index:
        g = self.geometry[t.buffer]
        return byte_index(t, g)[..., None] + np.arange(g.element_bytes)

    def _load(self, t: Touch, now: Moment) -> Array:
        raw = np.ascontiguousarray(self._at(t, now).data[self._bytes(t)])
        return raw.view(self.buffers[t.buffer].dtype.numpy)[..., 0]

    def _store(self, t: Touch, values: Array, now: Moment) -> None:
        typed = np.ascontiguousarray(values.astype(self.buffers[t.buffer].dtype.numpy))
        self._at(t, now).data[self._bytes(t)] = typed[..., None].view(np.uint8)

    def _take(self, item: Item, transpose: bool, now: Moment) -> tuple[Array, Array]:
        """Bytes of whole fractals, and which of them were ever written: what lies between is moved unseen."""
        source = item.sources[0]
        assert isinstance(source, Touch)
        index = self._bytes(source)
        index = index.swapaxes(0, 1) if transpose else index
        memory = self._at(source, now)
        return memory.data[index], memory.owner[index] == self.owners[source.buffer]

    def _put(self, item: Item, data: Array, written: Array, now: Moment) -> None:
        memory, index = self._at(item.dst, now), self._bytes(item.dst)
        memory.data[index] = data
        memory.owner[index] = np.where(written, self.owners[item.dst.buffer], -1)


def _flat(where: Index | slice) -> Index:
    return np.arange(where.start, where.stop) if isinstance(where, slice) else where
