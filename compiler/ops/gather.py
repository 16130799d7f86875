"""Indexed reads and writes, and results whose size depends on values."""

from __future__ import annotations

import numpy as np
from tilewright.ir.symbolic import Expr, constant, maximum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.choose import LIMIT
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("Gather")
def gather(ctx: Infer) -> TensorType:
    """The indices' shape takes the place of ``axis``."""
    x, indices = ctx.input(0), ctx.input(1)
    axis = ctx.axis(ctx.integer("axis", 0), x.rank)
    known, at = ctx.known(0), ctx.known(1)
    if known is not None and at is not None and all(e.is_constant for e in at.flat):
        positions = np.array([e.value for e in at.flat], dtype=np.int64).reshape(at.shape)
        if positions.size and not -known.shape[axis] <= positions.min() <= positions.max() < known.shape[axis]:
            ctx.fail(f"index out of range for axis {axis} of size {known.shape[axis]}")
        ctx.set_known(np.take(known, positions, axis))
    largest = ctx.largest(1)
    if largest is not None:
        ctx.at_most(largest, x.shape[axis] - 1)
    return TensorType(x.dtype, x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@shape_rule("GatherElements")
def gather_elements(ctx: Infer) -> TensorType:
    """The shape of the indices."""
    x, indices = ctx.input(0), ctx.input(1)
    _fits_beside(ctx, indices, x, ctx.integer("axis", 0))
    return TensorType(x.dtype, indices.shape)


def _fits_beside(ctx: Infer, inner: TensorType, outer: TensorType, axis: int) -> None:
    """``inner`` is as long as ``outer`` at most, along all axes but one."""
    axis = ctx.axis(axis, outer.rank)
    if inner.rank != outer.rank:
        ctx.fail(f"indices of rank {inner.rank} for rank {outer.rank}")
    for d, (part, whole) in enumerate(zip(inner.shape, outer.shape, strict=True)):
        if d != axis:
            ctx.at_most(part, whole)


@shape_rule("GatherND")
def gather_nd(ctx: Infer) -> TensorType:
    """Index vectors of the last axis select slices."""
    x, indices, batch = ctx.input(0), ctx.input(1), ctx.integer("batch_dims", 0)
    if not 0 <= batch < min(x.rank, indices.rank):
        ctx.fail(f"batch_dims is {batch} for ranks {x.rank} and {indices.rank}")
    depth = batch + _vector_length(ctx, indices, x.rank - batch)
    lead = tuple(ctx.equal(a, b) for a, b in zip(x.shape[:batch], indices.shape[:batch], strict=True))
    return TensorType(x.dtype, lead + indices.shape[batch:-1] + x.shape[depth:])


def _vector_length(ctx: Infer, indices: TensorType, most: int) -> int:
    if not indices.shape:
        ctx.fail("indices are a scalar")
    if not indices.shape[-1].is_constant:
        ctx.unsupported("index vectors of symbolic length")
    length = indices.shape[-1].value
    return length if length <= most else ctx.fail(f"index vectors of {length} for {most} axes")


@shape_rule("Scatter", "ScatterElements")
def scatter_elements(ctx: Infer) -> TensorType:
    """Same type as the tensor written to; an update for each index."""
    x, indices, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    _fits_beside(ctx, indices, x, ctx.integer("axis", 0))
    _same_shape(ctx, updates, indices.shape)
    return x


@shape_rule("ScatterND")
def scatter_nd(ctx: Infer) -> TensorType:
    """Same type as the tensor written to; a slice of it for each index vector."""
    x, indices, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    depth = _vector_length(ctx, indices, x.rank)
    _same_shape(ctx, updates, indices.shape[:-1] + x.shape[depth:])
    return x


def _same_shape(ctx: Infer, updates: TensorType, shape: tuple[Expr, ...]) -> None:
    if updates.rank != len(shape):
        ctx.fail(f"updates of rank {updates.rank}, not {len(shape)}")
    for a, b in zip(updates.shape, shape, strict=True):
        ctx.equal(a, b)


@shape_rule("TensorScatter")
def tensor_scatter(ctx: Infer) -> TensorType:
    """Same type as the cache; updates for consecutive positions along ``axis``, a first position for each batch."""
    past, update = ctx.input(0), ctx.input(1)
    axis = ctx.axis(ctx.integer("axis", -2), past.rank)
    if update.rank != past.rank or axis == 0:
        ctx.fail(f"axis {axis}, updates of rank {update.rank} for rank {past.rank}")
    for d, (a, b) in enumerate(zip(update.shape, past.shape, strict=True)):
        if d != axis:  # a position beyond the end refuses the run
            ctx.equal(a, b)
    if ctx.has(2):
        _same_shape(ctx, ctx.input(2), past.shape[:1])
    return past


@shape_rule("OneHot")
def one_hot(ctx: Infer) -> TensorType:
    """A new axis of ``depth``, a number of any dtype."""
    indices, depth, values = ctx.input(0), ctx.input(1), ctx.input(2)
    axis = ctx.axis(ctx.integer("axis", -1), indices.rank + 1)
    _same_shape(ctx, values, (constant(2),))
    fixed = ctx.constant(1)
    if depth.dtype.is_integer:
        (size,) = ctx.known_list(1, "depth", 0)
        ctx.at_most(0, size)
        size = maximum(size, 0)
    elif fixed is not None and fixed.size == 1 and np.isfinite(fixed).all():
        size = constant(max(int(fixed.reshape(-1)[0]), 0))
    else:
        size = ctx.new_size("depth", LIMIT)
    return TensorType(values.dtype, (*indices.shape[:axis], size, *indices.shape[axis:]))


@shape_rule("NonZero")
def nonzero(ctx: Infer) -> TensorType:
    """Positions of the elements that are not zero; how many is known at run time."""
    x = ctx.input(0)
    return TensorType(DType.I64, (constant(x.rank), ctx.new_size("nonzero", ctx.product(x.shape))))


@shape_rule("Compress")
def compress(ctx: Infer) -> TensorType:
    """The slices that a condition picks."""
    x = ctx.input(0)
    if ctx.attribute("axis") is None:
        return TensorType(x.dtype, (ctx.new_size("compress", ctx.product(x.shape)),))
    axis = ctx.axis(ctx.integer("axis"), x.rank)
    return TensorType(x.dtype, (*x.shape[:axis], ctx.new_size("compress", x.shape[axis]), *x.shape[axis + 1 :]))
