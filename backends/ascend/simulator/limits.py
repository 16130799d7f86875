"""Rules on an instruction with its numbers: bounds, alignment, shapes that belong together, limits of the hardware.

Numbers without another source are from the Ascend C reference: DataCopyPad, Nd2NzParams, Mmad, Fixpipe, Load3D, Brcb,
Compare. Parts of the 310 family have no DataCopyPad: DataCopy moves whole blocks of 32 bytes between any element of
global memory and a block of the unified buffer (the same reference, DataCopy; guide, unaligned transfers), and what
aclrtMalloc gives is rounded up to 32 bytes and has 32 more (AscendCL reference, aclrtMalloc).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tilewright.backends.ascend.placed.footprint import Geometry, Touch, covered, first_element, last_byte
from tilewright.backends.ascend.placed.form import Buffer, Instruction
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placed.stream import Item
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.target import Target

#: Rows, columns, elements between rows, and rows of the destination of one ND to NZ transfer.
_ND2NZ = (16384, 65535, 65535, 16384)
#: Rows of one DataCopyPad, and bytes of a row.
_PAD_ROWS, _PAD_BYTES = 4095, (1 << 21) - 1
#: Rows and columns of one Fixpipe.
_FIXPIPE = (8192, 4095)
#: Bytes of one repeat of the vector unit.
REPEAT_BYTES = 256
#: Instructions whose lanes are exactly those of the destination.
_PLAIN = frozenset("add sub mul div max min and or not exp ln abs sqrt relu shift_left shift_right cast copy".split())


def check_item(item: Item, buffers: Mapping[str, Buffer], known: Mapping[str, Geometry], target: Target) -> None:
    """Everything that the numbers of one instruction must respect. Raises :class:`Refused`."""
    node = item.node
    assert isinstance(node, Instruction)
    blocks = node.op in ("copy_in", "copy_out") and "copy_pad" not in target.features
    for t in (*item.reads, item.dst, *([item.scratch] if item.scratch else [])):
        _bounds(item, t, known[t.buffer], tail=BLOCK_BYTES if blocks and known[t.buffer].scope == "gm" else 1)
        _alignment(item, node, t, known[t.buffer], target)
    for t in spoiled(item, buffers, known):
        if t.block is None:
            _bounds(item, t, known[t.buffer], room=True)
    if node.pipe == "V" and node.op != "drain":
        _vector(item, node, known)
    else:
        _transfer(item, node, known, target)


def _bounds(item: Item, t: Touch, g: Geometry, room: bool = False, tail: int = 1) -> None:
    """Every lane is inside its buffer, or in its last ``tail`` bytes, of which some may lie behind its end."""
    what = "has no room for what is written with them" if room else f"has {g.slot_bytes} bytes"
    if t.block is None:
        low, high = last_byte(t, g)
        if low < 0 or (high + 1) * g.element_bytes > round_up(g.slot_bytes, tail):
            raise Refused("bounds", f"elements {low}..{high} of {t.buffer}, which {what}", "", item.text)
        return
    if len(g.shape) != 2:
        raise Refused("bounds", f"a block of {t.buffer}, which is no matrix", "", item.text)
    if any(at < 0 or at + n > size for at, n, size in zip(t.block, t.counts, g.shape, strict=True)):
        raise Refused("bounds", f"{t.counts} elements at {t.block} of {t.buffer}, which is {g.shape}", "", item.text)


def _alignment(item: Item, node: Instruction, t: Touch, g: Geometry, target: Target) -> None:
    if g.scope == "gm":
        return
    align = int(target.extra["alignment"][g.scope])
    if g.scope == "l0c" and not (node.op == "mmad" and t is item.dst):
        align = min(align, int(target.extra.get("l0c_access", align)))
    first = g.base + t.slot * g.slot_bytes + first_element(t, g) * g.element_bytes
    if first % align:
        raise Refused("alignment", f"{t.buffer} accessed at byte {first:#x}, not a multiple of {align}", "", item.text)
    if node.op == "brcb" and t is not item.dst:
        return  # reads single elements, eight of them at a time
    step = min(align, BLOCK_BYTES)
    for n, stride in list(zip(t.counts, t.strides, strict=False))[:-1]:
        if n > 1 and (stride * g.element_bytes) % step:
            raise Refused("alignment", f"rows of {t.buffer} are {stride * g.element_bytes} bytes apart", "", item.text)


def _vector(item: Item, node: Instruction, known: Mapping[str, Geometry]) -> None:
    """Lanes side by side, sources of the destination's shape, rows within one repeat."""
    op, dst = node.op, item.dst
    for t in (*item.reads, dst):
        lonely = op == "brcb" and t is not dst
        if t.counts and t.counts[-1] > 1 and t.strides[-1] != 1 and not t.cycle and not lonely and op != "gather":
            raise Refused("stride", f"lanes of {t.buffer} are {t.strides[-1]} elements apart", "", item.text)
    if op in _PLAIN and any(t.counts != dst.counts for t in item.reads):
        shapes = " and ".join(str(t.counts) for t in item.reads)
        raise Refused("shape", f"{op} of {shapes} into {dst.counts}", "", item.text)
    if op == "widen" and (*item.reads[0].counts[:-1], 2 * item.reads[0].counts[-1]) != dst.counts:
        raise Refused("shape", f"widen of {item.reads[0].counts} bytes into {dst.counts}", "", item.text)
    if op == "gather":
        words = 2 if known[dst.buffer].element_bytes == 8 else 1
        if item.reads[1].counts != (*dst.counts[:-1], words * dst.counts[-1]):
            raise Refused("shape", f"gather by {item.reads[1].counts} offsets into {dst.counts}", "", item.text)
    if op.startswith(("row_", "block_")):
        source = item.reads[0]
        size = known[source.buffer].element_bytes
        most, what = (REPEAT_BYTES, "repeat") if op.startswith("row_") else (BLOCK_BYTES, "block")
        if source.counts[-1] * size > most:
            raise Refused("repeat", f"{op} of {source.counts[-1]} lanes, more than one {what}", "", item.text)
        if dst.counts not in (source.counts[:-1], (*source.counts[:-1], 1)) and (len(source.counts) > 1):
            raise Refused("shape", f"{op} of {source.counts} into {dst.counts}", "", item.text)
    if op == "select" or op.startswith("compare_"):
        lanes = item.reads[-1].counts if op != "select" else dst.counts
        mask = dst if op != "select" else item.reads[0]
        wanted = (*lanes[:-1], -(-lanes[-1] // 8))
        if mask.counts != wanted or any(t.counts != lanes for t in item.reads if t is not mask):
            raise Refused("shape", f"a mask of {mask.counts} bytes for {lanes} lanes", "", item.text)
    if op == "transpose":
        turned = item.reads[0].counts
        if len(turned) < 2 or (*turned[:-2], turned[-1], turned[-2]) != dst.counts:
            raise Refused("shape", f"{turned} turned into {dst.counts}", "", item.text)


def _transfer(item: Item, node: Instruction, known: Mapping[str, Geometry], target: Target) -> None:
    op, dst = node.op, item.dst
    if op == "mmad":
        _product(item, target)
        return
    if op == "load_image":
        _image(item, known)
        return
    if op == "zero_l1" or not item.reads:
        return
    source = item.reads[0]
    a, b = _lanes(source, known), _lanes(dst, known)
    if node.transpose:
        a = (a[1], a[0])
    if a != b and _size(a) != _size(b):
        raise Refused("shape", f"{op} of {source.counts} into {dst.counts}", "", item.text)
    for t in (source, dst):
        if t.block is None and t.counts and t.counts[-1] > 1 and t.strides[-1] != 1:
            raise Refused("stride", f"lanes of {t.buffer} are {t.strides[-1]} elements apart", "", item.text)
    rows = dst.counts[-2] if len(dst.counts) > 1 else 1
    if op in ("copy_in", "copy_out"):
        length = dst.counts[-1] * known[dst.buffer].element_bytes
        if rows > _PAD_ROWS or length > _PAD_BYTES:
            raise Refused("transfer", f"{rows} rows of {length} bytes", "", item.text)
        run = _run(source, dst) * known[dst.buffer].element_bytes
        if op == "copy_out" and run % BLOCK_BYTES and "copy_pad" not in target.features:
            raise Refused("transfer", f"runs of {run} bytes, where only whole blocks of 32 leave", "", item.text)
    elif op == "nd2nz":
        strides = [s for n, s in zip(source.counts, source.strides, strict=True) if n > 1][:-1]
        height = known[dst.buffer].shape[0]
        sizes = (dst.counts[0], dst.counts[-1], max(strides, default=0), height)
        if any(size > most for size, most in zip(sizes, _ND2NZ, strict=True)):
            raise Refused("transfer", f"{sizes[0]} rows {sizes[2]} elements apart into {height}", "", item.text)
    elif op == "fixpipe" and (source.counts[0] > _FIXPIPE[0] or source.counts[1] > _FIXPIPE[1]):
        raise Refused("transfer", f"{source.counts} beyond {_FIXPIPE}", "", item.text)
    elif (op == "copy_nz" or (op == "ub2l1" and dst.block is None)) and _broken(dst, known):
        raise Refused("transfer", f"rows of {dst.counts[-1]} elements are no blocks of 32 bytes", "", item.text)
    elif op == "drain" and (len(dst.counts) != 3 or dst.strides[1:] != (FRACTAL, 1) or dst.counts[2] != FRACTAL):
        raise Refused("transfer", "sums leave L0C in whole fractals here", "", item.text)


def _run(a: Touch, b: Touch) -> int:
    """Lanes that follow on one another on both sides of a transfer."""
    lanes = 1
    for n, *strides in reversed(list(zip(a.counts, a.strides, b.strides, strict=True))):
        if n > 1 and strides != [lanes, lanes]:
            break
        lanes *= n
    return lanes


def _broken(t: Touch, known: Mapping[str, Geometry]) -> bool:
    """Whether rows end inside a block of 32 bytes."""
    return bool(t.counts[-1] * known[t.buffer].element_bytes % BLOCK_BYTES)


def _product(item: Item, target: Target) -> None:
    a, b = item.reads[0].counts, item.reads[1].counts
    if (a[0], b[1], a[1]) != (*item.dst.counts, b[0]):
        raise Refused("shape", f"mmad of {a} and {b} into {item.dst.counts}", "", item.text)
    limit = int(target.extra["mmad_limit"])
    if max(*a, *b) > limit:
        raise Refused("mmad size", f"{a} times {b}: beyond {limit}", "", item.text)
    if len(item.reads) > 2 and _size(item.reads[2].counts) != b[1]:
        raise Refused("shape", f"a bias of {item.reads[2].counts} for {b[1]} columns", "", item.text)


def _image(item: Item, known: Mapping[str, Geometry]) -> None:
    """The image lies as its way of lying wants, windows are whole fractals of rows, and every number has its range."""
    values, source, dst = dict(item.values), item.reads[0], item.dst
    given = {name: _numbers(values.get(name, default)) for name, default in _WINDOW.items()}
    (height, width), kernel, pads = given["image"], given["kernel"], given["pads"]
    first, column, lanes = values.get("first", 0), values.get("column", 0), values.get("channels", 0)
    g = known[source.buffer]
    fine = BLOCK_BYTES // g.element_bytes
    assert isinstance(first, int) and isinstance(column, int) and isinstance(lanes, int)
    if lanes:
        flat = g.layout == "ND" and lanes in ((4, 8) if g.element_bytes == 2 else (4, 8, 16)) and lanes < fine
        lies = flat and source.block is None and source.counts == (height * width * lanes,)
        depth = kernel[0] * kernel[1] * lanes
    else:
        whole = source.block is not None and source.block[0] == 0 and g.shape[0] == height * width
        lies = g.layout == "NC1HWC0" and whole and source.counts[0] == height * width and source.counts[1] % fine == 0
        depth = kernel[0] * kernel[1] * source.counts[-1]
    if not lies:
        raise Refused("image", f"{height} x {width} pixels are not how {source.buffer} lies", "", item.text)
    end = column + dst.counts[1]
    if column % fine or end > depth or (end % fine and end != depth) or dst.counts[0] % FRACTAL:
        raise Refused("image", f"windows of {dst.counts} from column {column} of {depth}", "", item.text)
    wide = (width + pads[1] + pads[3] - given["dilation"][1] * (kernel[1] - 1) - 1) // given["stride"][1] + 1
    ranges = (
        ((height, width, wide), 1, 32767),
        ((*kernel, *given["dilation"]), 1, 255),
        (given["stride"], 1, 63),
        (pads, 0, 255),
        ((first,), 0, 32767),
        ((column, end), 0, 65535),
    )
    if any(not low <= n <= high for numbers, low, high in ranges for n in numbers):
        raise Refused("image", "a number that the instruction has no room for", "", item.text)


def _numbers(value: object) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return value


#: What windows are where nothing is said.
_WINDOW: Mapping[str, tuple[int, ...]] = {
    "image": (1, 1),
    "kernel": (1, 1),
    "stride": (1, 1),
    "dilation": (1, 1),
    "pads": (0, 0, 0, 0),
}


def _lanes(t: Touch, known: Mapping[str, Geometry]) -> tuple[int, ...]:
    return covered(t, known[t.buffer]) if t.block is not None else t.counts


def _size(counts: tuple[int, ...]) -> int:
    total = 1
    for n in counts:
        total *= n
    return total


def spoiled(item: Item, buffers: Mapping[str, Buffer], known: Mapping[str, Geometry]) -> tuple[Touch, ...]:
    """Lanes beside the destination that the instruction writes too, and that are undefined then."""
    node, t, g = item.node, item.dst, known[item.dst.buffer]
    assert isinstance(node, Instruction)
    block = BLOCK_BYTES // g.element_bytes
    counts = list(t.counts)
    match node.op:
        case "copy_in":
            counts[-1] = round_up(counts[-1], block)
        case "nd2nz" if t.block is not None:
            counts[-1] = min(round_up(counts[-1], block), round_up(g.shape[1], block) - t.block[1])
            return (replace(t, counts=tuple(counts)),) if counts[-1] != t.counts[-1] else ()
        case "brcb" if len(counts) > 1:
            counts[-2] = round_up(counts[-2], 8)
        case "block_sum" | "block_max" | "block_min":
            counts[-1] = round_up(counts[-1], 8)
        case "transpose":
            counts[-2] = round_up(counts[-2], FRACTAL if g.element_bytes == 2 else 8)
            counts[-1] = round_up(counts[-1], FRACTAL)
        case op if op.startswith("compare_"):
            size = known[item.reads[0].buffer].element_bytes
            counts[-1] = round_up(counts[-1], REPEAT_BYTES // size // 8)
        case _:
            return ()
    if tuple(counts) == t.counts:
        return ()
    return (replace(t, counts=tuple(counts), strides=(*t.strides[:-1], 1)),)
