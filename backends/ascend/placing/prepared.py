"""Operands that vector cores prepare for the cube core, a turn of the blocks ahead where they take sums from it, too.

A vector core runs its program in order: pixels put together for a block, then the sums of that block, for which it
waits. The cube core would wait for the next pixels all that time. So those of the first block are made in front of the
loop, and in each turn those of the next block before the sums of this one. Behind the last block there is nothing to
make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tilewright.backends.ascend.placed.form import (
    Access,
    Block,
    Buffer,
    Instruction,
    Loop,
    Node,
    Operand,
    Placed,
    Scalar,
    View,
    counter,
    statements,
)
from tilewright.ir.symbolic import ZERO, Expr, maximum, minimum, symbol


def prepared_ahead(placed: Placed) -> Placed:
    """``placed``, which has slots and addresses but no synchronisation, with such operands made a turn ahead."""
    nodes: list[Node] = []
    for node in placed.body:
        nodes += _turned(placed, node) if isinstance(node, Loop) else [node]
    return replace(placed, body=tuple(nodes))


def _turned(placed: Placed, loop: Loop) -> list[Node]:
    """``loop``, and in front of it what prepares its first turn."""
    inner = [n for n in statements(loop.body) if isinstance(n, Instruction)]
    buffers = {b.name: b for b in placed.buffers}
    summed = {n.dst.buffer for n in inner if n.pipe == "FIX" and buffers[n.dst.buffer].workspace}
    takes = any(n.op == "drain" or (n.op == "copy_in" and _sources(n) & summed) for n in inner)
    chain = _chain(loop, inner, buffers) if takes else []
    if not chain or not all(_may_move(n, loop, placed, buffers) for n in chain):
        return [loop]
    after, turn = symbol(loop.var) + loop.step, symbol(counter(loop.var))
    first = [_shifted(n, loop, loop.lo, ZERO) for n in chain]
    later = [_shifted(n, loop, after, turn + 1) for n in chain]
    return [*first, replace(loop, body=(*later, *(n for n in loop.body if n not in chain)))]


def _sources(node: Instruction) -> set[str]:
    return {a.buffer for a in node.reads}


def _chain(loop: Loop, inner: Sequence[Instruction], buffers: dict[str, Buffer]) -> list[Instruction]:
    """The instructions directly in ``loop`` that make an operand out of inputs in the unified buffer and hand it over,
    where no others have a part in it."""
    body = [n for n in loop.body if isinstance(n, Instruction)]
    ends = [n for n in body if n.pipe == "MTE3" and (n.op == "ub2l1" or buffers[n.dst.buffer].workspace)]
    chain, wanted = list(ends), set().union(*map(_sources, ends))
    while True:
        found = [n for n in inner if n.dst.buffer in wanted and n not in chain]
        if not found:
            break
        chain += found
        wanted |= set().union(*map(_sources, found))
    own = {n.dst.buffer for n in chain if buffers[n.dst.buffer].scope == "ub"}
    shared = any(_sources(n) & own for n in inner if n not in chain)
    if shared or any(n not in body for n in chain) or not any(n.op == "copy_in" for n in chain):
        return []
    return [n for n in body if n in chain]


def _may_move(node: Instruction, loop: Loop, placed: Placed, buffers: dict[str, Buffer]) -> bool:
    """Whether the turn's number alone tells what ``node`` does, and slots keep its turns apart."""
    inputs = {p.name for p in placed.kernel.params if p.role != "out"}
    known = {name for name, _ in placed.kernel.facts} | {"_group", "_groups", "_sub", loop.var, counter(loop.var)}
    views = [a for a in (*node.reads, node.dst) if isinstance(a, View)]
    if len(views) < 1 + len(node.reads) or node.init is not None or node.scratch is not None:
        return False
    if any(isinstance(value, Expr) for _, value in node.parameters):
        return False
    for v in views:
        b = buffers[v.buffer]
        exprs = [v.offset, v.slot, *(e for d in v.dims for e in d)]
        if not all(e.symbols <= known for e in exprs) or counter(loop.var) in v.offset.symbols:
            return False
        if b.rotates is not None and (b.rotates != loop.var or v.slot != symbol(counter(loop.var))):
            return False
        if b.scope == "gm" and not b.workspace and v.buffer not in inputs:
            return False
    handed = buffers[node.dst.buffer]
    return handed.scope == "ub" or handed.slots >= 2


def _shifted(node: Instruction, loop: Loop, turn: Expr, slot: Expr) -> Instruction:
    """``node`` for the turn that begins with ``turn``, if there is such a turn."""
    present = minimum(1, maximum(0, loop.hi - turn))
    given = {loop.var: turn}

    def move(a: Operand) -> Operand:
        if isinstance(a, Scalar):
            return Scalar(a.value.substitute(given)) if isinstance(a.value, Expr) else a
        return moved(a)

    def moved(a: Access) -> Access:
        assert not isinstance(a, Block)
        dims = [(c.substitute(given), s.substitute(given)) for c, s in a.dims]
        dims[0] = (dims[0][0] * present, dims[0][1])
        return View(a.buffer, a.offset.substitute(given), tuple(dims), slot if a.slot.symbols else a.slot)

    return replace(node, dst=moved(node.dst), srcs=tuple(map(move, node.srcs)))
