"""What a placed program must respect before and while it runs: sizes, alignment, layouts, pipes, event numbers."""

from __future__ import annotations

from tilewright.backends.ascend.placed.footprint import Geometry, Touch, byte_index, last_byte
from tilewright.backends.ascend.placed.form import CrossFlag, Flag, Instruction, Placed, statements
from tilewright.backends.ascend.placed.instructions import INSTRUCTIONS
from tilewright.backends.ascend.placed.layout import OTHER_LAYOUTS, SCOPE_LAYOUT
from tilewright.backends.ascend.placed.stream import Item
from tilewright.backends.ascend.placed.text import statement_text
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.target import Target


def check_static(placed: Placed) -> None:
    """Rules that need no execution. Raises :class:`Refused`."""
    target = placed.target
    for b in placed.buffers:
        if b.layout != SCOPE_LAYOUT[b.scope] and b.layout not in OTHER_LAYOUTS.get(b.scope, ()):
            raise Refused("layout", f"{b.name}: {b.layout} in {b.scope}, which holds {SCOPE_LAYOUT[b.scope]}")
        if b.scope == "gm":
            continue
        align = int(target.extra["alignment"][b.scope])
        if b.address % align or (b.slots > 1 and b.slot_bytes % align):
            raise Refused("alignment", f"{b.name} at {b.address:#x}: {b.scope} wants multiples of {align} bytes")
        if b.address < 0 or b.end > target.memory[b.scope].size:
            size = target.memory[b.scope].size
            raise Refused("capacity", f"{b.name} ends at {b.end:#x}, {b.scope} has {size:#x} bytes")
    for node in statements(placed.body):
        match node:
            case Instruction():
                _check_instruction(placed, node)
            case Flag():
                if node.src == node.dst:
                    raise Refused("flag", "a flag orders two pipes", statement_text(node))
                if not all(0 <= e < int(target.extra["event_ids"]) for e in node.events):
                    raise Refused("event ids", "no such event of this pair of pipes", statement_text(node))
            case CrossFlag():
                if not 0 <= node.flag < int(target.extra["cross_flags"]):
                    raise Refused("event ids", "no such cross-core flag", statement_text(node))


def _check_instruction(placed: Placed, node: Instruction) -> None:
    kind = INSTRUCTIONS.get(node.op)
    if kind is None or node.pipe != kind.pipe:
        raise Refused("pipe", f"{node.op} does not run on {node.pipe}", statement_text(node))
    split = "split" in placed.target.features
    if split and node.core == "vector" and node.pipe in ("M", "MTE1", "FIX"):
        raise Refused("pipe", f"a vector core has no {node.pipe}", statement_text(node))
    if split and node.core == "cube" and node.pipe in ("V", "MTE3"):
        raise Refused("pipe", f"a cube core has no {node.pipe}", statement_text(node))
    scopes = tuple(placed.buffer(a.buffer).scope for a in (*node.reads, node.dst))
    fewer = {s[skip:] for s in kind.scopes for skip in range(len(s)) if set(s[:skip]) <= {"ub"}}
    if scopes not in fewer:
        raise Refused("scope", f"{node.op} cannot go through {' -> '.join(scopes)}", statement_text(node))
    if unknown := {name for name, _ in node.parameters} - kind.parameters:
        raise Refused("parameter", f"{node.op} has no {', '.join(sorted(unknown))}", statement_text(node))
    if node.op == "mmad":
        a, b = (str(placed.buffer(s.buffer).dtype) for s in node.reads[:2])
        sums = placed.target.extra["mmad"].get(a)
        if a != b or sums != str(placed.buffer(node.dst.buffer).dtype):
            raise Refused("dtype", f"no mmad of {a} and {b} here", statement_text(node))


#: Most rows of one ND to NZ transfer, and most elements between two of them (Ascend C reference, Nd2NzParams).
_ROWS, _STRIDE = 16384, 65535


def check_touch(item: Item, t: Touch, g: Geometry, target: Target) -> None:
    """Bounds and alignment of one access as it is executed. Raises :class:`Refused`."""
    op = item.node.op if isinstance(item.node, Instruction) else ""
    low, high = last_byte(t, g)
    if low < 0 or (high + 1) * g.element_bytes > g.slot_bytes:
        raise Refused("bounds", f"elements {low}..{high} of {t.buffer}, which has {g.slot_bytes} bytes", "", item.text)
    if t.block is not None and any(at + n > size for at, n, size in zip(t.block, t.counts, g.shape, strict=True)):
        raise Refused("bounds", f"{t.counts} elements at {t.block} of {t.buffer}, which is {g.shape}", "", item.text)
    if op == "mmad" and max(t.counts) > int(target.extra["mmad_limit"]):
        raise Refused("mmad size", f"{t.counts} beyond {target.extra['mmad_limit']}", "", item.text)
    if g.scope == "gm":
        if op == "nd2nz" and len(t.counts) == 2 and (t.counts[0] > _ROWS or t.strides[0] > _STRIDE):
            raise Refused("transfer", f"{t.counts[0]} rows {t.strides[0]} elements apart", "", item.text)
        return
    align = int(target.extra["alignment"][g.scope])
    first = int(byte_index(t, g).flat[0])
    if first % align:
        raise Refused("alignment", f"{t.buffer} accessed at byte {first:#x}, not a multiple of {align}", "", item.text)
    if op == "brcb" and t.strides[-1] == 0:
        return  # reads single elements, eight of them at a time
    for n, stride in list(zip(t.counts, t.strides, strict=False))[:-1]:
        if n > 1 and (stride * g.element_bytes) % align:
            raise Refused("alignment", f"rows of {t.buffer} are {stride * g.element_bytes} bytes apart", "", item.text)
