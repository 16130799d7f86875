"""Stable text of a placed kernel, one statement a line, one program a core."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.backends.ascend.placed.form import (
    Barrier,
    Block,
    Buffer,
    CrossFlag,
    Flag,
    Instruction,
    Let,
    Loop,
    Node,
    Operand,
    Parameter,
    Placed,
    Read,
    Scalar,
    View,
    program_of,
)
from tilewright.ir.symbolic import Expr

#: Expressions longer than this get a name of their own in the text of a whole kernel.
_LONG = 20


def text_of(placed: Placed) -> str:
    """The whole kernel: buffers, named expressions, the program of each kind of core, the synchronisation edges."""
    names = _Names()
    programs: list[str] = []
    for core in placed.cores:
        programs.append(f"{core} core:")
        _body(program_of(placed.body, core), programs, 1, names)
    lines = [f"placed {placed.kernel.name} for {placed.target.spelling}, {placed.blocks} blocks"]
    lines += [f"  {_buffer(b)}" for b in placed.buffers]
    lines += [f"  {name} = {e}" for e, name in names.given.items()]
    lines += programs
    lines.append("edges:")
    for e in placed.edges:
        where = f" in {e.loop}" if e.loop else ""
        lines.append(f"  {e.number}: {e.kind} {e.source} -> {e.sink}{where} +{e.distance}  # {e.reason}")
    return "\n".join(lines) + "\n"


class _Names:
    """Short names for long expressions, in order of first use."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}

    def __call__(self, e: Expr) -> str:
        text = str(e)
        return text if len(text) <= _LONG else self.given.setdefault(text, f"${len(self.given)}")


def _buffer(b: Buffer) -> str:
    shape = ", ".join(map(str, b.shape))
    if b.scope == "gm":
        return f"{b.name}: {b.dtype}[{shape}] @ {'workspace' if b.workspace else 'gm'}" + (
            f" x {b.slots} by {b.rotates}" if b.slots > 1 else ""
        )
    slots = f" x {b.slots} by {b.rotates}" if b.slots > 1 else ""
    return f"{b.name}: {b.dtype}[{shape}] {b.layout} @ {b.scope} {b.address:#x}..{b.end:#x}{slots}"


def _body(body: tuple[Node, ...], lines: list[str], depth: int, name: Callable[[Expr], str]) -> None:
    for node in body:
        if isinstance(node, Loop):
            lines.append(f"{'  ' * depth}for {node.var} in range({name(node.lo)}, {name(node.hi)}, {name(node.step)}):")
            _body(node.body, lines, depth + 1, name)
        else:
            lines.append("  " * depth + statement_text(node, name))


def statement_text(
    node: Instruction | Flag | CrossFlag | Barrier | Read | Let, name: Callable[[Expr], str] = str
) -> str:
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
        case Read():
            swap = " with {} for {}".format(*reversed(node.swap)) if node.swap is not None else ""
            add = f" plus {name(node.add)}" if node.add is not None else ""
            bad = f" else {node.bad}" if node.bad else ""
            wrap = f" wrapping by {name(node.wrap)}" if node.wrap is not None else ""
            return f"{node.var} = read {_operand(node.source, name)}{swap}{add}{wrap} below {name(node.limit)}{bad}"
        case Let():
            return f"{node.var} = {name(node.value)} below {name(node.limit)}"
    parts = [_operand(node.dst, name), *(_operand(s, name) for s in node.srcs)]
    if node.init is not None:
        parts.append(f"start if {node.init} == 0")
    if node.transpose:
        parts.append("transpose")
    parts += [f"{key}={_parameter(value)}" for key, value in node.parameters]
    if node.scratch is not None:
        parts.append(f"scratch {_operand(node.scratch, name)}")
    return f"{node.pipe:<4} {node.op} " + ", ".join(parts)


def _parameter(value: Parameter) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)


def _operand(operand: Operand, name: Callable[[Expr], str]) -> str:
    match operand:
        case Scalar(value=value):
            return f"({value})" if isinstance(value, Expr) else repr(value)
        case View():
            dims = " ".join(f"{name(count)}:{name(stride)}" for count, stride in operand.dims)
            return f"{_slotted(operand)}[{name(operand.offset)} | {dims}]"
        case Block():
            place = f"{name(operand.row)}+{name(operand.rows)}, {name(operand.column)}+{name(operand.columns)}"
            return f"{_slotted(operand)}[{place}{' whole' if operand.whole else ''}]"


def _slotted(access: View | Block) -> str:
    return access.buffer if access.slot == 0 else f"{access.buffer}.{access.slot}"
