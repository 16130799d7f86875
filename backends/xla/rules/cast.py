"""Conversions between element types."""

from __future__ import annotations

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo, tensor_type
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.rules.logic import kind_of
from tilewright.ir.types import DType

#: Largest finite numbers of the types that a conversion saturates at.
_LARGEST = {DType.F8E4M3: 448.0, DType.F8E4M3FNUZ: 240.0, DType.F8E5M2: 57344.0, DType.F8E5M2FNUZ: 57344.0}


@rule("Cast", "CastLike", padding=Padding.POINTWISE)
def cast(ctx: Rule) -> Tensor:
    """Another element type."""
    x = ctx.input(0)
    return ctx.result(converted(x.value, x.dtype, ctx.type().dtype, bool(ctx.attribute("saturate", 1))))


@rule("BitCast", padding=Padding.POINTWISE)
def bit_cast(ctx: Rule) -> Tensor:
    """The same bits as another type of the same width; a boolean is the byte 0 or 1."""
    x, to = ctx.input(0), ctx.type().dtype
    value = build.convert(x.value, DType.U8) if x.dtype is DType.BOOL else x.value
    if to is DType.BOOL:
        byte = stablehlo().bitcast_convert(tensor_type(DType.U8, x.shape), value)
        return ctx.result(converted(byte, DType.U8, to))
    return ctx.result(stablehlo().bitcast_convert(tensor_type(to, x.shape), value))


def converted(x: Value, dtype: DType, to: DType, saturate: bool = True) -> Value:
    """Elements of type ``dtype`` as ONNX's Cast makes them ``to``: floats to integers truncate, integers keep their low
    bits.

    What is too large for a float of 8 bits becomes its largest number with ``saturate``, else an infinity or NaN. A
    float beyond the range of an integer is undefined in ONNX: it becomes the nearest integer of 32 bits (of 64 for
    wider types), of which narrower types keep the low bits.
    """
    if dtype is to:
        return x
    if to is DType.BOOL:
        return build.compare(x, build.splat(0, dtype, build.shape_of(x)), "NE", kind_of(dtype))
    if to in _LARGEST:
        wide = dtype if dtype in (DType.F16, DType.BF16, DType.F64) else DType.F32
        x = build.convert(x, wide)
        if saturate:
            x = _clamped(x, wide, -_LARGEST[to], _LARGEST[to])
        return build.convert(x, to)
    if dtype.is_float and to.is_integer:
        whole = DType.U64 if to is DType.U64 else DType.I32 if to.bits < 32 or to is DType.I32 else DType.I64
        x = build.convert(x, DType.F32) if dtype.bits < 16 else x
        return build.convert(build.convert(x, whole), to)
    if dtype.bits < 16 and dtype.is_float:
        x = build.convert(x, DType.F32)
    return build.convert(x, to)


def _clamped(x: Value, dtype: DType, low: float, high: float) -> Value:
    """A NaN stays."""
    hlo, shape = stablehlo(), build.shape_of(x)
    return hlo.minimum(hlo.maximum(x, build.splat(low, dtype, shape)), build.splat(high, dtype, shape))
