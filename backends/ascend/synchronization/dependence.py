"""Which statements must be ordered: the candidates for synchronisation, found in the tree itself.

Two statements depend on each other when both touch one buffer and at least one writes it. Within a body the earlier one
goes first (an edge of distance 0); around a loop the later one goes before the earlier one of a later iteration: of the
next one, or of the one that gets the same slot again where the buffer rotates with that loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.backends.ascend.placed.form import Block, Buffer, Core, Instruction, Loop, Node, Pipe, Placed, View


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction and where it stands: child numbers from the root, and the loops around it."""

    node: Instruction
    path: tuple[int, ...]
    loops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edge that may be needed. ``body`` is the path of the body, ``after`` and ``before`` its child numbers: set
    behind child ``after``, wait in front of child ``before``. ``loop`` is that body's loop."""

    source: tuple[Core, Pipe]
    sink: tuple[Core, Pipe]
    body: tuple[int, ...]
    loop: str | None
    after: int
    before: int
    distance: int
    slots: int
    reason: str = ""

    @property
    def is_barrier(self) -> bool:
        return self.source == self.sink

    @property
    def crosses(self) -> bool:
        return self.source[0] != self.sink[0]


def sites(body: tuple[Node, ...], path: tuple[int, ...] = (), loops: tuple[str, ...] = ()) -> Iterator[Site]:
    """Every instruction in program order."""
    for i, node in enumerate(body):
        if isinstance(node, Loop):
            yield from sites(node.body, (*path, i), (*loops, node.var))
        elif isinstance(node, Instruction):
            yield Site(node, (*path, i), loops)


def candidates(placed: Placed) -> list[Candidate]:
    """A set of edges that is enough, with what dominates nothing else left out."""
    found: dict[Candidate, None] = {}
    all_sites = list(sites(placed.body))
    buffers = {b.name: b for b in placed.buffers}
    for first in all_sites:
        for second in all_sites:
            for name, kind in _conflicts(first.node, second.node, buffers):
                found.update(dict.fromkeys(_edges(first, second, buffers[name], kind)))
    return _undominated(list(found))


def _conflicts(first: Instruction, second: Instruction, buffers: dict[str, Buffer]) -> Iterator[tuple[str, str]]:
    """Buffers over which ``second`` depends on ``first``, and how."""
    sums = {first.dst.buffer} if first.op == "mmad" else set()
    first_reads = {a.buffer for a in first.reads} | sums
    first_writes = {a.buffer for a in first.writes}
    second_reads = {a.buffer for a in second.reads}
    second_writes = {a.buffer for a in second.writes}
    for name in sorted(first_writes | first_reads):
        b = buffers[name]
        if b.scope == "gm" and not b.workspace:
            continue  # inputs are never written and no two statements write one place of an output
        if name in first_writes and name in second_reads and not _apart(first, second, name, True):
            yield name, f"{name} is read after it is written"
        elif name in first_writes and name in second_writes and not _apart(first, second, name, False):
            yield name, f"{name} is written again"
        elif name in first_reads and name in second_writes and not _apart(second, first, name, True):
            yield name, f"{name} is overwritten after it is read"


def _apart(writer: Instruction, other: Instruction, name: str, reads: bool) -> bool:
    """Whether constant offsets prove that the accesses of one slot never meet."""
    a = [x for x in writer.writes if x.buffer == name]
    b = [x for x in (other.reads if reads else other.writes) if x.buffer == name]
    if reads and other.op == "mmad" and other.dst.buffer == name:
        b.append(other.dst)
    return all(_disjoint(x, y) for x in a for y in b)


def _disjoint(x: View | Block, y: View | Block) -> bool:
    if not isinstance(x, View) or not isinstance(y, View):
        return False
    spans = []
    for v in (x, y):
        numbers = [v.offset, *(e for dim in v.dims for e in dim)]
        if not all(e.is_constant for e in numbers):
            return False
        spans.append((v.offset.value, v.offset.value + sum((c.value - 1) * s.value for c, s in v.dims)))
    return spans[0][1] < spans[1][0] or spans[1][1] < spans[0][0]


def _edges(first: Site, second: Site, buffer: Buffer, reason: str) -> Iterator[Candidate]:
    common = 0
    for a, b in zip(first.path, second.path, strict=False):
        if a != b:
            break
        common += 1
    same = first.path == second.path
    common = min(common, len(first.path) - 1, len(second.path) - 1)
    body = first.path[:common]
    loop = first.loops[common - 1] if common else None
    after, before = first.path[common], second.path[common]
    source, sink = (first.node.core, first.node.pipe), (second.node.core, second.node.pipe)
    slots = buffer.slots if loop is not None and buffer.rotates == loop else 1
    if source == sink:
        if not same or loop is not None:
            # A barrier stands directly in front of the dependent statement, in its own body.
            inner = second.path[:-1]
            own = second.loops[-1] if second.loops else None
            yield Candidate(source, sink, inner, own, second.path[-1], second.path[-1], 0, 1, reason)
    elif after < before:
        yield Candidate(source, sink, body, loop, after, before, 0, slots, reason)
    elif after > before and loop is not None:
        yield Candidate(source, sink, body, loop, after, before, slots, slots, reason)


def _undominated(found: list[Candidate]) -> list[Candidate]:
    """Leave out an edge where another of its kind is set no earlier and waited for no later."""
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for c in found:
        groups.setdefault((c.source, c.sink, c.body, c.distance, c.slots), []).append(c)
    kept: list[Candidate] = []
    for group in groups.values():
        best: list[Candidate] = []
        for c in group:
            if not any(_covers(o, c) for o in best):
                best = [o for o in best if not _covers(c, o)] + [c]
        kept += best
    return sorted(kept, key=lambda c: (c.body, c.before, c.after, c.source, c.sink, c.distance))


def _covers(a: Candidate, b: Candidate) -> bool:
    if a.is_barrier:
        return a.before == b.before
    return a.after >= b.after and a.before <= b.before
