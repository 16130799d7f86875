"""Element-wise instructions, reductions of rows, and what fills the unified buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from tilewright.backends.ascend.ascendc.lanes import (
    BLOCK_BYTES,
    MAX_REPEATS,
    Lanes,
    Repeats,
    at_least_one,
    lanes_of,
    outer_loops,
    row_bound,
    run_name,
    spell_lanes,
)
from tilewright.backends.ascend.ascendc.names import CPP_TYPES, literal
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.placed.form import Instruction, Scalar, View
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.ir.ranges import divisor
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType

BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "and": "And", "or": "Or"}
WITH_SCALAR = {"add": "Adds", "mul": "Muls", "max": "Maxs", "min": "Mins"}
UNARY = {"exp": "Exp", "ln": "Ln", "abs": "Abs", "sqrt": "Sqrt", "relu": "Relu", "not": "Not"}
SHIFTS = {"shift_left": "ShiftLeft", "shift_right": "ShiftRight"}
REDUCTIONS = {"row_sum": "WholeReduceSum", "row_max": "WholeReduceMax", "row_min": "WholeReduceMin"}
BLOCK_REDUCTIONS = {"block_sum": "BlockReduceSum", "block_max": "BlockReduceMax", "block_min": "BlockReduceMin"}
_ROUNDS = {
    "rint": "CAST_RINT",
    "floor": "CAST_FLOOR",
    "ceil": "CAST_CEIL",
    "trunc": "CAST_TRUNC",
    "round": "CAST_ROUND",
}
#: Casts that lose nothing, or cut bits, take no rounding (Ascend C reference, Cast, the table of 910B).
_EXACT = frozenset(
    [
        *(("f16", "f32"), ("bf16", "f32"), ("i8", "f16"), ("u8", "f16"), ("i16", "f32")),
        *(("i32", "i64"), ("i64", "i32"), ("i32", "i16")),
    ]
)
#: What Cast has on a fused core (the same page, the table of 310P); ``CAST_NONE`` is to nearest even where it loses.
_NEAREST: Mapping[str, str] = {"rint": "CAST_NONE"}
_FUSED: Mapping[tuple[str, str], Mapping[str, str]] = {
    **dict.fromkeys((("f16", "f32"), ("i8", "f16"), ("u8", "f16"), ("i32", "i16")), _NEAREST),
    **dict.fromkeys((("f32", "f16"), ("i32", "f32"), ("i16", "f16")), _NEAREST),
    **{("f16", to): {**_ROUNDS, "rint": "CAST_NONE"} for to in ("i8", "u8")},
    ("f16", "i16"): {"rint": "CAST_RINT"},
    ("f16", "i32"): _ROUNDS,
}


def views(program: Program, node: Instruction) -> tuple[list[View], list[Scalar]]:
    """Destination and sources in order, and the scalars."""
    scalars = [s for s in node.srcs if isinstance(s, Scalar)]
    tensors = [node.dst, *(s for s in node.srcs if not isinstance(s, Scalar))]
    if not all(isinstance(v, View) for v in tensors):
        raise program.refuse(f"{node.op} of a fractal layout")
    return tensors, scalars  # type: ignore[return-value]


def number(program: Program, scalar: Scalar, dtype: DType) -> str:
    """A scalar operand of an instruction on ``dtype``."""
    if isinstance(scalar.value, Expr):
        if scalar.value.is_constant:
            return literal(scalar.value.value, dtype)
        value = program.code.value(scalar.value, "first")
        return f"static_cast<{CPP_TYPES[dtype]}>({value})"
    return literal(scalar.value, dtype)


def binary(program: Program, node: Instruction) -> None:
    """Add, Mul, …; with a scalar Adds, Muls, …"""
    tensors, scalars = views(program, node)
    if scalars:
        name = WITH_SCALAR[node.op]
        value = number(program, scalars[0], program.buffer(node.dst.buffer).dtype)
        _unary_call(program, tensors, name, value)
        return
    name = BINARY[node.op]

    def call(o: Sequence[str], mask: str, repeat: str, r: Repeats) -> str:
        return f"{name}({', '.join(o)}, {mask}, {repeat}, {{{_strides(r)}}})"

    spell_lanes(program, tensors, call, lambda o, count: f"{name}({', '.join(o)}, {count})")


def unary(program: Program, node: Instruction) -> None:
    """Exp, Abs, …"""
    _unary_call(program, views(program, node)[0], UNARY[node.op], "")


def shift(program: Program, node: Instruction) -> None:
    """ShiftLeft, ShiftRight by a constant number of bits."""
    dtype = program.buffer(node.dst.buffer).dtype
    by = literal(int(node.parameter("by")), dtype)  # type: ignore[arg-type]
    _unary_call(program, views(program, node)[0], SHIFTS[node.op], by)


def cast(program: Program, node: Instruction) -> None:
    """Cast with the rounding of the instruction."""
    source, result = (str(program.buffer(a.buffer).dtype) for a in (node.reads[0], node.dst))
    rounding = str(node.parameter("round", "rint"))
    if int(program.placed.target.extra["architecture"]) == 2002:
        found = _FUSED.get((source, result), {}).get(rounding)
        if found is None:
            raise program.refuse(f"a cast of {source} to {result} by {rounding} on a fused core")
        mode = found
    else:
        mode = "CAST_NONE" if (source, result) in _EXACT else _ROUNDS[rounding]
    _unary_call(program, views(program, node)[0], "Cast", f"RoundMode::{mode}")


def widen(program: Program, node: Instruction) -> None:
    """Cast of int4b_t, a row at a time where rows do not follow on one another; counts are of elements."""
    (dst, src), _ = views(program, node)
    halves = View(src.buffer, src.offset, (*src.dims[:-1], dst.dims[-1]))
    doubled = View(src.buffer, src.offset, (*((n, s * 2) for n, s in halves.dims[:-1]), halves.dims[-1]))
    lanes = lanes_of(program, [dst, doubled])
    if any(s[-1] != 1 for s in lanes.strides):
        raise program.refuse(f"integers of {src.buffer} that are no run")
    code = program.code
    with outer_loops(program, lanes, 1) as more:
        count = code.value(lanes.counts[-1], run_name(program, dst))
        to = program.at(dst, dst.offset, more[0])
        source = program.at(src, src.offset, f"({more[1]}) / 2" if more[1] else "")
        code.line(f"Cast({to}, {source}.ReinterpretCast<int4b_t>(), RoundMode::CAST_NONE, {count});")


def _unary_call(program: Program, tensors: list[View], name: str, extra: str) -> None:
    more = f", {extra}" if extra else ""

    def call(o: Sequence[str], mask: str, repeat: str, r: Repeats) -> str:
        return f"{name}({', '.join(o)}{more}, {mask}, {repeat}, {{{_strides(r)}}})"

    spell_lanes(program, tensors, call, lambda o, count: f"{name}({', '.join(o)}{more}, {count})")


def _strides(r: Repeats) -> str:
    return ", ".join(map(str, (*r.blocks, *r.repeats)))


def duplicate(program: Program, node: Instruction) -> None:
    """A number into every lane."""
    tensors, scalars = views(program, node)
    value = number(program, scalars[0], program.buffer(node.dst.buffer).dtype)

    def call(o: Sequence[str], mask: str, repeat: str, r: Repeats) -> str:
        return f"Duplicate({o[0]}, {value}, {mask}, {repeat}, {_strides(r)})"

    spell_lanes(program, tensors, call, lambda o, count: f"Duplicate({o[0]}, {value}, {count})")


def copy(program: Program, node: Instruction) -> None:
    """Lanes as they are. A fused core has no Copy: ``x | x`` on halves of words keeps every bit there."""
    tensors, _ = views(program, node)
    if int(program.placed.target.extra["architecture"]) == 2002:
        _copy_by_or(program, tensors)
        return

    def call(o: Sequence[str], mask: str, repeat: str, r: Repeats) -> str:
        return f"Copy({', '.join(o)}, {mask}, {repeat}, {{{_strides(r)}}})"

    spell_lanes(program, tensors, call, None)


def _copy_by_or(program: Program, tensors: list[View]) -> None:
    lanes = lanes_of(program, tensors)
    if any(s[-1] != 1 for s in lanes.strides):
        raise program.refuse("a copy that repeats elements on a fused core")
    words = lanes.sizes[0] // 2
    with outer_loops(program, lanes, 1) as more:
        count = program.code.value(lanes.counts[-1], program.columns_of(tensors[0].buffer))
        dst, src = (
            f"{program.at(v, v.offset, m)}.ReinterpretCast<uint16_t>()" for v, m in zip(tensors, more, strict=True)
        )
        program.code.line(f"Or({dst}, {src}, {src}, {count}{f' * {words}' if words > 1 else ''});")


def iota(program: Program, node: Instruction) -> None:
    """first, first + 1, … in every row."""
    tensors, scalars = views(program, node)
    first = number(program, scalars[0], program.buffer(node.dst.buffer).dtype)
    lanes = lanes_of(program, [tensors[0]])
    rows = tensors[0].dims
    if len(rows) > 1 and len(lanes.counts) == 1 and lanes.counts[0] != rows[-1][0]:
        # Rows that follow on one another are rows nevertheless: each begins at ``first`` again.
        keep = [(n, s) for n, s in rows if n != 1] or [rows[-1]]
        counts = tuple(n for n, _ in keep)
        lanes = type(lanes)(lanes.views, counts, (tuple(s.value for _, s in keep),), lanes.sizes)
    with outer_loops(program, lanes, 1) as more:
        count = program.code.value(lanes.counts[-1], program.columns_of(tensors[0].buffer))
        program.code.line(f"CreateVecIndex({program.at(tensors[0], tensors[0].offset, more[0])}, {first}, {count});")


def brcb(program: Program, node: Instruction) -> None:
    """One element a row into a block a row, eight rows a repeat."""
    (dst, src), _ = views(program, node)
    size = program.buffer(dst.buffer).element_bytes
    if len(dst.dims) < 2 or src.dims[-1][1] != 0 or src.dims[-2][1] != 1:
        raise program.refuse(f"a spread of {src.buffer} that is not one element to a block")
    rows, pitch = dst.dims[-2]
    blocks = pitch.value * size // BLOCK_BYTES
    _room(program, dst, rows, pitch.value)
    _room(program, src, rows, 1)
    code = program.code
    high = min(code.high(rows), program.buffer(dst.buffer).slot_bytes // size // pitch.value)
    if -(-high // 8) > MAX_REPEATS:
        raise program.refuse(f"a spread of {high} rows")
    outer = [(n, a, b) for (n, a), (_, b) in zip(dst.dims[:-2], src.dims[:-2], strict=True) if n != 1]
    # What a group writes beside its rows, up to eight of them, has to be its own.
    own = all(a.is_constant and a.value >= round_up(high, 8) * pitch.value for _, a, _ in outer)
    if outer and not own and divisor(rows, code.ranges) % 8:
        raise program.refuse(f"a spread of {src.buffer} whose groups of rows are not eight at a time")
    if any(divisor(b, code.ranges) * size % 32 for _, _, b in outer):
        raise program.refuse(f"a spread of {src.buffer} whose groups of rows begin inside a block")
    count = code.value(rows, program.rows_of(dst.buffer))
    repeats = str(-(-rows.value // 8)) if rows.is_constant else f"CeilDiv({count}, 8)"
    with ExitStack() as stack:
        near, far = [], []
        for d, (n, a, b) in enumerate(outer):
            stack.enter_context(code.block(f"for (int64_t i{d} = 0; i{d} < {code.value(n, 'groups_of_rows')}; ++i{d})"))
            near.append(f"i{d} * {code.factor(a)}")
            far.append(f"i{d} * {code.factor(b)}")
        to = program.at(dst, dst.offset, " + ".join(near))
        source = program.at(src, src.offset, " + ".join(far))
        code.line(f"Brcb({to}, {source}, {repeats}, {{{blocks}, {8 * blocks}}});")


def _room(program: Program, view: View, rows: Expr, pitch: int) -> None:
    """A repeat of Brcb reads and writes eight rows, whatever the number that is wanted."""
    b = program.buffer(view.buffer)
    have = b.slot_bytes // b.element_bytes
    need = round_up(min(program.code.high(rows), max(1, have // pitch)), 8) * pitch
    if need > round_up(have, BLOCK_BYTES // b.element_bytes):
        raise program.refuse(f"{view.buffer} has no room for whole groups of eight rows, which Brcb works on")


def reduce_rows(program: Program, node: Instruction) -> None:
    """One number a row; a row is at most one repeat."""
    (dst, src), _ = views(program, node)
    size = program.buffer(src.buffer).element_bytes
    name = REDUCTIONS[node.op]
    code = program.code
    if name != "WholeReduceSum" and int(program.placed.target.extra["architecture"]) == 2002:
        raise program.refuse(f"{name} on a fused core, where it writes the index beside the value")
    counts, columns = src.dims[:-1], src.dims[-1]
    if columns[0].is_constant and columns[0].value * size > 256:
        raise program.refuse(f"a reduction of {columns[0]} lanes, more than one repeat")
    order = "" if name == "WholeReduceSum" else ", ReduceOrder::ORDER_ONLY_VALUE"
    dims = [d for d in range(len(counts)) if counts[d][0] != 1] or [len(counts) - 1] if counts else []
    width = code.value(columns[0], program.columns_of(src.buffer))
    with ExitStack() as stack:
        at_least_one(program, columns[0], width, stack)
        if dims:
            _reduce_dims(program, (dst, src), dims, f"{name}|{width}|{order}")
        else:
            ends = f"{program.at(dst, dst.offset)}, {program.at(src, src.offset)}"
            code.line(f"{name}({ends}, {width}, 1, 1, 1, 8{order});")


def _reduce_dims(program: Program, ends: tuple[View, View], dims: list[int], spelling: str) -> None:
    dst, src = ends
    counts, size = src.dims[:-1], program.buffer(src.buffer).element_bytes
    steps = [s.value for _, s in dst.dims[: len(counts)]]
    lanes = Lanes(
        ends,
        tuple(counts[d][0] for d in dims),
        (tuple(steps[d] for d in dims), tuple(counts[d][1].value for d in dims)),
        (size, size),
    )
    with outer_loops(program, lanes, 1) as more:
        _reduce_last(program, lanes, more, spelling)


def _reduce_last(program: Program, lanes: Lanes, more: list[str], spelling: str) -> None:
    name, width, order = spelling.split("|")
    code = program.code
    rows = code.value(lanes.counts[-1], program.rows_of(lanes.views[1].buffer))
    step, pitch = lanes.strides[0][-1], lanes.strides[1][-1] * lanes.sizes[1]
    if pitch % BLOCK_BYTES:
        raise program.refuse(f"rows {pitch} bytes apart are no whole blocks")
    strides = f"{step}, 1, {pitch // BLOCK_BYTES}{order}"

    def call(a: Sequence[str], count: str) -> str:
        dst, src = (program.at(v, v.offset, m) for v, m in zip(lanes.views, a, strict=True))
        return f"{name}({dst}, {src}, {width}, {count}, {strides});"

    if row_bound(program, lanes, -1) <= MAX_REPEATS:
        code.line(call(more, rows))
        return
    with code.block(f"for (int64_t r = 0; r < {rows}; r += {MAX_REPEATS})"):
        moved = [" + ".join(t for t in (m, f"r * {s[-1]}") if t) for m, s in zip(more, lanes.strides, strict=True)]
        code.line(call(moved, f"Smaller({MAX_REPEATS}, {rows} - r)"))


def reduce_blocks(program: Program, node: Instruction) -> None:
    """One number a row of at most 32 bytes, eight rows a repeat; the rows that are left have a mask of their own."""
    (dst, src), _ = views(program, node)
    size, code = program.buffer(src.buffer).element_bytes, program.code
    columns = src.dims[-1][0]
    if columns.is_constant and columns.value * size > BLOCK_BYTES:
        raise program.refuse(f"a reduction of {columns} lanes, more than one block")
    rows = View(src.buffer, src.offset, src.dims[:-1] or ((columns // columns, columns // columns),))
    lanes = lanes_of(program, [dst, rows])
    if lanes.counts[-1] != 1 and lanes.strides[0][-1] != 1:
        raise program.refuse(f"numbers of rows of {dst.buffer} that are no neighbours")
    pitch = lanes.strides[1][-1] * size
    if lanes.counts[-1] != 1 and pitch % BLOCK_BYTES:
        raise program.refuse(f"rows {pitch} bytes apart are no whole blocks")
    width = code.value(columns, program.columns_of(src.buffer))
    with ExitStack() as stack:
        at_least_one(program, columns, width, stack)
        mask = _block_mask(program, columns, width, size)
        more = stack.enter_context(outer_loops(program, lanes, 1))
        _eight_rows(program, lanes, more, (BLOCK_REDUCTIONS[node.op], mask, pitch // BLOCK_BYTES or 1))


def _block_mask(program: Program, columns: Expr, width: str, size: int) -> str:
    """The bits of the first ``width`` lanes of each block, for 64 of the lanes of a repeat."""
    lanes = BLOCK_BYTES // size
    each = sum(1 << n for n in range(0, 64, lanes))
    if columns.is_constant:
        return f"{((1 << columns.value) - 1) * each:#x}ULL"
    name = program.code.names.give("lanes_of_blocks")
    program.code.line(f"const uint64_t {name} = ((1ULL << {width}) - 1) * {each:#x}ULL;")
    return name


def _eight_rows(program: Program, lanes: Lanes, more: list[str], spelling: tuple[str, str, int]) -> None:
    name, mask, pitch = spelling
    code, size = program.code, lanes.sizes[1]
    count = lanes.counts[-1]
    rows = code.value(count, program.rows_of(lanes.views[0].buffer))
    most, high = 8 * MAX_REPEATS, row_bound(program, lanes, -1)
    whole = f"{{{mask}, {mask if size == 2 else 0}}}"

    def call(at: str, times: str, bits: str) -> None:
        offsets = [
            _plus(m, f"({at}) * {s[-1]}" if at and s[-1] else "") for m, s in zip(more, lanes.strides, strict=True)
        ]
        dst, src = (program.at(v, v.offset, m) for v, m in zip(lanes.views, offsets, strict=True))
        code.line(f"{name}({dst}, {src}, {times}, {bits}, 1, {pitch}, {8 * pitch});")

    with ExitStack() as stack:
        stack.enter_context(code.block(""))
        if high >= 8:
            code.line(f"const uint64_t whole[2] = {whole};")
        if high > most:
            with code.block(f"for (int64_t r = 0; r < {rows} / 8; r += {MAX_REPEATS})"):
                call("r * 8", f"Smaller({MAX_REPEATS}, {rows} / 8 - r)", "whole")
        elif high >= 8:
            call("", str(count.value // 8) if count.is_constant else f"{rows} / 8", "whole")
        if count.is_constant and count.value % 8 == 0:
            return
        if not count.is_constant:
            stack.enter_context(code.block(f"if ({rows} % 8 != 0)"))
        code.line(f"const int64_t bits = {rows} % 8 * {BLOCK_BYTES // size};")
        low, up = "bits < 64 ? (1ULL << bits) - 1 : ~0ULL", "bits > 64 ? (1ULL << (bits - 64)) - 1 : 0"
        code.line(f"const uint64_t rest[2] = {{({low}) & {mask}, {f'({up}) & {mask}' if size == 2 else 0}}};")
        call(f"{rows} / 8 * 8", "1", "rest")


def _plus(*terms: str) -> str:
    return " + ".join(t for t in terms if t)


def gather(program: Program, node: Instruction) -> None:
    """Elements at byte offsets from the beginning of the source's slot."""
    tensors, _ = views(program, node)
    dst, src, index = tensors
    if program.buffer(dst.buffer).element_bytes == 8:
        _gather_words(program, dst, src, index)
        return
    lanes = lanes_of(program, [dst, index])
    if any(s[-1] != 1 for s in lanes.strides):
        raise program.refuse("a gather whose lanes are no runs")
    base = program.at(src, src.offset * 0)
    kind = program.buffer(dst.buffer).dtype
    if program.buffer(src.buffer).dtype != kind:
        base += f".ReinterpretCast<{CPP_TYPES[kind]}>()"
    words = "" if program.buffer(index.buffer).dtype is DType.U32 else ".ReinterpretCast<uint32_t>()"
    with outer_loops(program, lanes, 1) as more:
        count = program.code.value(lanes.counts[-1], program.columns_of(dst.buffer))
        to, by = (program.at(v, v.offset, m) for v, m in zip(lanes.views, more, strict=True))
        program.code.line(f"Gather({to}, {base}, {by}{words}, 0, {count});")


def _gather_words(program: Program, dst: View, src: View, index: View) -> None:
    """The same for integers of 64 bits, word by word."""
    words = View(dst.buffer, dst.offset, (*((n, s * 2) for n, s in dst.dims[:-1]), index.dims[-1]))
    lanes = lanes_of(program, [words, index])
    if any(s[-1] != 1 for s in lanes.strides):
        raise program.refuse("a gather whose lanes are no runs")
    base, to = (f"{program.at(v, o)}.ReinterpretCast<int32_t>()" for v, o in ((src, src.offset * 0), (dst, dst.offset)))
    with outer_loops(program, lanes, 1) as more:
        count = program.code.value(lanes.counts[-1], program.columns_of(dst.buffer))
        by = program.at(index, index.offset, more[1])
        there = f"{to}[{more[0]}]" if more[0] else to
        program.code.line(f"Gather({there}, {base}, {by}.ReinterpretCast<uint32_t>(), 0, {count});")


def transpose(program: Program, node: Instruction) -> None:
    """The last two dimensions exchanged: 16 rows at a time, their pieces of 32 bytes as repeats."""
    (dst, src), _ = views(program, node)
    size = program.buffer(dst.buffer).element_bytes
    if any(v.dims[-1][1] != 1 or not v.dims[-2][1].is_constant for v in (dst, src)) or len(dst.dims) > 3:
        raise program.refuse(f"a transposition of {src.buffer}")
    code = program.code
    width = BLOCK_BYTES // size  # columns of the source that one repeat turns
    pitch = {v: v.dims[-2][1].value for v in (dst, src)}
    if any(n * size % BLOCK_BYTES for n in pitch.values()):
        raise program.refuse(f"rows of {src.buffer} or {dst.buffer} are no whole blocks apart")
    rows, columns = (code.value(n, "turned") for n, _ in src.dims[-2:])
    if code.high(src.dims[-1][0]) > width * MAX_REPEATS:
        raise program.refuse(f"a transposition of rows of {src.dims[-1][0]}")
    cpp = "uint16_t" if size == 2 else "uint32_t"
    with ExitStack() as stack:
        more = {dst: "", src: ""}
        if len(src.dims) > 2 and src.dims[0][0] != 1:
            count = code.value(src.dims[0][0], "matrices")
            stack.enter_context(code.block(f"for (int64_t b = 0; b < {count}; ++b)"))
            more = {v: f"b * {code.factor(v.dims[0][1])} + " for v in (dst, src)}
        stack.enter_context(code.block(f"for (int64_t i = 0; i < {rows}; i += 16)"))
        code.line("uint64_t to[16], from[16];")
        source = program.at(src, src.offset, f"{more[src]}(i + r) * {pitch[src]}")
        if size == 2:
            target = program.at(dst, dst.offset, f"{more[dst]}r * {pitch[dst]} + i")
        else:  # a column of 16 words fills two blocks
            target = program.at(dst, dst.offset, f"{more[dst]}r / 2 * {pitch[dst]} + i + r % 2 * 8")
        with code.block("for (int64_t r = 0; r < 16; ++r)"):
            code.line(f"from[r] = (uint64_t){source}.GetPhyAddr();")
            code.line(f"to[r] = (uint64_t){target}.GetPhyAddr();")
        times = f"CeilDiv({columns}, {width})" if not src.dims[-1][0].is_constant else ""
        times = times or str(-(-src.dims[-1][0].value // width))
        step = pitch[dst] * size * width // BLOCK_BYTES
        if times == "1":
            strides = "0, 0"
        elif times.isdigit():
            strides = f"{step}, 1"
        else:
            strides = f"{columns} > {width} ? {step} : 0, {columns} > {width} ? 1 : 0"
        code.line(f"TransDataTo5HD<{cpp}>(to, from, TransDataTo5HDParams(false, false, {times}, {strides}));")


VECTOR: dict[str, Callable[[Program, Instruction], None]] = {
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(SHIFTS, shift),
    **dict.fromkeys(REDUCTIONS, reduce_rows),
    **dict.fromkeys(BLOCK_REDUCTIONS, reduce_blocks),
    "cast": cast,
    "widen": widen,
    "copy": copy,
    "duplicate": duplicate,
    "iota": iota,
    "brcb": brcb,
    "gather": gather,
    "transpose": transpose,
}
