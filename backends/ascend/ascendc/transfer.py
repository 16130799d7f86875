"""Transfers between global memory and the memories of a core."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from tilewright.backends.ascend.ascendc.lanes import BLOCK_BYTES, run_name
from tilewright.backends.ascend.ascendc.names import CPP_TYPES
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.placed.form import Block, Buffer, Instruction, View
from tilewright.backends.ascend.placed.layout import fractal_columns, padded_shape
from tilewright.ir.ranges import divisor
from tilewright.ir.symbolic import Expr, as_expr, ceildiv

#: Limits of one transfer (Ascend C reference: DataCopyExtParams, Nd2NzParams).
MAX_BLOCKS, MAX_GAP = 4095, (1 << 32) - 1
#: The same of DataCopyParams, whose gaps are 16-bit numbers of blocks.
MAX_BLOCK_GAP = 65535 * BLOCK_BYTES
MAX_ND_ROWS, MAX_ND_STRIDE = 16384, 65535

Dims = list[tuple[Expr, Expr, Expr]]


def fractal_offset(program: Program, block: Block) -> Expr:
    """Elements from the beginning of a slot in NZ to the first element of ``block``."""
    b = program.buffer(block.buffer)
    wide = fractal_columns(b.layout, b.element_bytes, b.scope)[1]
    if divisor(block.column, program.code.ranges) % wide:
        raise program.refuse(f"a block of {b.name} begins inside a fractal")
    return block.column * padded_rows(b) + block.row * wide


def padded_rows(b: Buffer) -> int:
    """Rows of a fractal buffer, whole fractals of them."""
    rows, columns = (s.value for s in b.shape)
    return padded_shape(b.layout, b.element_bytes, b.scope, rows, columns)[0]


# -- global memory and the unified buffer --------------------------------------------------------------------------


def copy_in(program: Program, node: Instruction) -> None:
    """Rows of global memory into the unified buffer."""
    _rows(program, node, node.dst, node.reads[0], inward=True)


def copy_out(program: Program, node: Instruction) -> None:
    """Rows of the unified buffer to global memory."""
    _rows(program, node, node.reads[0], node.dst, inward=False)


def _rows(program: Program, node: Instruction, local: object, memory: object, *, inward: bool) -> None:
    assert isinstance(local, View) and isinstance(memory, View)
    padded = "copy_pad" in program.placed.target.features
    size = program.buffer(local.buffer).element_bytes
    if len(local.dims) != len(memory.dims):
        raise program.refuse(f"{node.op} between {len(local.dims)} and {len(memory.dims)} dimensions")
    dims = _joined([(n, a, b) for (n, a), (_, b) in zip(local.dims, memory.dims, strict=True)])
    lanes, inner, outer = dims[-1]
    if lanes != 1 and (inner != 1 or outer != 1):
        raise program.refuse(f"{node.op} of elements that are no run in {local.buffer} and {memory.buffer}")
    code = program.code
    rows: tuple[Expr, Expr, Expr] | None = None
    if len(dims) > 1 and _rows_in_one(program, dims[-2], lanes, size, padded):
        rows = dims[-2]
    loops = dims[: -2 if rows else -1]
    with ExitStack() as stack:
        near, far = [], []
        for d, (n, a, b) in enumerate(loops):
            stack.enter_context(code.block(f"for (int64_t i{d} = 0; i{d} < {code.value(n, 'rows')}; ++i{d})"))
            near.append(f"i{d} * {code.factor(a)}")
            far.append(f"i{d} * {code.factor(b, f'{program.tensor[memory.buffer]}_pitch')}")
        count = "1"
        if rows is not None:
            count = code.value(rows[0], program.rows_of(local.buffer))
            if _most(program, local, rows[0], rows[1]) > MAX_BLOCKS:
                stack.enter_context(code.block(f"for (int64_t r = 0; r < {count}; r += {MAX_BLOCKS})"))
                count = f"Smaller({MAX_BLOCKS}, {count} - r)"
                near.append(f"r * {code.factor(rows[1])}")
                far.append(f"r * {code.factor(rows[2])}")
        ends = program.at(local, local.offset, " + ".join(near)), program.at(memory, memory.offset, " + ".join(far))
        _call(program, ends, count, rows or (as_expr(1), lanes, lanes), (local, lanes), inward=inward)


def _call(
    program: Program,
    ends: tuple[str, str],
    count: str,
    rows: tuple[Expr, Expr, Expr],
    run: tuple[View, Expr],
    *,
    inward: bool,
) -> None:
    code, (local, lanes) = program.code, run
    b = program.buffer(local.buffer)
    size, cpp = b.element_bytes, CPP_TYPES[b.dtype]
    single = rows[0] == 1
    if "copy_pad" not in program.placed.target.features:
        _whole_blocks(program, ends, count, rows, run, inward=inward)
        return
    length = _times(code.factor(lanes, run_name(program, local)), size, lanes)
    gap = "0" if single else code.value((rows[2] - lanes) * size, f"{program.tensor[local.buffer]}_gap")
    pitch = rows[1].value * size if rows[1].is_constant else 0
    if not single and pitch % BLOCK_BYTES:
        raise program.refuse(f"rows of {local.buffer} are {pitch} bytes apart, no whole blocks")
    if single:
        skip = "0"
    elif lanes.is_constant:
        skip = str((pitch - -(-lanes.value * size // BLOCK_BYTES) * BLOCK_BYTES) // BLOCK_BYTES)
    else:
        skip = f"({pitch} - RoundUp({length}, {BLOCK_BYTES})) / {BLOCK_BYTES}"
    if inward:
        pad = f"DataCopyPadExtParams<{cpp}>(false, 0, 0, 0)"
        code.line(f"DataCopyPad({ends[0]}, {ends[1]}, DataCopyExtParams({count}, {length}, {gap}, {skip}, 0), {pad});")
    else:
        code.line(f"DataCopyPad({ends[1]}, {ends[0]}, DataCopyExtParams({count}, {length}, {skip}, {gap}, 0));")


def _whole_blocks(
    program: Program,
    ends: tuple[str, str],
    count: str,
    rows: tuple[Expr, Expr, Expr],
    run: tuple[View, Expr],
    *,
    inward: bool,
) -> None:
    """Without DataCopyPad: DataCopy, which moves whole blocks of 32 bytes, to and from any element of global memory.

    On the way in the last block of a row may hold more than the row ("redundant data", Ascend C guide, unaligned
    transfers); on the way out rows are whole blocks.
    """
    code, (local, lanes) = program.code, run
    size, known = program.buffer(local.buffer).element_bytes, program.code.ranges
    whole = divisor(lanes * size, known) % BLOCK_BYTES == 0
    if not whole and not inward:
        raise program.refuse(f"rows of {lanes * size} bytes are not known to be multiples of {BLOCK_BYTES}")
    length = lanes * size // BLOCK_BYTES if whole else ceildiv(lanes * size, BLOCK_BYTES)
    blocks = code.value(length, f"{program.tensor[local.buffer]}_blocks")
    gaps = ("0", "0")
    if rows[0] != 1:
        near, far = (code.value(g * size // BLOCK_BYTES - length, "gap") for g in rows[1:])
        gaps = (far, near) if inward else (near, far)
    to, source = ends if inward else ends[::-1]
    call = f"DataCopy({to}, {source}, DataCopyParams({count}, {blocks}, {gaps[0]}, {gaps[1]}));"
    with ExitStack() as stack:
        if empty := [text for text, n in ((count, rows[0]), (blocks, lanes)) if code.low(n) < 1]:
            stack.enter_context(code.block(f"if ({' && '.join(f'{text} > 0' for text in empty)})"))
        code.line(call)


def _times(text: str, size: int, lanes: Expr) -> str:
    if lanes.is_constant:
        return str(lanes.value * size)
    return text if size == 1 else f"{text} * {size}"


def _joined(dims: Dims) -> Dims:
    """Dimensions of one lane dropped, and rows that follow on one another in both places joined."""
    kept = [d for d in dims[:-1] if d[0] != 1] + [dims[-1]]
    for d in range(len(kept) - 2, -1, -1):
        n, a, b = kept[d + 1]
        if kept[d][1] == a * n and kept[d][2] == b * n:
            kept[d : d + 2] = [(kept[d][0] * n, a, b)]
    return kept


def _rows_in_one(program: Program, dim: tuple[Expr, Expr, Expr], lanes: Expr, size: int, padded: bool) -> bool:
    """Whether rows go in one transfer: they do not overlap in memory and lie at most 4 GiB apart; without DataCopyPad
    whole blocks apart, less than 2 MiB."""
    gap = (dim[2] - lanes) * size
    if not padded and any(divisor(d * size, program.code.ranges) % BLOCK_BYTES for d in dim[1:]):
        return False
    return program.code.low(gap) >= 0 and program.code.high(gap) <= (MAX_GAP if padded else MAX_BLOCK_GAP)


def _most(program: Program, view: View, rows: Expr, pitch: Expr) -> int:
    b = program.buffer(view.buffer)
    room = b.slot_bytes // b.element_bytes
    return min(program.code.high(rows), room // pitch.value if pitch.is_constant and pitch.value else room)


# -- into L1 -------------------------------------------------------------------------------------------------------


def nd2nz(program: Program, node: Instruction) -> None:
    """Rows of global memory into fractals of L1."""
    dst, src = node.dst, node.reads[0]
    assert isinstance(dst, Block) and isinstance(src, View)
    code, b = program.code, program.buffer(dst.buffer)
    c0 = BLOCK_BYTES // b.element_bytes
    if src.dims[-1][1] != 1 and src.dims[-1][0] != 1:
        raise program.refuse(f"columns of {src.buffer} are no run")
    if b.layout == "zZ":
        _panels(program, dst, src)
        return
    dims = [d for d in src.dims[:-1] if d[0] != 1] or [(as_expr(1), as_expr(0))]
    columns = code.value(src.dims[-1][0], program.columns_of(dst.buffer))
    single = len(src.dims) == 1 or code.high(dims[-1][1]) > MAX_ND_STRIDE or code.high(dims[-1][0]) > MAX_ND_ROWS
    loops = dims if single and dims[-1][0] != 1 else dims[:-1]
    base = fractal_offset(program, dst)
    with ExitStack() as stack:
        near, far = [], []
        inner = [n for n, _ in dims]
        for d, (n, stride) in enumerate(loops):
            stack.enter_context(code.block(f"for (int64_t i{d} = 0; i{d} < {code.value(n, 'rows')}; ++i{d})"))
            step = as_expr(c0)
            for other in inner[d + 1 :]:
                step = step * other
            near.append(f"i{d} * {code.factor(step)}")
            far.append(f"i{d} * {code.factor(stride, f'{program.tensor[src.buffer]}_pitch')}")
        rows, apart = "1", columns
        if not single:
            rows = code.value(dims[-1][0], program.rows_of(dst.buffer))
            if dims[-1][1] != 0:
                apart = code.value(dims[-1][1], f"{program.tensor[src.buffer]}_pitch")
        to, source = program.at(dst, base, " + ".join(near)), program.at(src, src.offset, " + ".join(far))
        params = f"Nd2NzParams(1, {rows}, {columns}, 0, {apart}, {padded_rows(b)}, 1, 0)"
        code.line(f"DataCopy({to}, {source}, {params});")


def _panels(program: Program, dst: Block, src: View) -> None:
    """Rows of global memory into fractals that lie along the rows: sixteen rows at a time are a matrix of their own."""
    code, b = program.code, program.buffer(dst.buffer)
    if dst.row != 0 or dst.column != 0 or len(src.dims) != 2 or code.high(src.dims[0][1]) > MAX_ND_STRIDE:
        raise program.refuse(f"a part of {dst.buffer}, or rows that are too far apart")
    rows, columns = (code.value(n, h) for (n, _), h in zip(src.dims, ("rows", "columns"), strict=True))
    apart = code.value(src.dims[0][1], f"{program.tensor[src.buffer]}_pitch")
    with code.block(f"for (int64_t r = 0; r < {rows}; r += 16)"):
        to = program.at(
            dst, as_expr(0), f"r * {padded_shape(b.layout, b.element_bytes, b.scope, 1, b.shape[1].value)[1]}"
        )
        source = program.at(
            src, src.offset, f"r * {code.factor(src.dims[0][1], f'{program.tensor[src.buffer]}_pitch')}"
        )
        params = f"Nd2NzParams(1, Smaller(16, {rows} - r), {columns}, 0, {apart}, 16, 1, 0)"
        code.line(f"DataCopy({to}, {source}, {params});")


def copy_nz(program: Program, node: Instruction) -> None:
    """Blocks of 32 bytes as they are: columns of fractals that lie in NZ in global memory already, or a row."""
    dst, src = node.dst, node.reads[0]
    code, b = program.code, program.buffer(dst.buffer)
    c0 = BLOCK_BYTES // b.element_bytes
    if not isinstance(src, View) or src.dims[-1][1] != 1:
        raise program.refuse(f"{src.buffer} is no run of blocks")
    if isinstance(dst, View):
        runs = [(n, a, s) for (n, a), (_, s) in zip(dst.dims, src.dims, strict=True)]
        to = program.at(dst, dst.offset)
    else:
        runs = _fractal_runs(program, dst, src, c0)
        to = program.at(dst, fractal_offset(program, dst))
    runs = _joined(runs)
    if len(runs) > 2 or divisor(runs[-1][0], code.ranges) % c0:
        raise program.refuse(f"{src.buffer} to {dst.buffer} in blocks of 32 bytes")
    length, hint = runs[-1][0], program.tensor[dst.buffer]
    if len(runs) == 1:
        blocks = code.value(length // c0, f"{hint}_blocks")
        code.line(f"DataCopy({to}, {program.at(src, src.offset)}, DataCopyParams(1, {blocks}, 0, 0));")
        return
    count, near, far = runs[0]
    if code.high(count) > MAX_BLOCKS:
        raise program.refuse(f"{count} runs in one transfer")
    params = [
        code.value(count, f"{hint}_fractals"),
        code.value(length // c0, program.rows_of(dst.buffer)),
        code.value((far - length) // c0, f"{hint}_gap"),
        code.value((near - length) // c0, f"{hint}_skip"),
    ]
    code.line(f"DataCopy({to}, {program.at(src, src.offset)}, DataCopyParams({', '.join(params)}));")


def _fractal_runs(program: Program, dst: Block, src: View, c0: int) -> Dims:
    """A view of (columns / c0, rows, c0) and the block it goes to, as columns of fractals: count and both distances."""
    b = program.buffer(dst.buffer)
    if len(src.dims) != 3 or src.dims[-1][0] != c0 or src.dims[-2][1] != c0:
        raise program.refuse(f"{src.buffer} is no matrix in fractals")
    count, pitch = src.dims[0]
    return [(count, as_expr(padded_rows(b) * c0), pitch), (src.dims[1][0] * c0, as_expr(1), as_expr(1))]


def zero_l1(program: Program, node: Instruction) -> None:
    """Zeros (or a byte) into a block of fractals of L1, in whole columns of 32 bytes."""
    dst = node.dst
    code, b = program.code, program.buffer(dst.buffer)
    c0, skip = BLOCK_BYTES // b.element_bytes, "0"
    hint = program.tensor[dst.buffer]
    if isinstance(dst, View):
        to, rows, times = program.at(dst, dst.offset), code.value(dst.dims[-1][0] // c0, f"{hint}_blocks"), "1"
        if len(dst.dims) > 1 or divisor(dst.dims[-1][0], code.ranges) % c0:
            raise program.refuse(f"zeros into a part of {dst.buffer}")
    else:
        to, rows = program.at(dst, fractal_offset(program, dst)), code.value(dst.rows, program.rows_of(dst.buffer))
        skip = code.value(padded_rows(b) - dst.rows, f"{hint}_skip")
        times = str(-(-dst.columns.value // c0)) if dst.columns.is_constant else ""
        times = times or f"CeilDiv({code.value(dst.columns, program.columns_of(dst.buffer))}, {c0})"
    cpp, value = CPP_TYPES[b.dtype], "0"
    if b.element_bytes == 1:
        byte = int(node.parameter("value", 0)) & 0xFF  # type: ignore[arg-type]
        to, cpp = f"{to}.ReinterpretCast<uint16_t>()", "uint16_t"
        value = f"{byte * 0x101:#x}" if byte else "0"
    if int(program.placed.target.extra["architecture"]) == 2002:
        _fill_whole(program, node, to, cpp, value)
        return
    code.line(f"InitConstValue({to}, InitConstValueParams<{cpp}>({times}, {rows}, {skip}, {value}));")


def _fill_whole(program: Program, node: Instruction, to: str, cpp: str, value: str) -> None:
    """On a fused core a fill is a run of 512 bytes a repeat, of 16-bit elements."""
    dst, b = node.dst, program.buffer(node.dst.buffer)
    c0 = BLOCK_BYTES // b.element_bytes
    whole = isinstance(dst, Block) and dst.rows == padded_rows(b) and dst.columns.is_constant
    if not whole or b.element_bytes > 2 or cpp == "bfloat16_t":
        raise program.refuse(f"zeros into a part of {b.name} on a fused core")
    assert isinstance(dst, Block)
    times = -(-dst.columns.value // c0) * padded_rows(b) // 16
    program.code.line(f"InitConstValue({to}, InitConstValueParams<{cpp}>({times}, {value}));")


def flat_to_l1_memory(program: Program, node: Instruction, unit: int) -> None:
    """A run from L1 to the bias table or the scales of the fixpipe, in units of ``unit`` bytes."""
    dst, src = node.dst, node.reads[0]
    code, b = program.code, program.buffer(dst.buffer)
    if isinstance(dst, View):
        count, to = dst.dims[-1][0], program.at(dst, dst.offset)
    else:
        count, to = dst.columns, program.at(dst, dst.column)
    source = program.at(src, src.offset if isinstance(src, View) else fractal_offset(program, src))
    size = program.buffer(src.buffer).element_bytes  # a bias of 16 bits is widened on the way
    for buffer, lane in ((b, b.element_bytes), (program.buffer(src.buffer), size)):
        most = min(code.high(count), buffer.slot_bytes // lane)
        if -(-most * size // unit) * unit // size * lane > buffer.slot_bytes:
            raise program.refuse(f"{buffer.name} has no room for whole units of {unit} bytes")
    if count.is_constant:
        blocks = str(-(-count.value * size // unit))
    else:
        blocks = f"CeilDiv({code.factor(count, program.columns_of(dst.buffer))} * {size}, {unit})"
    code.line(f"DataCopy({to}, {source}, DataCopyParams(1, {blocks}, 0, 0));")


def ub2l1(program: Program, node: Instruction) -> None:
    """Rows of the unified buffer of a fused core into fractals of L1, by columns of blocks; or a run of blocks."""
    dst, src = node.dst, node.reads[0]
    code, b = program.code, program.buffer(dst.buffer)
    c0 = BLOCK_BYTES // b.element_bytes
    if isinstance(dst, View) and isinstance(src, View):
        if len(dst.dims) > 1 or len(src.dims) > 1 or divisor(dst.dims[0][0], code.ranges) % c0:
            raise program.refuse(f"{src.buffer} to {dst.buffer} in blocks of 32 bytes")
        blocks = code.value(dst.dims[0][0] // c0, f"{program.tensor[dst.buffer]}_blocks")
        to, source = program.at(dst, dst.offset), program.at(src, src.offset)
        code.line(f"DataCopy({to}, {source}, DataCopyParams(1, {blocks}, 0, 0));")
        return
    assert isinstance(dst, Block)
    if isinstance(src, View) and len(src.dims) == 3 and src.dims[-1][0] == c0 and src.dims[-2][1] == c0:
        _planes_to_l1(program, dst, src, c0)
        return
    if not isinstance(src, View) or src.dims[-1][1] != 1 or len(src.dims) > 2:
        raise program.refuse(f"{src.buffer} into L1")
    rows, pitch = src.dims[0] if len(src.dims) > 1 else (as_expr(1), as_expr(c0))
    if not pitch.is_constant or pitch.value % c0:
        raise program.refuse(f"rows of {src.buffer} are no whole blocks apart")
    columns = code.value(src.dims[-1][0], program.columns_of(dst.buffer))
    count = code.value(rows, program.rows_of(dst.buffer))
    with code.block(f"for (int64_t c = 0; c < {columns}; c += {c0})"):
        to = program.at(dst, fractal_offset(program, dst), f"c * {padded_rows(b)}")
        source = program.at(src, src.offset, "c")
        code.line(f"DataCopy({to}, {source}, DataCopyParams({count}, 1, {pitch.value // c0 - 1}, 0));")


def _planes_to_l1(program: Program, dst: Block, src: View, c0: int) -> None:
    """Columns of fractals that lie in the unified buffer already: a run of blocks each."""
    code, b = program.code, program.buffer(dst.buffer)
    (count, far), (rows, _) = src.dims[:2]
    if code.high(count) > MAX_BLOCKS or divisor(far, code.ranges) % c0:
        raise program.refuse(f"planes of {src.buffer} into L1")
    params = [
        code.value(count, f"{program.tensor[dst.buffer]}_planes"),
        code.value(rows, program.rows_of(dst.buffer)),
        code.value((far - rows * c0) // c0, "gap"),
        code.value(padded_rows(b) - rows, "skip"),
    ]
    to = program.at(dst, fractal_offset(program, dst))
    code.line(f"DataCopy({to}, {program.at(src, src.offset)}, DataCopyParams({', '.join(params)}));")


TRANSFERS: dict[str, Callable[[Program, Instruction], None]] = {
    "copy_in": copy_in,
    "copy_out": copy_out,
    "nd2nz": nd2nz,
    "copy_nz": copy_nz,
    "zero_l1": zero_l1,
    "ub2l1": ub2l1,
    "load_bias": lambda p, n: flat_to_l1_memory(p, n, 64),
    "load_scales": lambda p, n: flat_to_l1_memory(p, n, 128),
}
