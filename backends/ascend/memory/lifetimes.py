"""At which instructions of a placed program each buffer holds something that is read later.

Liveness is followed backwards through the tree, one iteration of a loop after the other until nothing changes. What is
open at a place are the reads behind it whose bytes no write has covered yet; a buffer with an open read lives. A read
whose place depends on the variable of a loop counts as one of the whole buffer outside of an iteration. Loops that may
run zero times are passed by as well. The order is that of the tree, which is the order in which values flow; that the
pipes keep to it where buffers share bytes is what the synchronisation sees to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tilewright.backends.ascend.memory.covers import covers
from tilewright.backends.ascend.placed.form import (
    Access,
    Block,
    Buffer,
    Instruction,
    Let,
    Loop,
    Node,
    Placed,
    Read,
    counter,
)
from tilewright.backends.ascend.synchronization.facts import Facts, facts_of, trips_of
from tilewright.ir.symbolic import Expr

#: Reads whose bytes no write behind them has covered; ``None`` is the whole buffer.
_Open = frozenset[tuple[str, Access | None]]

#: More open reads of one buffer than these count as one of the whole.
_MOST = 16


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Numbers of instructions in program order, as bits of an integer.

    Attributes:
        live: where each buffer holds something that is still read, or is accessed.
        rotation: the instructions of the loop that a buffer rotates with, and all between its accesses.
        nest: the instructions of the outermost loops that a buffer is accessed in, and all between those.
        pipes: the pipes that access a buffer.
        count: how many instructions there are.
    """

    live: Mapping[str, int]
    rotation: Mapping[str, int]
    nest: Mapping[str, int]
    pipes: Mapping[str, frozenset[str]]
    count: int


def lifetimes(placed: Placed) -> Lifetimes:
    """When the buffers of ``placed`` live; their addresses and slots do not matter."""
    walk = _Walk(placed, facts_of(placed))
    tree = _numbered(placed.body, 0)
    walk.body(tree, frozenset())
    ends: dict[str, list[int]] = {}
    pipes: dict[str, set[str]] = {}
    for at, node in _sites(tree):
        for access in (*node.reads, *node.writes):
            ends.setdefault(access.buffer, []).append(at)
            pipes.setdefault(access.buffer, set()).add(node.pipe)
    loops = {loop.var: _mask(first, last) for loop, first, last in _loops(tree)}
    outer = [_mask(item.first, item.last) for item in tree]
    rotation, nest = {}, {}
    for b in placed.buffers:
        around = _mask(min(ends[b.name]), max(ends[b.name]) + 1) if b.name in ends else 0
        rotation[b.name] = around | loops.get(b.rotates or "", 0)
        touched = [o for o in outer if o & (around | rotation[b.name])]
        nest[b.name] = touched[0] | touched[-1] | rotation[b.name] if touched else 0
    known = {name: frozenset(p) for name, p in pipes.items()}
    return Lifetimes(walk.live, rotation, nest, known, tree[-1].last if tree else 0)


def _mask(first: int, last: int) -> int:
    return (1 << last) - (1 << first)


@dataclass(frozen=True, slots=True)
class _Item:
    """A node and the numbers of the instructions in it: from ``first`` to in front of ``last``."""

    node: Node
    first: int
    last: int
    body: tuple[_Item, ...] = ()


def _numbered(body: tuple[Node, ...], first: int) -> tuple[_Item, ...]:
    items: list[_Item] = []
    for node in body:
        inner = _numbered(node.body, first) if isinstance(node, Loop) else ()
        last = (inner[-1].last if inner else first) if isinstance(node, Loop) else first + isinstance(node, Instruction)
        items.append(_Item(node, first, last, inner))
        first = last
    return tuple(items)


def _sites(tree: tuple[_Item, ...]) -> Iterator[tuple[int, Instruction]]:
    for item in tree:
        if isinstance(item.node, Instruction):
            yield item.first, item.node
        yield from _sites(item.body)


def _loops(tree: tuple[_Item, ...]) -> Iterator[tuple[Loop, int, int]]:
    for item in tree:
        if isinstance(item.node, Loop):
            yield item.node, item.first, item.last
            yield from _loops(item.body)


class _Walk:
    """``live``: what was found so far."""

    def __init__(self, placed: Placed, facts: Facts):
        self.buffers: dict[str, Buffer] = {b.name: b for b in placed.buffers}
        self.facts = facts
        self.live: dict[str, int] = dict.fromkeys(self.buffers, 0)

    def body(self, items: tuple[_Item, ...], after: _Open) -> _Open:
        """What is open in front of ``items``, when ``after`` is open behind them."""
        for item in reversed(items):
            match item.node:
                case Loop():
                    after = self._loop(item, item.node, after)
                case Instruction():
                    after = self._instruction(item.first, item.node, after)
                case Read() | Let():
                    after = _widened(after, {item.node.var})
        return after

    def _loop(self, item: _Item, loop: Loop, after: _Open) -> _Open:
        varying = {loop.var, counter(loop.var)}
        behind = after
        while True:
            before = self.body(item.body, behind)
            # Together with what was open already: what is followed only grows, so this ends.
            again = _bounded(behind | _widened(before, varying))
            if again == behind:
                break
            behind = again
        before = _widened(before, varying)
        return before if trips_of(loop, self.facts).least > 0 else _bounded(before | after)

    def _instruction(self, at: int, node: Instruction, after: _Open) -> _Open:
        reads: tuple[Access, ...] = node.reads
        if node.op == "mmad" and node.init is not None:
            reads = (*reads, node.dst)
        local = [a for a in reads if self.buffers[a.buffer].scope != "gm"]
        left = frozenset(o for o in after if not any(self._covered(w, *o) for w in node.writes))
        before = left | {(a.buffer, a) for a in local}
        for name in {o[0] for o in (*before, *after)} | {a.buffer for a in (*reads, *node.writes)}:
            self.live[name] |= 1 << at
        return _bounded(before)

    def _covered(self, written: Access, name: str, read: Access | None) -> bool:
        return written.buffer == name and covers(written, read, self.buffers[name], self.facts)


def _symbols(access: Access) -> frozenset[str] | set[str]:
    if isinstance(access, Block):
        parts: tuple[Expr, ...] = (access.row, access.column, access.rows, access.columns, access.slot)
    else:
        parts = (access.offset, access.slot, *(e for d in access.dims for e in d))
    return set().union(*(e.symbols for e in parts))


def _widened(opened: _Open, varying: set[str]) -> _Open:
    """Reads whose place depends on ``varying`` as reads of the whole."""
    return frozenset((name, None if a is not None and _symbols(a) & varying else a) for name, a in opened)


def _bounded(opened: _Open) -> _Open:
    """Few reads of each buffer: a read of the whole stands for all others."""
    count: dict[str, int] = {}
    for name, a in opened:
        count[name] = count.get(name, 0) + (1 if a is not None else _MOST)
    many = {name for name, n in count.items() if n > _MOST}
    if not many:
        return opened
    return frozenset({(name, a) for name, a in opened if name not in many} | {(name, None) for name in many})
