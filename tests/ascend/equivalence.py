"""A proof that a changed program computes the same bits, without looking at a number.

Two ways, both static in what they compare:

1. *Same queues*: for every core, each pipe gets the same statements in the same order, between the same cross-core
   waits. Happens-before is a function of these queues, so the machine cannot tell the programs apart.
2. *Same sources in order*: (a) happens-before of the changed program orders every pair of its statements that may touch
   one byte, for all trip counts (:func:`unproved`), so each run computes what one statement after the other computes in
   the order of the tree; (b) in that order every instruction reads each byte from the instruction, and from the place
   in its result, that it came from before, and so do the outputs at the end. Then all values are equal by induction
   over the order. (b) is compared at the sizes at hand, byte by byte; bytes whose last writer wrote for another buffer
   count as undefined. Loads and drains of whole fractals also move what lies in their padding, where each program may
   have something else: what they write counts as what it was, converted where it is, and is compared where it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import Touch, byte_index, geometry
from tilewright.backends.ascend.placed.form import (
    CrossFlag,
    Flag,
    Instruction,
    Loop,
    Node,
    Placed,
    Read,
    program_of,
    statements,
)
from tilewright.backends.ascend.placed.stream import Item, item_of, walk
from tilewright.backends.ascend.synchronization.verify import unproved

Array = np.ndarray[Any, np.dtype[np.int64]]
#: Bytes of one result have this many numbers.
_ROOM = 1 << 32


def same_queues(a: Placed, b: Placed) -> bool:
    """Whether every pipe of every core gets the same, with the same buffers."""
    if a.buffers != b.buffers or a.cores != b.cores:
        return False
    return all(
        _queue(program_of(a.body, core), pipe) == _queue(program_of(b.body, core), pipe)
        for core in a.cores
        for pipe in sorted({p for n in statements(a.body) for p in _pipes(n)})
    )


def _pipes(node: Node) -> tuple[str, ...]:
    match node:
        case Flag():
            return (node.src if node.action == "set" else node.dst,)
        case Loop():
            return ()
    return (node.pipe,)


def _queue(body: tuple[Node, ...], pipe: str) -> tuple[Node, ...]:
    """What of ``body`` one pipe gets; cross-core waits and scalar reads hold back every pipe."""
    kept: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            if inner := _queue(node.body, pipe):
                kept.append(replace(node, body=inner))
        elif isinstance(node, Read) or (isinstance(node, CrossFlag) and node.action == "wait") or pipe in _pipes(node):
            kept.append(node)
    return tuple(kept)


def equivalent(original: Placed, changed: Placed, *sizes: Mapping[str, int]) -> str | None:
    """The class of the proof that ``changed`` computes what ``original`` does at all of ``sizes``, or None when there
    is none."""
    if same_queues(original, changed):
        return "same queues"
    if unproved(_in_order(changed)) is not None:
        return None
    names = {id(n): i for i, n in enumerate(statements(original.body)) if isinstance(n, Instruction)}
    if any(isinstance(n, Instruction) and id(n) not in names for n in statements(changed.body)):
        return None
    for dims in sizes:
        instances: dict[tuple[object, ...], int] = {}
        if _Sources(original, dims, names, instances).all() != _Sources(changed, dims, names, instances).all():
            return None
    return "same sources, in order" if original.buffers == changed.buffers else "same sources, other addresses"


def _in_order(placed: Placed) -> Placed:
    """The same program for each core, statements of different cores in an order that has each set before its wait."""
    sent: Counter[int] = Counter()

    def arrange(body: tuple[Node, ...]) -> tuple[Node, ...]:
        left, result = list(body), list[Node]()
        while left:
            at = _next(left, sent)
            if at is None:
                return (*result, *left)
            node = left.pop(at)
            if isinstance(node, CrossFlag):
                sent[node.edge] += 1 if node.action == "set" else -1
            result.append(replace(node, body=arrange(node.body)) if isinstance(node, Loop) else node)
        return tuple(result)

    return replace(placed, body=arrange(placed.body))


def _next(left: list[Node], sent: Counter[int]) -> int | None:
    """The first statement that may come next: all before it on its core have, and what it waits for was set."""
    held: set[str] = set()
    for n, node in enumerate(left):
        cores = {s.core for s in statements((node,))}
        stuck = isinstance(node, CrossFlag) and node.action == "wait" and not sent[node.edge]
        if not cores & held and not stuck:
            return n
        held |= cores
    return None


@dataclass(slots=True)
class _State:
    """Of each byte of a memory: which byte of which result it is (-1: nobody's), and the buffer it was written for."""

    origin: Array
    owner: Array


@dataclass
class _Sources:
    """What each instruction reads when one statement runs after the other."""

    placed: Placed
    dims: Mapping[str, int]
    names: Mapping[int, int]
    instances: dict[tuple[object, ...], int]
    memories: dict[tuple[object, ...], _State] = field(default_factory=dict)

    def all(self) -> dict[object, object]:
        """By instruction and iteration, a digest of the bytes it reads; by output, its bytes."""
        self.buffers = {b.name: b for b in self.placed.buffers}
        self.geometry = {b.name: geometry(b, self.dims) for b in self.placed.buffers}
        self.numbers = {b.name: i for i, b in enumerate(self.placed.buffers)}
        found: dict[object, object] = {}
        for core, sub, item in self._items():
            node = item.node
            sources = [s for s in item.sources if isinstance(s, Touch)]
            if not isinstance(node, Instruction) or item.dst.empty or any(s.empty for s in sources):
                continue
            number = self.instances.setdefault((self.names[id(node)], item.where, core, sub), len(self.instances) + 1)
            if node.adds and (node.op != "mmad" or item.init != 0):
                sources.append(item.dst)
            reads = [self._read(s, core, sub) for s in sources]
            moved = None
            if node.op in ("load", "drain"):
                moved = self._moved(node, item, reads.pop())
            found[number] = hash((tuple(r.tobytes() for r in reads), item.init))
            for t in (item.dst, *([item.scratch] if item.scratch else [])):
                self._write(t, core, sub, number, moved)
        for p in self.placed.kernel.params:
            if p.role == "out":
                found[p.name] = self._memory(p.name, "", 0).origin.tobytes()
        return found

    def _items(self) -> Iterator[tuple[str, int, Item]]:
        """Statements of one group in the order of the tree; cores that never meet one after the other."""
        vectors = max(1, int(self.placed.target.extra["subblocks"]))
        subs = {core: range(vectors if core == "vector" else 1) for core in self.placed.cores}
        apart = len(self.placed.cores) == 1
        for alone in subs[self.placed.cores[0]] if apart else (0,):
            env = {**self.dims, "_group": 0, "_groups": 1, "_sub": alone}
            for node, values, where in walk(self.placed.body, env, ""):
                for sub in (alone,) if apart else subs[node.core]:
                    yield node.core, sub, item_of(node, self.buffers, {**values, "_sub": sub}, where)

    def _memory(self, buffer: str, core: str, sub: int) -> _State:
        b, g = self.buffers[buffer], self.geometry[buffer]
        key: tuple[object, ...] = ("gm", buffer) if b.scope == "gm" else (core, sub, b.scope)
        if key not in self.memories:
            size = g.slot_bytes * g.slots if b.scope == "gm" else self.placed.target.memory[b.scope].size
            size += -size % 32  # what lies behind a tensor is there where whole blocks move
            self.memories[key] = _State(np.full(size, -1, np.int64), np.full(size, -1, np.int64))
            if b.scope == "gm" and not b.workspace:
                self.memories[key].origin[:] = np.arange(size) - (self.numbers[buffer] + 1) * _ROOM
                self.memories[key].owner[:] = self.numbers[buffer]
        return self.memories[key]

    def _moved(self, node: Instruction, item: Item, read: Array) -> Array:
        """What the bytes of whole fractals are once they are moved, in the shape of the destination."""
        if node.op == "load":
            return read.swapaxes(0, 1) if node.transpose else read
        across, down, lanes = item.dst.counts
        source, size = self.buffers[node.reads[0].buffer], self.buffers[item.dst.buffer].element_bytes
        kinds = (source.dtype, self.buffers[item.dst.buffer].dtype)
        if kinds[0] != kinds[1]:
            read = self._converted(read, (node.op, kinds, item.values), size)
        return read.reshape(down, across, lanes, size).swapaxes(0, 1)

    def _converted(self, read: Array, how: tuple[object, ...], size: int) -> Array:
        """Elements of ``size`` bytes, each of them a function ``how`` of one that was read: of equal ones, equal."""
        elements, back = np.unique(read.reshape(-1, read.shape[-1]), axis=0, return_inverse=True)
        keys = [(how, e.tobytes()) for e in elements]
        known = [
            -1 if -1 in e else self.instances.setdefault(k, len(self.instances) + 1)
            for k, e in zip(keys, elements, strict=True)
        ]
        number = np.asarray(known, np.int64)[back.reshape(read.shape[:-1])][..., None]
        return np.where(number < 0, -1, number * _ROOM + np.arange(size))

    def _bytes(self, t: Touch) -> Array:
        g = self.geometry[t.buffer]
        return byte_index(t, g)[..., None] + np.arange(g.element_bytes)

    def _read(self, t: Touch, core: str, sub: int) -> Array:
        memory, index = self._memory(t.buffer, core, sub), self._bytes(t)
        return np.where(memory.owner[index] == self.numbers[t.buffer], memory.origin[index], -1)

    def _write(self, t: Touch, core: str, sub: int, number: int, moved: Array | None) -> None:
        memory, index = self._memory(t.buffer, core, sub), self._bytes(t)
        own = number * _ROOM + np.arange(index.size).reshape(index.shape)
        memory.origin[index] = own if moved is None else moved
        memory.owner[index] = self.numbers[t.buffer]
