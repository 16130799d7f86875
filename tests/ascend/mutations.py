"""Ways to damage a placed program: every one must be refused, or change no bit of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tilewright.backends.ascend.placed.form import (
    Barrier,
    Block,
    CrossFlag,
    Flag,
    Instruction,
    Loop,
    Node,
    Placed,
    View,
    statements,
    without_edge,
)

Mutant = tuple[str, Placed]


def without_edges(placed: Placed) -> Iterator[Mutant]:
    """One whole synchronisation edge less: its sets and waits, or its barrier."""
    for e in placed.edges:
        yield f"edge {e.number} ({e.kind} {e.source}->{e.sink} +{e.distance})", without_edge(placed, e.number)


def without_statements(placed: Placed) -> Iterator[Mutant]:
    """One set, wait or barrier less, its partner staying."""
    for path, body in _bodies(placed.body):
        for i, node in enumerate(body):
            if isinstance(node, Flag | CrossFlag | Barrier):
                yield f"{type(node).__name__} at {path}.{i}", _with_body(placed, path, body[:i] + body[i + 1 :])


def swapped(placed: Placed) -> Iterator[Mutant]:
    """Two neighbouring statements of one core in the other order."""
    for path, body in _bodies(placed.body):
        for i, node in enumerate(body):
            if isinstance(node, Loop):
                continue
            j = next((n for n in range(i + 1, len(body)) if _core(body[n]) in (node.core, None)), None)
            if j is not None and _core(body[j]) == node.core:
                changed = list(body)
                changed[i], changed[j] = changed[j], changed[i]
                yield f"swap {path}.{i} and {j}", _with_body(placed, path, tuple(changed))


def shrunk(placed: Placed) -> Iterator[Mutant]:
    """A local buffer or workspace with half its rows, or with one slot instead of two."""
    for n, b in enumerate(placed.buffers):
        if b.scope == "gm" and not b.workspace:
            continue
        if b.slots > 1:
            yield f"{b.name} with one slot", _with_buffer(placed, n, replace(b, slots=1))
        if b.shape[0].value > 1:
            smaller = (b.shape[0] // 2, *b.shape[1:])
            yield f"{b.name} with half its rows", _with_buffer(placed, n, replace(b, shape=smaller))


def overlapped(placed: Placed) -> Iterator[Mutant]:
    """Each buffer moved onto the one before it in the same memory, the last that is not there already."""
    for n, b in enumerate(placed.buffers):
        others = [o for o in placed.buffers[:n] if o.scope == b.scope and o.core == b.core and o.address != b.address]
        if b.scope != "gm" and others:
            yield f"{b.name} over {others[-1].name}", _with_buffer(placed, n, replace(b, address=others[-1].address))


def halfway(placed: Placed) -> Iterator[Mutant]:
    """Each buffer moved down into the upper half of what ends in front of it."""
    for n, b in enumerate(placed.buffers):
        others = [o for o in placed.buffers if o.scope == b.scope != "gm" and o.core == b.core]
        below = [o for o in others if o.end <= b.address]
        if not below:
            continue
        align, last = int(placed.target.extra["alignment"][b.scope]), max(below, key=lambda o: (o.end, o.name))
        half = (last.end - last.address) // 2 // align * align
        yield f"{b.name} over half of {last.name}", _with_buffer(placed, n, replace(b, address=last.address + half))


def misaligned(placed: Placed) -> Iterator[Mutant]:
    """Each local buffer moved by half of what its memory's alignment is."""
    for n, b in enumerate(placed.buffers):
        if b.scope != "gm":
            step = int(placed.target.extra["alignment"][b.scope]) // 2
            yield f"{b.name} moved by {step}", _with_buffer(placed, n, replace(b, address=b.address + step))


def shifted(placed: Placed) -> Iterator[Mutant]:
    """One access two elements further on than it should be."""
    for path, body in _bodies(placed.body):
        for i, node in enumerate(body):
            if isinstance(node, Instruction) and placed.buffer(node.dst.buffer).scope != "gm":
                dst = node.dst
                moved = replace(dst, offset=dst.offset + 2) if isinstance(dst, View) else _down(dst)
                changed = (*body[:i], replace(node, dst=moved), *body[i + 1 :])
                yield f"{node.op} at {path}.{i}", _with_body(placed, path, changed)


def doubled(placed: Placed) -> Iterator[Mutant]:
    """One set or wait twice."""
    for path, body in _bodies(placed.body):
        for i, node in enumerate(body):
            if isinstance(node, Flag | CrossFlag):
                yield f"{node.action} twice at {path}.{i}", _with_body(placed, path, (*body[:i], node, *body[i:]))


def exchanged(placed: Placed) -> Iterator[Mutant]:
    """One set or wait with the event of another edge between the same pipes."""
    flags = [n for n in statements(placed.body) if isinstance(n, Flag)]
    for path, body in _bodies(placed.body):
        for i, node in enumerate(body):
            if not isinstance(node, Flag):
                continue
            ends = (node.core, node.src, node.dst)
            others = [f.events for f in flags if (f.core, f.src, f.dst) == ends and not {*f.events} & {*node.events}]
            if others:
                changed = (*body[:i], replace(node, events=others[0]), *body[i + 1 :])
                yield f"{node.action} of {others[0]} at {path}.{i}", _with_body(placed, path, changed)


MUTATIONS: dict[str, Callable[[Placed], Iterator[Mutant]]] = {
    "edge": without_edges,
    "statement": without_statements,
    "double": doubled,
    "exchange": exchanged,
    "swap": swapped,
    "shrink": shrunk,
    "overlap": overlapped,
    "half": halfway,
    "misalign": misaligned,
    "shift": shifted,
}


def _down(block: Block) -> Block:
    return replace(block, row=block.row + 1)


def _core(node: Node) -> str | None:
    return None if isinstance(node, Loop) else node.core


def _bodies(body: tuple[Node, ...], path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], tuple[Node, ...]]]:
    yield path, body
    for i, node in enumerate(body):
        if isinstance(node, Loop):
            yield from _bodies(node.body, (*path, i))


def _with_body(placed: Placed, path: tuple[int, ...], new: tuple[Node, ...]) -> Placed:
    def rebuild(body: tuple[Node, ...], rest: tuple[int, ...]) -> tuple[Node, ...]:
        if not rest:
            return new
        node = body[rest[0]]
        assert isinstance(node, Loop)
        inner = replace(node, body=rebuild(node.body, rest[1:]))
        return (*body[: rest[0]], inner, *body[rest[0] + 1 :])

    return replace(placed, body=rebuild(placed.body, path))


def _with_buffer(placed: Placed, n: int, buffer: object) -> Placed:
    buffers = (*placed.buffers[:n], buffer, *placed.buffers[n + 1 :])
    return replace(placed, buffers=buffers)  # type: ignore[arg-type]
