"""The cube unit: operands into L0, products, and sums on their way out."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from tilewright.backends.ascend.ascendc.lanes import BLOCK_BYTES
from tilewright.backends.ascend.ascendc.names import CPP_TYPES
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.ascendc.transfer import fractal_offset, padded_rows
from tilewright.backends.ascend.placed.form import Block, Instruction, View, statements
from tilewright.ir.ranges import divisor
from tilewright.ir.symbolic import Expr, as_expr, ceildiv
from tilewright.ir.types import DType

FRACTAL_BYTES, MAX_REPEATS = 512, 255


def load(program: Program, node: Instruction) -> None:
    """Fractals from L1 to L0A (zZ) or L0B (nZ), packed as the product reads them: no gap for what is not there.

    One call moves a row or a column of fractals, whichever gives fewer calls.
    """
    dst, src = node.dst, node.reads[0]
    assert isinstance(dst, Block) and isinstance(src, Block)
    code, target, source = program.code, program.buffer(dst.buffer), program.buffer(src.buffer)
    c0 = BLOCK_BYTES // target.element_bytes
    if dst.row != 0 or dst.column != 0:
        raise program.refuse(f"a part of {dst.buffer}, whose fractals the product reads without gaps")
    left = target.scope == "l0a"
    high, wide = (16, c0) if left else (c0, 16)
    down, across = ceildiv(dst.rows, high), ceildiv(dst.columns, wide)
    turned_here = node.transpose if left else not node.transpose
    if source.layout == "zZ":
        _load_squares(program, node)
        return
    if turned_here and target.element_bytes != 2:
        raise program.refuse(f"fractals of {target.dtype} are not turned on the way to L0")
    # In L1 fractals follow on one another down the rows, columns of them ``pitch`` fractals apart.
    pitch = padded_rows(source) // 16
    step_down, step_across = (pitch, 1) if node.transpose else (1, pitch)
    flip = "true" if turned_here else "false"
    size = FRACTAL_BYTES // target.element_bytes
    base = fractal_offset(program, src)
    hint = program.tensor[dst.buffer]
    rows, columns = code.value(down, f"{hint}_high"), code.value(across, f"{hint}_wide")
    room = [-(-s.value // n) for s, n in zip(target.shape, (high, wide), strict=True)]
    most_down, most_across = min(code.high(down), room[0]), min(code.high(across), room[1])
    by_rows = most_down <= most_across
    if by_rows:
        loops, count, stride, gap = rows, columns, step_across, "0"
        near, far = f"i * {code.factor(across, f'{hint}_wide')} * {size}", f"i * {step_down * size}"
        most = most_across
    else:
        loops, count, stride = columns, rows, step_down
        gap = code.value(across - 1, f"{hint}_gap")
        near, far, most = f"i * {size}", f"i * {step_across * size}", most_down
    if most > MAX_REPEATS:
        raise program.refuse(f"{most} fractals in one load")
    params = f"LoadData2DParams(0, {count}, {stride}, 0, {gap}, {flip}, 0)"
    if loops == "1":
        code.line(f"LoadData({program.at(dst, as_expr(0))}, {program.at(src, base)}, {params});")
        return
    with code.block(f"for (int64_t i = 0; i < {loops}; ++i)"):
        code.line(f"LoadData({program.at(dst, as_expr(0), near)}, {program.at(src, base, far)}, {params});")


def _load_squares(program: Program, node: Instruction) -> None:
    """32-bit fractals from L1 to L0B turned: a call for every 16 rows, which takes the squares of two fractals that lie
    there side by side and puts the halves of what becomes of each one above the other."""
    dst, src = node.dst, node.reads[0]
    assert isinstance(dst, Block) and isinstance(src, Block)
    code, source = program.code, program.buffer(src.buffer)
    if src.column != 0 or divisor(src.row, code.ranges) % 16:
        raise program.refuse(f"a part of {src.buffer} that begins inside of a square")
    hint, pitch = program.tensor[dst.buffer], source.shape[1].value
    panels = code.value(ceildiv(dst.rows, 16), f"{hint}_panels")
    wide = code.factor(ceildiv(dst.columns, 16), f"{hint}_wide")
    size = FRACTAL_BYTES // source.element_bytes
    with code.block(f"for (int64_t i = 0; i < {panels}; ++i)"):
        code.line("LoadData2dTransposeParams squares;")
        for name, value in (("repeatTimes", wide), ("srcStride", "1"), ("dstFracGap", f"{wide} - 1")):
            code.line(f"squares.{name} = {value};")
        to = program.at(dst, as_expr(0), f"i * 2 * {wide} * {size}")
        code.line(f"LoadDataWithTranspose({to}, {program.at(src, src.row * pitch, f'i * {16 * pitch}')}, squares);")


def mmad(program: Program, node: Instruction) -> None:
    """A product into L0C. A single row would switch to the vector mode of the cube, which reads L0A row-major; such a
    product is computed with all 16 rows of its fractal."""
    dst, a, b, *bias = (node.dst, *node.reads)
    assert isinstance(dst, Block) and isinstance(a, Block) and isinstance(b, Block)
    code = program.code
    if any(x.row != 0 or x.column != 0 for x in (a, b)):
        raise program.refuse(f"a product of a part of {a.buffer} or {b.buffer}")
    rows = code.value(dst.rows, program.rows_of(dst.buffer))
    if dst.rows.is_constant:
        rows = str(16 if dst.rows.value == 1 else dst.rows.value)
    elif code.low(dst.rows) <= 1:
        rows = f"RoundUp({rows}, 16)"
    columns = code.value(dst.columns, program.columns_of(dst.buffer))
    depth = code.value(a.columns, f"{program.tensor[a.buffer]}_depth")
    to = program.at(dst, _sum_offset(program, dst))
    operands = f"{to}, {program.at(a, as_expr(0))}, {program.at(b, as_expr(0))}"
    start = node.init
    if start is None or start == 0:
        first = "true"
    elif start.is_constant:
        first = "false"
    else:
        first = f"{code.spelled(start)} == 0"
    if not bias:
        code.line(f"Mmad({operands}, MmadParams({rows}, {columns}, {depth}, 0, false, {first}));")
        return
    table = program.at(bias[0], bias[0].offset if isinstance(bias[0], View) else bias[0].column)
    with_bias = f"Mmad({operands}, {table}, MmadParams({rows}, {columns}, {depth}, 0, true, false));"
    if first == "true":
        code.line(with_bias)
        return
    with code.block(f"if ({first})"):
        code.line(with_bias)
    with code.block("else"):
        code.line(f"Mmad({operands}, MmadParams({rows}, {columns}, {depth}, 0, false, false));")


def _sum_pitch(program: Program, buffer: str) -> Expr:
    """Rows, in whole fractals, that columns of fractals of a sum lie apart: those of the products that made it."""
    rows = {s.dst.rows for s in statements(program.body) if _makes(s, buffer)}  # type: ignore[union-attr]
    if len(rows) != 1:
        raise program.refuse(f"products with different rows in {buffer}")
    return ceildiv(rows.pop(), 16) * 16


def _makes(statement: object, buffer: str) -> bool:
    return isinstance(statement, Instruction) and statement.op == "mmad" and statement.dst.buffer == buffer


def _sum_offset(program: Program, block: Block) -> Expr:
    if block.column != 0 and divisor(block.column, program.code.ranges) % 16:
        raise program.refuse(f"a part of {block.buffer} inside a fractal")
    offset = block.row * 16
    return offset if block.column == 0 else offset + block.column * _sum_pitch(program, block.buffer)


_QUANT = {("f32", "f16"): "F322F16", ("f32", "bf16"): "F322BF16", ("f32", "f32"): "NoQuant", ("i32", "i32"): "NoQuant"}
_SCALED = {("i32", "f16"): "DEQF16", ("i32", "i8"): "REQ8", ("f32", "i8"): "QF322B8_PRE"}
_BY_CHANNEL = {("i32", "f16"): "VDEQF16", ("i32", "i8"): "VREQ8", ("f32", "i8"): "VQF322B8_PRE"}


def fixpipe(program: Program, node: Instruction) -> None:
    """Sums out of L0C, converted on the way, to rows of global memory or fractals of L1."""
    dst, src, *scales = (node.dst, *node.reads) if len(node.reads) == 1 else (node.dst, *_source_first(program, node))
    assert isinstance(src, Block)
    code = program.code
    types = (str(program.buffer(src.buffer).dtype), str(program.buffer(dst.buffer).dtype))
    scaled = bool(node.parameter("quant", 0)) or bool(scales)
    table = (_BY_CHANNEL if scales else _SCALED) if scaled else _QUANT
    mode = table.get(types)
    if mode is None:
        raise program.refuse(f"the fixpipe makes no {types[1]} of {types[0]}{' with scales' if scaled else ''}")
    relu = "true" if node.parameter("relu") else "false"
    scale = _scale(node) if scaled and not scales else "0"
    rows = code.value(src.rows, program.rows_of(src.buffer))
    columns = code.value(src.columns, program.columns_of(src.buffer))
    pitch = code.value(_sum_pitch(program, src.buffer), f"{program.tensor[src.buffer]}_pitch")
    source = program.at(src, _sum_offset(program, src))
    if node.parameter("nz") and isinstance(dst, View):
        to, apart, config = _memory_fractals(program, dst)
    elif isinstance(dst, View):
        to, apart, config = _memory_rows(program, dst)
    else:
        to, apart, config = program.at(dst, fractal_offset(program, dst)), str(padded_rows(_buffer(program, dst))), "NZ"
    cpp = [CPP_TYPES[DType[t.upper()]] for t in types]
    call = f"Fixpipe<{cpp[1]}, {cpp[0]}, CFG_{config}>"
    params = f"FixpipeParamsV220({columns}, {rows}, {pitch}, {apart}, {relu}, QuantMode_t::{mode}, {scale}, 1, 0, 0, 0)"
    if scales and node.parameter("add"):
        raise program.refuse("sums times scales of columns are not added to global memory")
    if scales:
        _by_channel(program, node, (to, source, apart, pitch, rows, columns, relu, mode), config)
        return
    if not node.parameter("add"):
        code.line(f"{call}({to}, {source}, {params});")
        return
    code.line(f"SetAtomicAdd<{cpp[1]}>();")
    code.line(f"{call}({to}, {source}, {params});")
    code.line("SetAtomicNone();")


def _by_channel(program: Program, node: Instruction, parts: tuple[str, ...], config: str) -> None:
    """Scales that lie in the fixpipe's own buffer: its registers are set, then the sums are moved."""
    to, source, apart, pitch, rows, columns, relu, mode = parts
    table = next(a for a in node.reads if program.buffer(a.buffer).scope == "fb")
    code = program.code
    code.line(f"SetFixPipeConfig({program.at(table, table.offset if isinstance(table, View) else table.column)});")
    code.line("PipeBarrier<PIPE_FIX>();")
    row_major = "true" if config == "ROW_MAJOR" else "false"
    if config == "ROW_MAJOR":
        code.line("SetFixpipeNz2ndFlag(1, 0, 0);")
    flag = "1" if relu == "true" else "0"
    params = f"{columns}, {rows}, {apart}, {pitch}, QuantMode_t::{mode}, {flag}, false, {row_major}"
    code.line(f"DataCopy({to}, {source}, DataCopyCO12DstParams({params}));")


def _source_first(program: Program, node: Instruction) -> list[Block | View]:
    return sorted(node.reads, key=lambda a: program.buffer(a.buffer).scope != "l0c")


def _buffer(program: Program, access: Block | View):  # type: ignore[no-untyped-def]
    return program.buffer(access.buffer)


def _scale(node: Instruction) -> str:
    """The scale as the fixpipe takes it: the bits of an f32 of which it uses sign, exponent and 10 bits; above them the
    offset (9 bits from bit 37 on) and the sign of the result (bit 46)."""
    scale = node.parameter("scale", 1.0)
    word = int.from_bytes(struct.pack("<f", float(scale)), "little")  # type: ignore[arg-type]
    offset = int(node.parameter("offset", 0))  # type: ignore[arg-type]
    return f"{word | (offset & 0x1FF) << 37 | 1 << 46:#x}"


def _memory_rows(program: Program, dst: View) -> tuple[str, str, str]:
    code = program.code
    dims = [d for d in dst.dims[:-1] if d[0] != 1]
    if len(dims) > 1 or (dst.dims[-1][1] != 1 and dst.dims[-1][0] != 1):
        raise program.refuse(f"sums to {dst.buffer} in other than rows")
    apart = dims[0][1] if dims else dst.dims[-1][0]
    return program.at(dst, dst.offset), code.value(apart, f"{program.tensor[dst.buffer]}_pitch"), "ROW_MAJOR"


def _memory_fractals(program: Program, dst: View) -> tuple[str, str, str]:
    """Fractals in global memory: a view of (columns / c, rows, c), distances in blocks of 32 bytes."""
    b = program.buffer(dst.buffer)
    c0 = 32 if b.element_bytes == 1 else 16
    if len(dst.dims) != 3 or dst.dims[2] != (as_expr(c0), as_expr(1)) or dst.dims[1][1] != c0:
        raise program.refuse(f"{dst.buffer} is no matrix in fractals")
    apart = dst.dims[0][1] * b.element_bytes // BLOCK_BYTES
    return program.at(dst, dst.offset), program.code.value(apart, f"{program.tensor[dst.buffer]}_pitch"), "NZ"


def drain(program: Program, node: Instruction) -> None:
    """Whole fractals of sums into the unified buffer of a fused core, columns of fractals at a time."""
    dst, src = node.dst, node.reads[0]
    assert isinstance(src, Block)
    code, b = program.code, program.buffer(dst.buffer)
    if not isinstance(dst, View) or len(dst.dims) != 3 or dst.dims[2] != (as_expr(16), as_expr(1)):
        raise program.refuse(f"sums to {dst.buffer} in other than fractals")
    rows, pitch = dst.dims[1][0], _sum_pitch(program, src.buffer)
    if divisor(rows, code.ranges) % 16 or dst.dims[1][1] != 16:
        raise program.refuse(f"{rows} rows of sums, no whole fractals")
    wide, high = code.value(dst.dims[0][0], "wide"), code.value(rows // 16, "high")
    gap = code.value((pitch - rows) // 16, "gap")
    skip = code.value((dst.dims[0][1] - rows * 16) * b.element_bytes // BLOCK_BYTES, "skip")
    types = (str(program.buffer(src.buffer).dtype), str(b.dtype))
    scale = "DeqScale::DEQ_NONE, 0"
    if types == ("i32", "f16"):
        half = int(np.float16(float(node.parameter("scale", 1.0))).view(np.uint16))  # type: ignore[arg-type]
        scale = f"DeqScale::DEQ, {half:#x}"
    source = program.at(src, _sum_offset(program, src))
    move = f"DataCopyParams({wide}, {high}, {gap}, {skip})"
    how = f"DataCopyEnhancedParams(BlockMode::BLOCK_MODE_MATRIX, {scale}, 0, false, pad_t::PAD_NONE, 0)"
    code.line(f"DataCopy({program.at(dst, dst.offset)}, {source}, {move}, {how});")


def load_image(program: Program, node: Instruction) -> None:
    """Windows of an image as rows of L0A (the image to columns of a convolution), packed as the product reads them."""
    dst, src = node.dst, node.reads[0]
    assert isinstance(dst, Block)
    code, b = program.code, program.buffer(dst.buffer)
    if dst.row != 0 or dst.column != 0 or (isinstance(src, Block) and src.row != 0):
        raise program.refuse(f"a part of {dst.buffer}, whose fractals the product reads without gaps")
    (left, right), (top, bottom) = ([_sizes(node, "pads", (0,) * 4)[n] for n in at] for at in ((1, 3), (0, 2)))
    kernel, stride, dilation = (_sizes(node, n, (1, 1)) for n in ("kernel", "stride", "dilation"))
    height, width = _sizes(node, "image", (1, 1))
    given = [node.parameter(n, 0) for n in ("column", "first")]
    at = [e if isinstance(e, Expr) else as_expr(int(str(e))) for e in given]
    lanes = node.parameter("channels", 0)
    channels = str(lanes) if lanes else code.value(_columns(src), program.columns_of(src.buffer))
    depth = code.value(dst.columns, program.columns_of(dst.buffer))
    rows = code.value(dst.rows, program.rows_of(dst.buffer))
    first = [code.value(e, n) for e, n in zip(at, ("window_column", "window"), strict=True)]
    around = [code.value(as_expr(e), "pad") for e in (left, right, top, bottom)]
    cpp, value = CPP_TYPES[b.dtype], node.parameter("value", 0)
    pads = f"{program.tensor[dst.buffer]}_pads"
    with code.block(""):
        listed = ", ".join(p if p.isdigit() else f"static_cast<uint8_t>({p})" for p in around)
        code.line(f"const uint8_t {pads}[4] = {{{listed}}};")
        shape = f"{pads}, {height}, {width}, {channels}, {depth}, {rows}, {first[0]}, {first[1]}"
        window = ", ".join(map(str, (*reversed(stride), *reversed(kernel), *reversed(dilation))))
        image = program.at(src, fractal_offset(program, src) if isinstance(src, Block) else src.offset)
        params = f"LoadData3DParamsV2<{cpp}>({shape}, {window}, false, false, {cpp}({value or ''}))"
        code.line(f"LoadData({program.at(dst, as_expr(0))}, {image}, {params});")


def _sizes(node: Instruction, name: str, default: tuple[int, ...]) -> tuple[int | Expr, ...]:
    given = node.parameter(name, default)
    return given if isinstance(given, tuple) else default


def _columns(src: Block | View) -> Expr:
    assert isinstance(src, Block)
    return src.columns


CUBE: dict[str, Callable[[Program, Instruction], None]] = {
    "load": load,
    "load_image": load_image,
    "mmad": mmad,
    "fixpipe": fixpipe,
    "drain": drain,
}
