"""Conversion between real and quantized tensors, and the checks of scales and zero points."""

from __future__ import annotations

from tilewright.ir.symbolic import ceildiv
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("QuantizeLinear")
def quantize_linear(ctx: Infer) -> TensorType:
    """Element type of the zero point, of ``output_dtype``, or ``u8``."""
    zero = ctx.optional(2)
    given = ctx.dtype("output_dtype") if ctx.integer("output_dtype", 0) else None
    if zero is not None and given not in (None, zero.dtype):
        ctx.fail(f"output_dtype is {given}, the zero point {zero.dtype}")
    if ctx.integer("precision", 0) and (not (precise := ctx.dtype("precision")).is_float or precise.bits < 16):
        ctx.fail(f"precision {precise} is no floating-point type of 16 bits or more")
    _check_granularity(ctx)
    return TensorType(zero.dtype if zero is not None else given or DType.U8, ctx.input(0).shape)


@shape_rule("DequantizeLinear")
def dequantize_linear(ctx: Infer) -> TensorType:
    """Element type of the scale, or of ``output_dtype``."""
    x, zero = ctx.input(0), ctx.optional(2)
    if zero is not None and zero.dtype is not x.dtype:
        ctx.fail(f"the zero point is {zero.dtype}, the input {x.dtype}")
    _check_granularity(ctx)
    dtype = ctx.dtype("output_dtype") if ctx.integer("output_dtype", 0) else ctx.input(1).dtype
    if not dtype.is_float or dtype.bits < 16:
        ctx.fail(f"the output would be {dtype}; output_dtype has to be a floating-point type of 16 or 32 bits")
    return TensorType(dtype, x.shape)


def _check_granularity(ctx: Infer) -> None:
    """One scale, one a position of ``axis``, or one for each ``block_size`` positions of it; zero points likewise."""
    x, block = ctx.input(0), ctx.integer("block_size", 0)
    if block < 0:
        ctx.fail(f"block_size is {block}")
    for i in (1, 2):
        parameter = ctx.optional(i)
        if parameter is None or parameter.rank == 0 or (parameter.rank == 1 and parameter.shape[0] == 1):
            continue
        axis = ctx.axis(ctx.integer("axis", 1), x.rank)
        if not block and parameter.rank == 1:
            ctx.equal(parameter.shape[0], x.shape[axis])
        elif block and parameter.rank == x.rank:
            for d, (size, whole) in enumerate(zip(parameter.shape, x.shape, strict=True)):
                ctx.equal(size, ceildiv(whole, block) if d == axis else whole)
        else:
            form = f"of rank {x.rank} with block_size" if block else "a scalar or a vector"
            ctx.fail(f"input {i} is {parameter}; it has to be {form}")


@shape_rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(ctx: Infer) -> list[TensorType | None]:
    """``u8`` tensor, scale and zero point."""
    x = ctx.input(0)
    return [TensorType(DType.U8, x.shape), TensorType.of(DType.F32), TensorType.of(DType.U8)]


def check_matrix_parameters(ctx: Infer, matrix: int, axis: int, *parameters: int) -> None:
    """Scales and zero points of input ``matrix``: one, a vector along ``axis`` (-2 rows, -1 columns), or a tensor of
    the matrix's shape but for 1 in place of the axis that is summed over.
    """
    of = ctx.input(matrix)
    for i in parameters:
        parameter = ctx.optional(i)
        if parameter is None or parameter.rank == 0 or (parameter.rank == 1 and parameter.shape[0] == 1):
            continue
        if of.rank > 1 and parameter.rank == 1:
            ctx.equal(parameter.shape[0], of.shape[axis])
        elif of.rank > 1 and parameter.rank == of.rank:
            for d, (size, whole) in enumerate(zip(parameter.shape, of.shape, strict=True), start=-of.rank):
                if size != 1:
                    ctx.equal(size, 1 if d == -3 - axis else whole)
        else:
            ctx.fail(f"input {i} is {parameter}, which does not fit {of}")


def check_channel_parameters(ctx: Infer, weight: int, *parameters: int) -> None:
    """Scales and zero points of the weights (input ``weight``) of a convolution: one, or one an output channel."""
    for i in parameters:
        parameter = ctx.optional(i)
        if parameter is not None and parameter.rank > 1:
            ctx.fail(f"input {i} is {parameter}; it has to be a scalar or a vector")
        if parameter is not None and parameter.rank and parameter.shape[0] != 1:
            ctx.equal(parameter.shape[0], ctx.input(weight).shape[0])


def check_single(ctx: Infer, *parameters: int) -> None:
    """Inputs that hold one number."""
    for i in parameters:
        parameter = ctx.optional(i)
        for size in parameter.shape if parameter is not None else ():
            ctx.equal(size, 1)
