"""Conversion between real and quantized tensors."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.narrow import widened
from tilewright.backends.xla.rule import Padding, Quantized, Rule, Tensor, rule
from tilewright.ir.types import DType


def _spread(ctx: Rule, parameter: Tensor, x: Tensor) -> Value:
    """A scale or zero point for each element of ``x``: of all, of each index of the axis, or of each block of it."""
    (axis, block), value = _granularity(ctx, parameter, x), widened(parameter)
    if axis is None:
        return build.broadcast(build.reshape(value, ()), x.shape, ())
    if not block:
        return build.broadcast(value, x.shape, [axis])
    shape, rank = parameter.shape, x.rank
    dims = [d if d <= axis else d + 1 for d in range(rank)]
    wide = build.broadcast(value, [*shape[: axis + 1], block, *shape[axis + 1 :]], dims)
    whole = build.reshape(wide, [*shape[:axis], shape[axis] * block, *shape[axis + 1 :]])
    if build.shape_of(whole) == x.shape:
        return whole
    return stablehlo().slice(whole, [0] * rank, list(x.shape), [1] * rank)


def _granularity(ctx: Rule, parameter: Tensor, x: Tensor) -> tuple[int | None, int]:
    """The axis (``None`` for one parameter) and the size of blocks (0 without)."""
    if parameter.rank == 0 or (parameter.rank == 1 and parameter.shape[0] == 1 and x.rank != 1):
        return None, 0
    if parameter.rank == 1 and parameter.shape[0] == 1 and x.shape[0] != 1:
        return None, 0
    axis = ctx.attribute("axis", 1) % max(x.rank, 1)
    return axis, ctx.attribute("block_size", 0)


@rule("DequantizeLinear", padding=Padding.POINTWISE)
def dequantize_linear(ctx: Rule) -> Tensor:
    """``(x - zero)·scale``, computed in f32; products take the integers instead (:class:`Quantized`)."""
    x, scale, hlo = ctx.input(0), ctx.input(1), stablehlo()
    axis, block = _granularity(ctx, scale, x)
    zero = ctx.input(2) if ctx.has(2) else None
    exact = DType.I32 if x.dtype.is_integer and x.dtype.bits > 16 else DType.F32
    value = build.convert(widened(x), exact)
    if zero is not None and (x.dtype.is_integer):
        value = hlo.subtract(value, build.convert(_spread(ctx, zero, x), exact))
    value = hlo.multiply(build.convert(value, DType.F32), build.convert(_spread(ctx, scale, x), DType.F32))
    return ctx.result(build.convert(value, ctx.type().dtype), quantized=Quantized(x, scale, zero, axis, block))


@rule("QuantizeLinear", padding=Padding.POINTWISE)
def quantize_linear(ctx: Rule) -> Tensor:
    """``round(x / scale) + zero``, ties to even, within the range of the result's type."""
    x, scale = ctx.input(0), ctx.input(1)
    dtype, hlo = ctx.type().dtype, stablehlo()
    wide = build.convert(x.value, DType.F32)
    ratio = hlo.divide(wide, build.convert(_spread(ctx, scale, x), DType.F32))
    if dtype.is_float:
        if ctx.has(2) and not _zero(ctx):
            raise ctx.unsupported("a zero point of floats that is not 0")
        return ctx.result(_as_float(ctx, ratio, dtype))
    rounded = hlo.round_nearest_even(ratio)
    if ctx.has(2):
        rounded = hlo.add(rounded, build.convert(_spread(ctx, ctx.input(2), x), DType.F32))
    return ctx.result(as_integer(rounded, dtype))


def _zero(ctx: Rule) -> bool:
    array = ctx.constant(2)
    return array is not None and not np.asarray(array).astype(np.float32).any()


def _as_float(ctx: Rule, value: Value, dtype: DType) -> Value:
    """Rounded to a narrow float, within its range unless the node says otherwise."""
    if ctx.attribute("saturate", 1):
        most = float(ml_dtypes.finfo(dtype.numpy).max)  # type: ignore[no-untyped-call]
        shape = build.shape_of(value)
        hlo = stablehlo()
        within = hlo.minimum(value, build.splat(most, DType.F32, shape))
        value = hlo.maximum(within, build.splat(-most, DType.F32, shape))
    return build.convert(value, dtype)


def as_integer(value: Value, dtype: DType) -> Value:
    """Whole f32 numbers within the range of an integer type of at most 16 bits."""
    hlo, shape = stablehlo(), build.shape_of(value)
    least = -(2 ** (dtype.bits - 1)) if dtype.is_signed else 0
    low, high = (build.splat(float(n), DType.F32, shape) for n in (least, least + 2**dtype.bits - 1))
    within = hlo.minimum(hlo.maximum(value, low), high)
    return build.convert(build.convert(within, DType.I32), dtype)


@rule("DynamicQuantizeLinear", padding=Padding.MASKED)
def dynamic_quantize_linear(ctx: Rule) -> Sequence[Tensor | None]:
    """u8 with the scale and zero point that the range of the elements, and 0, asks for. A tensor of zeros has the scale
    1, as in ONNX Runtime: the specification's formula gives 0, which nothing can be divided by."""
    x, hlo = ctx.input(0), stablehlo()
    dims = list(range(x.rank))
    valid = ctx.masked(x, dims, 0)
    start = build.splat(0, DType.F32)
    low = build.reduce(valid.value, start, dims, hlo.minimum)
    high = build.reduce(valid.value, start, dims, hlo.maximum)
    span = hlo.subtract(high, low)
    none = build.compare(span, start, "EQ", "FLOAT")
    scale = hlo.select(none, build.splat(1, DType.F32), hlo.divide(span, build.splat(255, DType.F32)))
    zero = as_integer(hlo.round_nearest_even(hlo.divide(hlo.negate(low), scale)), DType.U8)
    moved = build.broadcast(build.convert(zero, DType.F32), x.shape, ())
    ratio = hlo.round_nearest_even(hlo.divide(x.value, build.broadcast(scale, x.shape, ())))
    made = as_integer(hlo.add(ratio, moved), DType.U8)
    values = (made, scale, zero)
    return [ctx.result(v, n) if ctx.wants(n) else None for n, v in enumerate(values)]
