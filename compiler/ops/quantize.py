"""Conversion between real and quantized tensors."""

from __future__ import annotations

from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("QuantizeLinear")
def quantize_linear(ctx: Infer) -> TensorType:
    """Element type of the zero point, of ``output_dtype``, or ``u8``."""
    zero = ctx.optional(2)
    code = ctx.integer("output_dtype", 0)
    dtype = zero.dtype if zero is not None else ctx.dtype("output_dtype") if code else DType.U8
    return TensorType(dtype, ctx.input(0).shape)


@shape_rule("DequantizeLinear")
def dequantize_linear(ctx: Infer) -> TensorType:
    """Element type of the scale, or of ``output_dtype``."""
    code = ctx.integer("output_dtype", 0)
    return TensorType(ctx.dtype("output_dtype") if code else ctx.input(1).dtype, ctx.input(0).shape)


@shape_rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(ctx: Infer) -> list[TensorType | None]:
    """``u8`` tensor, scale and zero point."""
    x = ctx.input(0)
    return [TensorType(DType.U8, x.shape), TensorType.of(DType.F32), TensorType.of(DType.U8)]
