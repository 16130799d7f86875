"""Lowering of gathered reads."""

from __future__ import annotations

from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType
from tilewright.kernel.expr import Const, IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, select
from tilewright.ops.lower import Context, lowering


def wrapped(ctx: Context, index: Value, size: Expr) -> Index:
    """A run-time index into a dimension, negative ones counted from its end."""
    if isinstance(index, Const):
        at, ranges = constant(int(index.value)) if index.value >= 0 else size + int(index.value), ctx.composer.ranges
        if bounds(at, ranges)[0] >= 0 and bounds(size - at, ranges)[0] > 0:
            return at  # else only a run can tell whether there is such an element
    wide = cast(index, DType.I64)
    return select(binary("lt", wide, 0), binary("add", wide, IndexValue(size)), wide)


@lowering("Gather")
def _lower_gather(ctx: Context) -> Operand:
    x, indices = ctx.input(0), ctx.input(1)
    axis, rank = ctx.attribute("axis", 0) % x.type.rank, indices.type.rank

    def at(index: tuple[Index, ...]) -> Value:
        where = wrapped(ctx, indices.at(index[axis : axis + rank]), x.type.shape[axis])
        return x.at((*index[:axis], where, *index[axis + rank :]))

    return ctx.result(at)


@lowering("GatherElements")
def _lower_gather_elements(ctx: Context) -> Operand:
    x, indices = ctx.input(0), ctx.input(1)
    axis = ctx.attribute("axis", 0) % x.type.rank

    def at(index: tuple[Index, ...]) -> Value:
        where = wrapped(ctx, indices.at(index), x.type.shape[axis])
        return x.at([where if d == axis else i for d, i in enumerate(index)])

    return ctx.result(at)


@lowering("GatherND")
def _lower_gather_nd(ctx: Context) -> Operand:
    x, indices, batch = ctx.input(0), ctx.input(1), ctx.attribute("batch_dims", 0)
    depth, rank = indices.type.shape[-1].value, indices.type.rank

    def at(index: tuple[Index, ...]) -> Value:
        rows = index[: rank - 1]
        picked = [wrapped(ctx, indices.at((*rows, n)), x.type.shape[batch + n]) for n in range(depth)]
        return x.at((*index[:batch], *picked, *index[rank - 1 :]))

    return ctx.result(at)
