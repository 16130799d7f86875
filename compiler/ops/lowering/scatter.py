"""Lowering of writes at run-time positions: a tensor with some of its elements replaced.

The kernel writes the new elements only. Whether the others are copied first, or are where they belong already (a cache
updated in place), the plan decides.
"""

from __future__ import annotations

from typing import NoReturn

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, Update, binary, cast
from tilewright.ops.lower import Context, lowering, unsupported
from tilewright.ops.lowering.gather import wrapped


def _scattered(ctx: Context, update: Update) -> Operand:
    """The operand that ``update`` makes; only a kernel's output can be one."""

    def unreadable(index: tuple[Index, ...]) -> NoReturn:
        raise unsupported(ctx.node, "its result is read element by element inside a fused operator")

    return ctx.result(unreadable, update=update)


@lowering("TensorScatter")
def _lower_tensor_scatter(ctx: Context) -> Operand:
    """``y[b, …, first[b] + s, …] = update[b, …, s, …]`` along an axis, modulo its size when circular."""
    past, update, first = ctx.input(0), ctx.input(1), ctx.optional(2)
    rank = past.type.rank
    axis = ctx.attribute("axis", -2) % rank
    size = past.type.shape[axis]

    def place(index: tuple[Index, ...]) -> tuple[Index, ...]:
        step = index[axis]
        assert isinstance(step, Expr)
        if first is None:
            return index
        at: Value = binary("add", cast(first.at((index[0],)), DType.I64), IndexValue(step))
        if ctx.attribute("mode", "linear") == "circular":
            at = binary("mod", at, IndexValue(size))
        return tuple(at if d == axis else i for d, i in enumerate(index))

    return _scattered(ctx, Update(past, update.type.shape, place, update.at))


@lowering("ScatterElements", "Scatter")
def _lower_scatter_elements(ctx: Context) -> Operand:
    """``y[i, …, indices[i, j, …], …] = updates[i, j, …]`` along an axis."""
    _replaces(ctx)
    x, indices, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    axis = ctx.attribute("axis", 0) % x.type.rank

    def place(index: tuple[Index, ...]) -> tuple[Index, ...]:
        where = wrapped(ctx, indices.at(index), x.type.shape[axis])
        return tuple(where if d == axis else i for d, i in enumerate(index))

    return _scattered(ctx, Update(x, indices.type.shape, place, updates.at))


@lowering("ScatterND")
def _lower_scatter_nd(ctx: Context) -> Operand:
    """``y[indices[i, …, :], …] = updates[i, …, …]``."""
    _replaces(ctx)
    x, indices, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    depth, rank = indices.type.shape[-1], indices.type.rank
    if not depth.is_constant:
        raise unsupported(ctx.node, "index vectors of symbolic length")

    def place(index: tuple[Index, ...]) -> tuple[Index, ...]:
        rows = index[: rank - 1]
        picked = [wrapped(ctx, indices.at((*rows, n)), x.type.shape[n]) for n in range(depth.value)]
        return (*picked, *index[rank - 1 :])

    return _scattered(ctx, Update(x, updates.type.shape, place, updates.at))


def _replaces(ctx: Context) -> None:
    if (reduction := ctx.attribute("reduction", "none")) != "none":
        raise unsupported(ctx.node, f"reduction {reduction!r}: new elements can only replace the old ones")
