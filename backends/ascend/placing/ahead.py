"""Transfers that a turn of a loop issues for the turn behind it.

A scalar unit issues in the order of the program, and the queue in front of a pipe is short: where a turn has many
vector instructions, what the next one reads would be asked for only when most of them are done. So rows that come into
a buffer of two slots are brought in one turn ahead: those of the first turn in front of the loop, the others at the
beginning of the turn before. Behind the last turn there is nothing to bring in. In an inner loop, what is read only
behind many vector instructions comes at the beginning of its own turn: that is early enough, and those instructions of
the first turn need not wait for it in front of the loop.
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


def brought_ahead(placed: Placed, inner: bool = True) -> Placed:
    """``placed``, which has slots and addresses but no synchronisation, with its transfers issued a turn ahead;
    ``inner``: those of inner loops as well."""
    if any(isinstance(n, Instruction) and n.pipe in ("M", "FIX") for n in statements(placed.body)):
        return placed
    return replace(placed, body=_ahead(placed, placed.body, (), inner))


def _ahead(placed: Placed, body: tuple[Node, ...], around: tuple[str, ...], deep: bool) -> tuple[Node, ...]:
    """The same for a body with the loops ``around``; ``deep``: for loops inside of its loops as well."""
    nodes: list[Node] = []
    for node in body:
        nodes += _turned(placed, node, around, deep) if isinstance(node, Loop) else [node]
    return tuple(nodes)


def _turned(placed: Placed, loop: Loop, around: tuple[str, ...], deep: bool) -> list[Node]:
    """``loop``, and in front of it what its first turn reads."""
    inner = [n for n in statements(loop.body) if isinstance(n, Instruction)]
    if sum(n.pipe == "V" for n in inner) < _MANY or any(isinstance(n, Read) for n in statements(loop.body)):
        return [loop]
    moved = [n for n in loop.body if isinstance(n, Instruction) and _may_move(placed, n, loop, inner, around)]
    if deep:
        loop = replace(loop, body=_ahead(placed, loop.body, (*around, loop.var), deep))
    if not moved:
        return [loop]
    now = [n for n in moved if around and _vectors_before(n, inner) >= _MANY]
    ahead = [n for n in moved if n not in now]
    following = symbol(loop.var) + loop.step
    first = [_shifted(n, loop, loop.lo, symbol(counter(loop.var)) if around else ZERO) for n in ahead]
    later = [_shifted(n, loop, following, symbol(counter(loop.var)) + 1) for n in ahead]
    return [*first, replace(loop, body=(*now, *later, *(n for n in loop.body if n not in moved)))]


def _vectors_before(node: Instruction, inner: list[Instruction]) -> int:
    """Vector instructions of a turn in front of the first one that reads what ``node`` brings in."""
    vectors = [n for n in inner if n.pipe == "V"]
    reading = [any(r.buffer == node.dst.buffer for r in n.reads) for n in vectors]
    return reading.index(True) if True in reading else 0


def _may_move(placed: Placed, node: Instruction, loop: Loop, inner: list[Instruction], around: tuple[str, ...]) -> bool:
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
    fixed = {name for name, _ in placed.kernel.facts} | {"_group", "_groups", "_sub", loop.var, *around}
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
