"""Stable text of a placed kernel, one statement a line, one program a core."""

from __future__ import annotations

from tilewright.backends.ascend.placed import (
    Barrier,
    Block,
    Buffer,
    CrossFlag,
    Flag,
    Instruction,
    Loop,
    Node,
    Operand,
    Placed,
    Scalar,
    View,
    program_of,
)
from tilewright.ir.symbolic import Expr


def text_of(placed: Placed) -> str:
    """The whole kernel: buffers, then the program of each kind of core, then the synchronisation edges."""
    lines = [f"placed {placed.kernel.name} for {placed.target.spelling}, {placed.blocks} blocks"]
    lines += [f"  {_buffer(b)}" for b in placed.buffers]
    for core in placed.cores:
        lines.append(f"{core} core:")
        _body(program_of(placed.body, core), lines, 1)
    lines.append("edges:")
    for e in placed.edges:
        where = f" in {e.loop}" if e.loop else ""
        lines.append(f"  {e.number}: {e.kind} {e.source} -> {e.sink}{where} +{e.distance}  # {e.reason}")
    return "\n".join(lines) + "\n"


def _buffer(b: Buffer) -> str:
    shape = ", ".join(map(str, b.shape))
    if b.scope == "gm":
        return f"{b.name}: {b.dtype}[{shape}] @ {'workspace' if b.workspace else 'gm'}" + (
            f" x {b.slots} by {b.rotates}" if b.slots > 1 else ""
        )
    slots = f" x {b.slots} by {b.rotates}" if b.slots > 1 else ""
    return f"{b.name}: {b.dtype}[{shape}] {b.layout} @ {b.scope} {b.address:#x}..{b.end:#x}{slots}"


def _body(body: tuple[Node, ...], lines: list[str], depth: int) -> None:
    for node in body:
        if isinstance(node, Loop):
            lines.append(f"{'  ' * depth}for {node.var} in range({node.lo}, {node.hi}, {node.step}):")
            _body(node.body, lines, depth + 1)
        else:
            lines.append("  " * depth + statement_text(node))


def statement_text(node: Instruction | Flag | CrossFlag | Barrier) -> str:
    """One statement."""
    match node:
        case Flag():
            events = "/".join(map(str, node.events))
            turn = f"[{node.slot}]" if len(node.events) > 1 else ""
            return f"{node.action}_flag {node.src}->{node.dst} {events}{turn}  # edge {node.edge}"
        case CrossFlag():
            pipe = f" {node.pipe}" if node.action == "set" else ""
            return f"cross_{node.action}{pipe} {node.flag}  # edge {node.edge}"
        case Barrier():
            return f"barrier {node.pipe}  # edge {node.edge}"
    parts = [_operand(node.dst), *(_operand(s) for s in node.srcs)]
    if node.init is not None:
        parts.append(f"start if {node.init} == 0")
    if node.transpose:
        parts.append("transpose")
    if node.scratch is not None:
        parts.append(f"scratch {_operand(node.scratch)}")
    return f"{node.pipe:<4} {node.op} " + ", ".join(parts)


def _operand(operand: Operand) -> str:
    match operand:
        case Scalar(value=value):
            return f"({value})" if isinstance(value, Expr) else repr(value)
        case View():
            dims = " ".join(f"{count}:{stride}" for count, stride in operand.dims)
            return f"{_name(operand.buffer, operand.slot)}[{operand.offset} | {dims}]"
        case Block():
            place = f"{operand.row}+{operand.rows}, {operand.column}+{operand.columns}"
            return f"{_name(operand.buffer, operand.slot)}[{place}{' whole' if operand.whole else ''}]"


def _name(buffer: str, slot: Expr) -> str:
    return buffer if slot == 0 else f"{buffer}.{slot}"
