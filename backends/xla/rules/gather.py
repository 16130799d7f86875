"""Operators that read or write elements at computed positions.

A negative index counts from the true end. An index that lies in padding is undefined: it reads some element, and what
it would write goes nowhere. Positions are computed in ``i32``, as sizes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType, TensorType


def wrapped(ctx: Rule, indices: Value, size: Expr) -> Value:
    """Indices as ``i32``; those below 0 count from the end of ``size``."""
    hlo = stablehlo()
    indices = build.convert(indices, DType.I32)
    shape = build.shape_of(indices)
    length = build.broadcast(ctx.sizes.true(size), shape, ())
    below = build.compare(indices, build.splat(0, DType.I32, shape), "LT", "SIGNED")
    return hlo.select(below, hlo.add(indices, length), indices)


@rule("Gather", padding=Padding.MASKED)
def gather(ctx: Rule) -> Tensor:
    """Slices along an axis; one constant index is a slice of the program."""
    x, indices = ctx.input(0), ctx.input(1)
    axis = ctx.attribute("axis", 0) % x.rank
    if 0 in ctx.shape() or 0 in x.shape:
        return ctx.result(_nothing(ctx))
    fixed = ctx.constant(1)
    if fixed is not None and fixed.size == 1 and (fixed.item() >= 0 or not ctx.padded(x, [axis])):
        at = int(fixed.item()) + (x.shape[axis] if fixed.item() < 0 else 0)
        if 0 <= at < x.shape[axis]:
            return ctx.result(build.reshape(indexing.cut_dim(x.value, axis, at, at + 1), ctx.shape()))
    return ctx.result(indexing.take(x.value, wrapped(ctx, indices.value, x.type.shape[axis]), axis))


@rule("GatherElements", padding=Padding.MASKED)
def gather_elements(ctx: Rule) -> Tensor:
    """Each element of the output has its own position along the axis, and its own place along the others."""
    x, indices = ctx.input(0), ctx.input(1)
    if 0 in ctx.shape() or 0 in x.shape:
        return ctx.result(_nothing(ctx))
    axis = ctx.attribute("axis", 0) % x.rank
    places = _places(ctx, x, indices, axis)
    return ctx.result(indexing.take_points(x.value, places, range(x.rank)))


@rule("GatherND", padding=Padding.MASKED)
def gather_nd(ctx: Rule) -> Tensor:
    """Slices at index vectors, within the same batch."""
    x, indices = ctx.input(0), ctx.input(1)
    if 0 in ctx.shape() or 0 in x.shape:
        return ctx.result(_nothing(ctx))
    batch = ctx.attribute("batch_dims", 0)
    depth = indices.shape[-1]
    if depth == 0:
        raise ctx.unsupported("index vectors have no elements")
    places = _vectors(ctx, x, indices, batch)
    return ctx.result(build.reshape(indexing.take_points(x.value, places, range(batch + depth)), ctx.shape()))


@rule("ScatterElements", "Scatter", padding=Padding.MASKED)
def scatter_elements(ctx: Rule) -> Tensor:
    """Each update goes to its own position along the axis."""
    x, indices, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    if 0 in updates.shape or 0 in x.shape:
        return ctx.result(x.value)
    axis = ctx.attribute("axis", 0) % x.rank
    places = _dropped(ctx, _places(ctx, x, indices, axis), indices, range(indices.rank))
    return ctx.result(indexing.put_points(x.value, places, updates.value, range(x.rank), combination(ctx, x.dtype)))


@rule("ScatterND", padding=Padding.MASKED)
def scatter_nd(ctx: Rule) -> Tensor:
    """Slices are written at index vectors; along the dimensions that slices keep, padding meets padding."""
    x, indices, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    if 0 in updates.shape or 0 in x.shape:
        return ctx.result(x.value)
    depth = indices.shape[-1]
    if depth == 0:
        raise ctx.unsupported("index vectors have no elements")
    places = _dropped(ctx, _vectors(ctx, x, indices, 0), indices, range(indices.rank - 1))
    return ctx.result(indexing.put_points(x.value, places, updates.value, range(depth), combination(ctx, x.dtype)))


@rule("OneHot", padding=Padding.MASKED)
def one_hot(ctx: Rule) -> Tensor:
    """The on value where the position along the new axis is the index."""
    hlo = stablehlo()
    indices, values = ctx.input(0), ctx.input(2)
    type_, shape = ctx.type(), ctx.shape()
    axis = ctx.attribute("axis", -1) % type_.rank
    at = wrapped(ctx, indices.value, type_.shape[axis])
    at = build.broadcast(at, shape, [d for d in range(type_.rank) if d != axis])
    hit = build.compare(at, build.iota(DType.I32, shape, axis), "EQ", "SIGNED")
    off, on = (build.reshape(indexing.cut_dim(values.value, 0, i, i + 1), ()) for i in range(2))
    return ctx.result(hlo.select(hit, build.broadcast(on, shape, ()), build.broadcast(off, shape, ())))


@rule("ReverseSequence", padding=Padding.MASKED)
def reverse_sequence(ctx: Rule) -> Tensor:
    """The first elements of each sequence in reverse; the others stay, and so does padding."""
    hlo = stablehlo()
    x, lengths = ctx.input(0), ctx.input(1)
    time, batch = ctx.attribute("time_axis", 0), ctx.attribute("batch_axis", 1)
    shape = (x.shape[0], x.shape[1])
    at = build.iota(DType.I32, shape, time)
    length = build.broadcast(build.convert(lengths.value, DType.I32), shape, [batch])
    back = hlo.subtract(hlo.subtract(length, build.splat(1, DType.I32, shape)), at)
    at = hlo.select(build.compare(at, length, "LT", "SIGNED"), back, at)
    other = build.iota(DType.I32, shape, batch)
    places = indexing.points([at, other] if time == 0 else [other, at])
    return ctx.result(indexing.take_points(x.value, places, [0, 1]))


@rule("Compress", padding=Padding.NONE)
def compress(ctx: Rule) -> Tensor:
    """The slices that a constant condition selects."""
    x, condition, axis = ctx.input(0), ctx.constant(1), ctx.attribute("axis")
    if condition is None:
        raise ctx.unsupported("only a run tells how many elements there are")
    value, axis = (build.reshape(x.value, [int(np.prod(x.shape))]), 0) if axis is None else (x.value, axis % x.rank)
    if 0 in ctx.shape():
        return ctx.result(_nothing(ctx))
    return ctx.result(indexing.take(value, build.literal(np.flatnonzero(condition), DType.I32), axis))


def combination(ctx: Rule, dtype: DType) -> Callable[[Value, Value], Value] | None:
    """What the attribute ``reduction`` does with the old and the new element; ``None`` for replacing it."""
    hlo = stablehlo()
    name = ctx.attribute("reduction", "none")
    if name == "none":
        return None
    boolean = {"add": hlo.or_, "mul": hlo.and_, "max": hlo.or_, "min": hlo.and_}
    number = {"add": hlo.add, "mul": hlo.multiply, "max": hlo.maximum, "min": hlo.minimum}
    found: Callable[[Value, Value], Value] = (boolean if dtype is DType.BOOL else number)[name]
    return found


def _places(ctx: Rule, x: Tensor, indices: Tensor, axis: int) -> Value:
    """The position in ``x`` of each element of ``indices``, which tells the one along ``axis``."""
    along = wrapped(ctx, indices.value, x.type.shape[axis])
    return indexing.points([along if d == axis else build.iota(DType.I32, indices.shape, d) for d in range(x.rank)])


def _vectors(ctx: Rule, x: Tensor, indices: Tensor, batch: int) -> Value:
    """Index vectors that begin with the position along each batch dimension."""
    shape = indices.shape[:-1]
    columns = [build.iota(DType.I32, shape, d) for d in range(batch)]
    for i in range(indices.shape[-1]):
        column = build.reshape(indexing.cut_dim(indices.value, indices.rank - 1, i, i + 1), shape)
        columns.append(wrapped(ctx, column, x.type.shape[batch + i]))
    return indexing.points(columns)


def _dropped(ctx: Rule, places: Value, indices: Tensor, dims: Sequence[int]) -> Value:
    """``places`` with a position out of range where the element of ``indices`` is padding."""
    valid = ctx.valid(indices, list(dims))
    if valid is None:
        return places
    shape = build.shape_of(places)
    if build.shape_of(valid) != shape[:-1]:  # index vectors: one answer each
        valid = build.reshape(indexing.cut_dim(valid, indices.rank - 1, 0, 1), shape[:-1])
    valid = build.broadcast(valid, shape, range(len(shape) - 1))
    return stablehlo().select(valid, places, build.splat(np.iinfo(np.int32).max, DType.I32, shape))


def _nothing(ctx: Rule) -> Value:
    """A result without elements, or one whose every index is out of range."""
    type_: TensorType = ctx.type()
    return build.splat(0, type_.dtype, ctx.shape())
