"""Pools over windows and over whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.contract import accumulator, count
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.windows import Slide, reduce_windows, slide
from tilewright.ir.types import DType


def lowest(dtype: DType) -> float | int:
    """What is below every element: the identity of max."""
    if dtype.is_float:
        return -math.inf
    return 0 if dtype in (DType.BOOL,) else int(np.iinfo(dtype.numpy).min)


def _window(ctx: Rule) -> Slide:
    return slide(ctx, ctx.input(0), ctx.attribute("kernel_shape"), ctx.shape()[2:])


@rule("MaxPool", padding=Padding.MASKED)
def max_pool(ctx: Rule) -> Sequence[Tensor | None]:
    """The largest element of each window, and maybe where it is."""
    x, hlo, how = ctx.input(0), stablehlo(), _window(ctx)
    x = ctx.masked(x, range(2, x.rank), lowest(x.dtype))
    start = build.splat(lowest(x.dtype), x.dtype)
    if ctx.wants(1):
        value, place = _largest(ctx, x, start, how)
        return [ctx.result(value), ctx.result(build.convert(place, DType.I64), 1)]
    (made,) = reduce_windows([x.value], [start], how, ctx.shape(), lambda a, b: [hlo.maximum(a[0], b[0])])
    return [ctx.result(made)]


def _largest(ctx: Rule, x: Tensor, start: Value, how: Slide) -> tuple[Value, Value]:
    """The largest of each window and its place in the whole tensor; of equal ones the first."""
    hlo = stablehlo()
    columns = bool(ctx.attribute("storage_order", 0))
    order = [0, 1, *(reversed(range(2, x.rank)) if columns else range(2, x.rank))]
    place: Value = None
    for d in order:
        step = build.iota(DType.I64, x.shape, d)
        if place is not None:
            size = build.broadcast(ctx.integer(x.type.shape[d]), x.shape, ())
            step = hlo.add(hlo.multiply(place, size), step)
        place = step
    kind = "FLOAT" if x.dtype.is_float else "SIGNED" if x.dtype.is_signed else "UNSIGNED"

    def combine(a: Sequence[Value], b: Sequence[Value]) -> Sequence[Value]:
        more = build.compare(b[0], a[0], "GT", kind)
        equal = build.compare(b[0], a[0], "EQ", kind)
        earlier = hlo.and_(equal, build.compare(b[1], a[1], "LT", "SIGNED"))
        taken = hlo.or_(more, earlier)
        return [hlo.select(taken, new, old) for new, old in zip(b, a, strict=True)]

    last = build.splat(2**63 - 1, DType.I64)
    value, found = reduce_windows([x.value, place], [start, last], how, ctx.shape(), combine)
    return value, found


@rule("AveragePool", padding=Padding.MASKED)
def average_pool(ctx: Rule) -> Tensor:
    """The mean of each window: of what lies in the image, or of that and the padding that the node asks for."""
    how, hlo = _window(ctx), stablehlo()
    total = _summed(ctx, ctx.input(0), how)
    dtype = accumulator(ctx.input(0).dtype, ctx)
    shape = ctx.shape()
    divisor: Value = None
    for d in range(len(how.kernel)):
        part = build.broadcast(build.convert(_counts(ctx, how, d), dtype), shape, [d + 2])
        divisor = part if divisor is None else hlo.multiply(divisor, part)
    return ctx.result(build.convert(hlo.divide(total, divisor), ctx.type().dtype))


def _summed(ctx: Rule, x: Tensor, how: Slide) -> Value:
    dtype = accumulator(x.dtype, ctx)
    wide = build.convert(ctx.masked(x, range(2, x.rank), 0).value, dtype)
    add = stablehlo().add
    return reduce_windows([wide], [build.splat(0, dtype)], how, ctx.shape(), lambda a, b: [add(a[0], b[0])])[0]


def _counts(ctx: Rule, how: Slide, d: int) -> Value:
    """How many positions each window counts along spatial dimension ``d``: i32, at least 1."""
    x, hlo = ctx.input(0), stablehlo()
    size, padded = ctx.shape()[d + 2], bool(ctx.padded(x, [d + 2]))
    starts = np.arange(size)[:, None] * how.strides[d] - how.before[d]
    places = (starts + np.arange(how.kernel[d]) * how.dilations[d]).astype(np.int32)
    around = bool(ctx.attribute("count_include_pad", 0))
    if not padded:
        low, high = (-how.before[d], x.shape[d + 2] + how.ends[d]) if around else (0, x.shape[d + 2])
        return build.literal(np.maximum(((places >= low) & (places < high)).sum(1), 1).astype(np.int32), DType.I32)
    positions = build.literal(places, DType.I32)
    end = ctx.integer(x.type.shape[d + 2] + (how.ends[d] if around else 0), DType.I32)
    inside = build.compare(positions, build.broadcast(end, places.shape, ()), "LT", "SIGNED")
    if not around:
        inside = hlo.and_(inside, build.literal(places >= 0, DType.BOOL))
    counted = build.reduce(build.convert(inside, DType.I32), build.splat(0, DType.I32), [1], hlo.add)
    return hlo.maximum(counted, build.splat(1, DType.I32, build.shape_of(counted)))


@rule("LpPool", padding=Padding.MASKED)
def lp_pool(ctx: Rule) -> Tensor:
    """``(Σ |x|^p)^(1/p)`` of each window."""
    x = ctx.input(0)
    raised = Tensor(_power(ctx, ctx.masked(x, range(2, x.rank), 0), ctx.attribute("p", 2)), x.type)
    add, dtype = stablehlo().add, _wide(ctx, x)
    start = build.splat(0, dtype)
    (total,) = reduce_windows([raised.value], [start], _window(ctx), ctx.shape(), lambda a, b: [add(a[0], b[0])])
    return ctx.result(build.convert(_root(total, ctx.attribute("p", 2), dtype), x.dtype))


def _wide(ctx: Rule, x: Tensor) -> DType:
    return accumulator(x.dtype, ctx)


def _power(ctx: Rule, x: Tensor, p: float) -> Value:
    """``|x|^p`` in the type of sums."""
    hlo, dtype = stablehlo(), _wide(ctx, x)
    size = hlo.abs(build.convert(x.value, dtype))
    if p == 1:
        return size
    return hlo.multiply(size, size) if p == 2 else hlo.power(size, build.splat(p, dtype, x.shape))


def _root(total: Value, p: float, dtype: DType) -> Value:
    hlo = stablehlo()
    if p == 1:
        return total
    return hlo.sqrt(total) if p == 2 else hlo.power(total, build.splat(1 / p, dtype, build.shape_of(total)))


@rule("GlobalAveragePool", padding=Padding.MASKED)
def global_average_pool(ctx: Rule) -> Tensor:
    """The mean of each image."""
    x, hlo = ctx.input(0), stablehlo()
    dims, dtype = list(range(2, x.rank)), _wide(ctx, x)
    wide = build.convert(ctx.masked(x, dims, 0).value, dtype)
    total = build.reduce(wide, build.splat(0, dtype), dims, hlo.add)
    number = build.broadcast(count(ctx, x, dims, dtype), build.shape_of(total), ())
    return ctx.result(build.reshape(build.convert(hlo.divide(total, number), x.dtype), ctx.shape()))


@rule("GlobalMaxPool", padding=Padding.MASKED)
def global_max_pool(ctx: Rule) -> Tensor:
    """The largest element of each image."""
    x = ctx.input(0)
    dims = list(range(2, x.rank))
    start = build.splat(lowest(x.dtype), x.dtype)
    found = build.reduce(ctx.masked(x, dims, lowest(x.dtype)).value, start, dims, stablehlo().maximum)
    return ctx.result(build.reshape(found, ctx.shape()))


@rule("GlobalLpPool", padding=Padding.MASKED)
def global_lp_pool(ctx: Rule) -> Tensor:
    """``(Σ |x|^p)^(1/p)`` of each image."""
    x, p = ctx.input(0), ctx.attribute("p", 2)
    dims, dtype = list(range(2, x.rank)), _wide(ctx, x)
    raised = _power(ctx, ctx.masked(x, dims, 0), p)
    total = build.reduce(raised, build.splat(0, dtype), dims, stablehlo().add)
    return ctx.result(build.reshape(build.convert(_root(total, p, dtype), x.dtype), ctx.shape()))


@rule("MaxUnpool")
def max_unpool(ctx: Rule) -> Tensor:
    """Elements back at the places that MaxPool took them from, 0 elsewhere.

    Places are within each image of the size that the attributes tell, and stand for the same places of a larger output.
    """
    x, places, hlo, mlir = ctx.input(0), ctx.input(1), stablehlo(), bindings()
    rank, kernel, out = x.rank - 2, ctx.attribute("kernel_shape"), ctx.shape()
    strides, pads = ctx.attribute("strides") or [1] * rank, ctx.attribute("pads") or [0] * 2 * rank
    natural = [*x.shape[:2]]
    for d in range(rank):
        natural.append((x.shape[d + 2] - 1) * strides[d] + kernel[d] - pads[d] - pads[d + rank])
    elements, indices = math.prod(natural), math.prod(x.shape)
    start = build.splat(0, x.dtype, [elements])
    flat = mlir.RankedTensorType.get([elements], start.type.element_type)
    numbers = hlo.ScatterDimensionNumbers.get([], [0], [], [], [0], 1)
    operation = hlo.ScatterOp(
        [flat], [start], build.reshape(places.value, [indices, 1]), [build.reshape(x.value, [indices])], numbers
    )
    element = mlir.RankedTensorType.get([], start.type.element_type)
    block = operation.regions[0].blocks.append(element, element)
    with mlir.InsertionPoint(block):
        hlo.return_([block.arguments[1]])
    found = build.reshape(operation.results[0], natural)
    more = [o - n for o, n in zip(out, natural, strict=True)]
    if any(more):
        none = [0] * x.rank
        found = hlo.pad(found, build.splat(0, x.dtype), none, more, none)
    return ctx.result(found)
