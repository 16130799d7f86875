"""Transfers that a turn of the outermost loop issues for the turn behind it.

A scalar unit issues in the order of the program, and the queue in front of a pipe is short: where a turn has many
vector instructions, what the next one reads would be asked for only when most of them are done. So rows that come into
a buffer of two slots are brought in one turn ahead: those of the first turn in front of the loop, the others at the
beginning of the turn before. Behind the last turn there is nothing to bring in.
"""

from __future__ import annotations

from dataclasses import replace

from tilewright.backends.ascend.placed.form import (
    Access,
    Block,
    Instruction,
    Loop,
    Node,
    Placed,
    Read,
    View,
    counter,
    statements,
)
from tilewright.ir.symbolic import ZERO, Expr, maximum, minimum, symbol

#: Vector instructions of a turn from which on it is done: with their barriers they fill most of a queue.
_MANY = 10


def brought_ahead(placed: Placed) -> Placed:
    """``placed``, which has slots and addresses but no synchronisation, with its transfers issued a turn ahead."""
    if any(isinstance(n, Instruction) and n.pipe in ("M", "FIX") for n in statements(placed.body)):
        return placed
    nodes: list[Node] = []
    for node in placed.body:
        nodes += _turned(placed, node) if isinstance(node, Loop) else [node]
    return replace(placed, body=tuple(nodes))


def _turned(placed: Placed, loop: Loop) -> list[Node]:
    """``loop``, and in front of it what its first turn reads."""
    inner = [n for n in statements(loop.body) if isinstance(n, Instruction)]
    if sum(n.pipe == "V" for n in inner) < _MANY or any(isinstance(n, Read) for n in statements(loop.body)):
        return [loop]
    moved = [n for n in loop.body if isinstance(n, Instruction) and _may_move(placed, n, loop, inner)]
    if not moved:
        return [loop]
    following = symbol(loop.var) + loop.step
    first = [_shifted(n, loop, loop.lo, ZERO) for n in moved]
    later = [_shifted(n, loop, following, symbol(counter(loop.var)) + 1) for n in moved]
    return [*first, replace(loop, body=(*later, *(n for n in loop.body if n not in moved)))]


def _may_move(placed: Placed, node: Instruction, loop: Loop, inner: list[Instruction]) -> bool:
    """Whether ``node`` alone fills a buffer of two slots from an input, at a place that the turn's number tells."""
    if node.op != "copy_in" or not isinstance(node.dst, View) or not isinstance(node.srcs[0], View):
        return False
    to, source = placed.buffer(node.dst.buffer), node.srcs[0]
    if to.slots != 2 or to.rotates != loop.var or node.dst.slot != symbol(counter(loop.var)):
        return False
    inputs = {p.name for p in placed.kernel.params if p.role != "out"}
    written = {w.buffer for n in statements(placed.body) if isinstance(n, Instruction) for w in n.writes}
    aliased = {p.alias for p in placed.kernel.params if p.alias is not None}
    writers = [n for n in inner if any(w.buffer == to.name for w in n.writes)]
    if source.buffer not in inputs - written - aliased or writers != [node]:
        return False
    fixed = {name for name, _ in placed.kernel.facts} | {"_group", "_groups", "_sub", loop.var}
    used = [source.offset, node.dst.offset, *(e for v in (source, node.dst) for d in v.dims for e in d)]
    return all(e.symbols <= fixed for e in used)


def _shifted(node: Instruction, loop: Loop, turn: Expr, slot: Expr) -> Instruction:
    """``node`` for the turn that begins with ``turn``, if there is such a turn."""
    present = minimum(1, maximum(0, loop.hi - turn))

    def move(a: Access, to: Expr) -> Access:
        assert not isinstance(a, Block)
        dims = [(c.substitute({loop.var: turn}), s.substitute({loop.var: turn})) for c, s in a.dims]
        dims[0] = (dims[0][0] * present, dims[0][1])
        return View(a.buffer, a.offset.substitute({loop.var: turn}), tuple(dims), to)

    (source,) = node.reads
    return replace(node, dst=move(node.dst, slot), srcs=(move(source, ZERO),))
