"""Convolutions, with dimensions as ONNX has them."""

from __future__ import annotations

import math

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.contract import accumulator
from tilewright.backends.xla.dialect import element_type, stablehlo
from tilewright.backends.xla.integer import Signed, scaled, signed, taken_as_integers
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.sizes import Unmaskable
from tilewright.backends.xla.windows import Slide, convolve, slide, without_padding
from tilewright.ir.types import DType
from tilewright.ops.conv import spread


@rule("Conv", padding=Padding.MASKED)
def conv(ctx: Rule) -> Tensor:
    """``[N, C, *spatial]`` with ``[M, C / group, *kernel]``; what a padded image has beyond its end is 0."""
    x, w = ctx.input(0), ctx.input(1)
    found = _of_integers(ctx, x, w)
    if found is None:
        wide = accumulator(x.dtype, ctx)
        x = ctx.masked(x, range(1, x.rank), 0)
        w = ctx.masked(w, [1], 0)
        found = _convolved(ctx, x.value, w.value, slide(ctx, x, w.shape[2:], ctx.shape()[2:]), wide)
    return ctx.result(_biased(ctx, found))


def _convolved(ctx: Rule, x: Value, w: Value, how: Slide, dtype: DType) -> Value:
    same = x.type.element_type == element_type(dtype)
    precision = ctx.policy.precision if same else "DEFAULT"
    return convolve(x, w, how, ctx.shape(), element_type(dtype), ctx.attribute("group", 1), precision)


def _biased(ctx: Rule, found: Value) -> Value:
    """In the type of the result, with input 2 added to each channel.

    Sums are rounded before the bias: with the bias in f32 the TPU compiler keeps an f32 image where it changes its
    layout in between (the first convolution of ResNet-50); in one fusion it drops the rounding in between anyway.
    """
    found = build.convert(found, ctx.type().dtype)
    if not ctx.has(2):
        return found
    bias = build.reshape(ctx.input(2).value, [build.shape_of(ctx.input(2).value)[0]])
    return stablehlo().add(found, build.broadcast(bias, build.shape_of(found), [1]))


def _of_integers(ctx: Rule, x: Tensor, w: Tensor) -> Value | None:
    """The convolution of two dequantized tensors on their integers. The image is padded by its zero point, so that
    every window has all of its elements; filters with a zero point other than 0 are not taken."""
    p, q = x.quantized, w.quantized
    if (
        p is None
        or q is None
        or not taken_as_integers(p, range(1, x.rank))
        or not taken_as_integers(q, range(1, w.rank))
    ):
        return None
    if p.axis is not None:
        return None
    a, b, hlo = signed(p), signed(q), stablehlo()
    if b.zero is not None or (a.zero is not None and b.array is None):
        return None
    how = slide(ctx, x, w.shape[2:], ctx.shape()[2:])
    value = a.value.value
    if a.zero is not None:
        value = _padded_by(ctx, a, how)
        how = without_padding(how)
    else:
        value = ctx.masked(a.value, range(1, x.rank), 0).value
    total = _convolved(ctx, value, b.value.value, how, DType.I32)
    if a.zero is not None and b.array is not None:
        sums = build.literal(b.array.sum(tuple(range(1, w.rank))).astype(np.int32), DType.I32)
        moved = hlo.multiply(sums, build.broadcast(a.zero.value, build.shape_of(sums), ()))
        total = hlo.subtract(total, build.broadcast(moved, build.shape_of(total), [1]))
    labels = "nc" + "xyz"[: x.rank - 2]
    return scaled(ctx, total, [(a, labels), (b, "c" + "i" + "uvw"[: x.rank - 2])], labels)


def _padded_by(ctx: Rule, a: Signed, how: Slide) -> Value:
    """The image with its zero point in every place beyond it."""
    hlo, x = stablehlo(), a.value
    assert a.zero is not None
    zero = build.convert(a.zero.value, DType.I8)
    inside = ctx.valid(x, range(1, x.rank))
    value = x.value if inside is None else hlo.select(inside, x.value, build.broadcast(zero, x.shape, ()))
    if any(n for pair in how.pairs for n in pair):
        value = hlo.pad(value, zero, [0, 0, *how.before], [0, 0, *how.after], [0] * x.rank)
    return value


@rule("ConvTranspose", padding=Padding.MASKED)
def conv_transpose(ctx: Rule) -> Tensor:
    """A convolution of the image with its elements ``strides`` apart, with the filters turned around."""
    x, w = ctx.input(0), ctx.input(1)
    groups, rank, kernel = ctx.attribute("group", 1), x.rank - 2, w.shape[2:]
    ways = spread(ctx.attribute, x.type.shape[2:], w.type.shape[2:], ctx.type().shape[2:])
    x, w = ctx.masked(x, range(1, x.rank), 0), ctx.masked(w, [0], 0)
    out, before, after = ctx.shape()[2:], [], []
    for d, way in enumerate(ways):
        if ctx.sizes.is_padded(way.before):
            raise Unmaskable(f"ConvTranspose cuts off in front by the size {x.type.shape[d + 2]}")
        extent = (kernel[d] - 1) * way.dilation + 1
        before.append(extent - 1 - ctx.sizes.static(way.before))
        reach = (x.shape[d + 2] - 1) * way.stride + 1
        after.append(out[d] - 1 + extent - reach - before[d])
    ones, strides = (1,) * rank, [way.stride for way in ways]
    how = Slide(kernel, ones, tuple(way.dilation for way in ways), tuple(before), tuple(after), (0,) * rank)
    filters = stablehlo().reverse(w.value, list(range(2, w.rank)))
    if groups > 1:  # [C, M / groups, …] to [M, C / groups, …]
        c, m = w.shape[:2]
        filters = build.reshape(filters, [groups, c // groups, m, *kernel])
        filters = build.transpose(filters, [0, 2, 1, *range(3, 3 + rank)])
        filters = build.reshape(filters, [groups * m, c // groups, *kernel])
    wide = accumulator(x.dtype, ctx)
    precision = ctx.policy.precision if wide is x.dtype else "DEFAULT"
    if math.prod(ctx.shape()) == 0:
        return ctx.result(build.splat(0, ctx.type().dtype, ctx.shape()))
    found = convolve(
        x.value, filters, how, ctx.shape(), element_type(wide), groups, precision, dilated=strides, turned=groups == 1
    )
    return ctx.result(_biased(ctx, found))
