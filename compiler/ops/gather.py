"""Indexed reads and writes, and results whose size depends on values."""

from __future__ import annotations

import numpy as np
from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType, TensorType
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
    return TensorType(ctx.input(0).dtype, ctx.input(1).shape)


@shape_rule("GatherND")
def gather_nd(ctx: Infer) -> TensorType:
    """Index vectors of the last axis select slices."""
    x, indices, batch = ctx.input(0), ctx.input(1), ctx.integer("batch_dims", 0)
    if not indices.shape or not indices.shape[-1].is_constant:
        ctx.unsupported("index vectors of symbolic length")
    depth = batch + indices.shape[-1].value
    if depth > x.rank:
        ctx.fail(f"index vectors of {depth - batch} for rank {x.rank} with {batch} batch axes")
    lead = tuple(ctx.equal(a, b) for a, b in zip(x.shape[:batch], indices.shape[:batch], strict=True))
    return TensorType(x.dtype, lead + indices.shape[batch:-1] + x.shape[depth:])


@shape_rule("Scatter", "ScatterElements", "ScatterND", "TensorScatter")
def scatter(ctx: Infer) -> TensorType:
    """Same type as the tensor written to."""
    return ctx.input(0)


@shape_rule("OneHot")
def one_hot(ctx: Infer) -> TensorType:
    """A new axis of ``depth``."""
    indices, values = ctx.input(0), ctx.input(2)
    (depth,) = ctx.known_list(1, "depth")
    axis = ctx.axis(ctx.integer("axis", -1), indices.rank + 1)
    return TensorType(values.dtype, (*indices.shape[:axis], depth, *indices.shape[axis:]))


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
