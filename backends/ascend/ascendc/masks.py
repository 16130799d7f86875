"""Comparisons and selections: one bit a lane, each row of bits from a multiple of 32 bytes on.

Compare ignores masks: it reads whole repeats of 256 bytes and writes the bits of whole repeats (Ascend C reference,
Compare). What it so reads beyond a row ends in bits that nothing looks at.
"""

from __future__ import annotations

from collections.abc import Callable

from tilewright.backends.ascend.ascendc.lanes import MAX_REPEATS, Lanes, outer_loops
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.ascendc.vector import number, views
from tilewright.backends.ascend.placed.form import Instruction, Scalar, View
from tilewright.ir.symbolic import Expr


def compare(program: Program, node: Instruction) -> None:
    """Compare, or CompareScalar where the right side is a number."""
    (mask, *sides), scalars = views(program, node)
    mode = f"CMPMODE::{node.op.removeprefix('compare_').upper()}"
    lanes = _rows_with_bits(program, mask, sides)
    per = 256 // max(program.buffer(s.buffer).element_bytes for s in sides)
    _check_bits(program, mask, lanes, per)
    code = program.code
    with outer_loops(program, lanes, 1) as more:
        bits, *texts = (program.at(v, v.offset, m) for v, m in zip(lanes.views, more, strict=True))
        columns = code.value(lanes.counts[-1], program.columns_of(sides[0].buffer))
        whole = str(-(-lanes.counts[-1].value // per) * per) if lanes.counts[-1].is_constant else ""
        whole = whole or f"RoundUp({columns}, {per})"
        if scalars:
            value = number(program, scalars[0], program.buffer(sides[0].buffer).dtype)
            code.line(f"CompareScalar({bits}, {texts[0]}, {value}, {mode}, {whole});")
        elif all(s[-1] == 1 for s in lanes.strides[1:]):
            code.line(f"Compare({bits}, {texts[0]}, {texts[1]}, {mode}, {whole});")
        else:
            blocks = ["1" if s[-1] == 1 else "0" for s in lanes.strides[1:]]
            repeats = ["8" if s[-1] == 1 else "0" for s in lanes.strides[1:]]
            times = str(-(-lanes.counts[-1].value // per)) if lanes.counts[-1].is_constant else ""
            times = times or f"CeilDiv({columns}, {per})"
            code.line(
                f"Compare({bits}, {texts[0]}, {texts[1]}, {mode}, {per}, {times}, "
                f"{{1, {', '.join(blocks)}, 8, {', '.join(repeats)}}});"
            )


def select(program: Program, node: Instruction) -> None:
    """Elements of one of two tensors by a row of bits, or of a tensor and a number."""
    mask, *rest = node.srcs
    if not isinstance(mask, View) or not isinstance(node.dst, View):
        raise program.refuse("a selection by something that is no mask")
    tensors = [s for s in rest if isinstance(s, View)]
    numbers = [s for s in rest if isinstance(s, Scalar)]
    if not tensors or not isinstance(rest[0], View):
        raise program.refuse("a selection whose first value is a number")
    lanes = _rows_with_bits(program, mask, [node.dst, *tensors])
    if any(s[-1] != 1 for s in lanes.strides[1:]) and lanes.counts[-1] != 1:
        raise program.refuse("a selection from a row that repeats one element")
    code = program.code
    with outer_loops(program, lanes, 1) as more:
        bits, to, *texts = (program.at(v, v.offset, m) for v, m in zip(lanes.views, more, strict=True))
        columns = code.value(lanes.counts[-1], program.columns_of(node.dst.buffer))
        if numbers:
            value = number(program, numbers[0], program.buffer(node.dst.buffer).dtype)
            code.line(f"Select({to}, {bits}, {texts[0]}, {value}, SELMODE::VSEL_TENSOR_SCALAR_MODE, {columns});")
        else:
            values = ", ".join(texts)
            code.line(f"Select({to}, {bits}, {values}, SELMODE::VSEL_TENSOR_TENSOR_MODE, {columns});")


def _rows_with_bits(program: Program, mask: View, tensors: list[View]) -> Lanes:
    """The rows that mask and tensors share: never joined, since each row of bits begins anew."""
    if any(len(t.dims) != len(mask.dims) for t in tensors):
        raise program.refuse(f"{mask.buffer} has other dimensions than what it selects from")
    if any(not s.is_constant for v in (mask, *tensors) for _, s in v.dims):
        raise program.refuse("the distance of lanes is known only at run time")
    shape = tensors[0].dims
    keep = [d for d, (n, _) in enumerate(shape) if n != 1 or d == len(shape) - 1]
    counts: tuple[Expr, ...] = tuple(shape[d][0] for d in keep)
    all_views = (mask, *tensors)
    strides = tuple(tuple(v.dims[d][1].value for d in keep) for v in all_views)
    return Lanes(all_views, counts, strides, tuple(program.buffer(v.buffer).element_bytes for v in all_views))


def _check_bits(program: Program, mask: View, lanes: Lanes, per: int) -> None:
    buffer = program.buffer(mask.buffer)
    room = lanes.strides[0][-2] if len(lanes.counts) > 1 else buffer.slot_bytes
    if len(lanes.counts) > 1 and room % 32:
        raise program.refuse(f"rows of {mask.buffer} are {room} bytes apart, not a multiple of 32")
    most = min(program.code.high(lanes.counts[-1]), room * 8)
    if -(-most // per) * per > room * 8 or most > per * MAX_REPEATS:
        raise program.refuse(f"{mask.buffer} has no room for the bits of whole repeats")


MASKS: dict[str, Callable[[Program, Instruction], None]] = {
    **{f"compare_{c}": compare for c in ("eq", "ne", "lt", "le", "gt", "ge")},
    "select": select,
}
