"""Lowering of quantization and of products and convolutions of integers.

Sums are exact in 32 bits; what is scaled is scaled in f32. Scales and zero points are operands like any others: known
or given at run time, one for all, one a row, column or channel, or one a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Const, Value
from tilewright.ops.compose import Index, Operand, Quantized, binary, cast, const, select, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.cast import converted
from tilewright.ops.lowering.conv import sliding
from tilewright.ops.lowering.matmul import products

#: The element of a scale or zero point that belongs to a position of the tensor it is for.
Parameter = Callable[[tuple[Index, ...]], Value]


# -- between real and quantized tensors ------------------------------------------------------------------------------


@lowering("QuantizeLinear", pointwise=True)
def _lower_quantize(ctx: Context) -> Operand:
    """``saturate(round(x / scale) + zero point)``; the division is in the type of the scale, or of ``precision``."""
    x, dtype = ctx.input(0), ctx.outputs[0].dtype
    scale, zero = _by_granularity(ctx, 1), _by_granularity(ctx, 2) if ctx.optional(2) is not None else None
    saturate = bool(ctx.attribute("saturate", 1))
    given = DType.from_onnx(ctx.attribute("precision", 0) or ctx.input(1).type.dtype.onnx)
    precise = given if given.bits > 8 else DType.F32  # scales that are exponents are no type to divide in

    def at(index: tuple[Index, ...]) -> Value:
        scaled = _divided(cast(x.at(index), precise), cast(scale(index), precise), ctx.composer.integral)
        offset = None if zero is None else zero(index)
        if dtype.is_float:
            return converted(_shifted(cast(scaled, DType.F32), offset), dtype, saturate)
        return _saturated(cast(scaled, DType.F32), offset, dtype)

    return ctx.result(at)


@lowering("DequantizeLinear", pointwise=True)
def _lower_dequantize(ctx: Context) -> Operand:
    """``(x - zero point) · scale``, in f32."""
    x, dtype = ctx.input(0), ctx.outputs[0].dtype
    scale, zero = _by_granularity(ctx, 1), _by_granularity(ctx, 2) if ctx.optional(2) is not None else None

    def at(index: tuple[Index, ...]) -> Value:
        value = cast(x.at(index), DType.F32)
        if zero is not None:
            value = binary("sub", value, cast(zero(index), DType.F32))
        return cast(binary("mul", value, cast(scale(index), DType.F32)), dtype)

    whole = _is_single(ctx.input(1))
    axis = None if whole else ctx.attribute("axis", 1) % x.type.rank
    block = 0 if whole else ctx.attribute("block_size", 0)
    return ctx.result(at, quantized=Quantized(x, ctx.input(1), ctx.optional(2), axis, block))


def _is_single(parameter: Operand) -> bool:
    return parameter.type.rank == 0 or (parameter.type.rank == 1 and parameter.type.shape[0] == 1)


def _by_granularity(ctx: Context, i: int) -> Parameter:
    """Input ``i``, of the shape of the scale: one number, one a position of ``axis``, or one for each ``block_size``
    positions of it."""
    x, parameter = ctx.input(0), ctx.input(i)
    if _is_single(parameter):
        return lambda index: parameter.scalar()
    axis, block = ctx.attribute("axis", 1) % x.type.rank, ctx.attribute("block_size", 0)
    if not block:
        return lambda index: parameter.at((index[axis],))

    def at(index: tuple[Index, ...]) -> Value:
        position = index[axis]
        assert isinstance(position, Expr)
        return parameter.at((*index[:axis], position // block, *index[axis + 1 :]))

    return at


def _divided(x: Value, scale: Value, integral: bool) -> Value:
    """``x / scale``. What follows a product of integers is multiplied by the reciprocal of a constant scale, as a
    requantization is defined here: a division an element would cost as much as a product of 64 terms."""
    if integral and isinstance(scale, Const) and scale.value and scale.dtype is DType.F32:
        with np.errstate(over="ignore"):
            reciprocal = float(np.float32(1) / np.float32(scale.value))
        if math.isfinite(reciprocal):
            return binary("mul", x, reciprocal)
    return binary("div", x, scale)


def _saturated(scaled: Value, zero: Value | None, to: DType) -> Value:
    """An f32 rounded to an integer of ``to``, ties to even, plus the zero point, within the bounds of ``to``."""
    whole = _shifted(unary("round", scaled), zero)
    low = -(2 ** (to.bits - 1)) if to.is_signed else 0
    return cast(binary("min", binary("max", whole, low), low + 2**to.bits - 1), to)


def _shifted(x: Value, zero: Value | None) -> Value:
    """An f32 plus the zero point."""
    if zero is None or (isinstance(zero, Const) and zero.value == 0):
        return x
    return binary("add", x, cast(zero, DType.F32))


@lowering("DynamicQuantizeLinear")
def _lower_dynamic_quantize(ctx: Context) -> tuple[Operand, ...]:
    """Scale and zero point such that 0..255 covers the tensor and 0. A tensor of zeros has the scale 1, as in ONNX
    Runtime: the specification's formula gives 0, which nothing can be divided by."""
    x = ctx.input(0)

    def scale() -> tuple[Value, Value]:
        axes: list[Expr] = []
        for size in x.type.shape:
            axes.append(ctx.composer.axis(size, "r", avoid=axes))
        element = x.at(axes)
        low = binary("min", ctx.composer.reduce("min", axes, element, "low") if axes else element, 0.0)
        high = binary("max", ctx.composer.reduce("max", axes, element, "high") if axes else element, 0.0)
        span = binary("sub", high, low)
        return low, select(binary("eq", span, 0.0), const(1.0, DType.F32), binary("div", span, 255.0))

    low, step = scale()
    zero = _saturated(binary("div", unary("neg", low), step), None, DType.U8)

    def at(index: tuple[Index, ...]) -> Value:
        return _saturated(binary("div", x.at(index), step), zero, DType.U8)

    return ctx.result(at), ctx.result(lambda _: step, 1), ctx.result(lambda _: zero, 2)


# -- products of integers --------------------------------------------------------------------------------------------


@lowering("MatMulInteger")
def _lower_matmul_integer(ctx: Context) -> Operand:
    a, b = _centred(ctx.input(0), ctx.optional(2), -2), _centred(ctx.input(1), ctx.optional(3), -1)
    return ctx.result(products(ctx, a, b))


@lowering("QLinearMatMul")
def _lower_qlinear_matmul(ctx: Context) -> Operand:
    a, b = _centred(ctx.input(0), ctx.optional(2), -2), _centred(ctx.input(3), ctx.optional(5), -1)
    product = products(ctx, a, b)
    scales = [_along(ctx.input(1), -2, a.type), _along(ctx.input(4), -1, b.type)]
    out, zero = _along(ctx.input(6), -2, a.type), _along(ctx.input(7), -2, a.type)

    def at(index: tuple[Index, ...]) -> Value:
        # A vector operand has no row or column in the result, and then one scale only.
        row = (*index, constant(0)) if b.type.rank == 1 else index
        column = (*index[:-1], constant(0), *index[-1:]) if a.type.rank == 1 else index
        return _requantized(ctx, product(index), [scales[0](row), scales[1](column)], out(row), zero(row))

    return ctx.result(at)


def _requantized(ctx: Context, total: Value, scales: Sequence[Value], scale: Value, zero: Value) -> Value:
    """A sum of products as a quantized number: times the scales of the factors, over that of the result."""
    left, right = (cast(s, DType.F32) for s in scales)
    factor = binary("div", binary("mul", left, right), cast(scale, DType.F32))
    return _saturated(binary("mul", cast(total, DType.F32), factor), zero, ctx.outputs[0].dtype)


def _centred(x: Operand, zero: Operand | None, axis: int) -> Operand:
    """``x`` minus its zero points as 32-bit integers; several lie along ``axis`` (-2 for rows, -1 for columns)."""
    at = None if zero is None or zero.is_zero else _along(zero, axis, x.type)

    def compute(index: tuple[Index, ...]) -> Value:
        value = cast(x.at(index), DType.I32)
        return value if at is None else binary("sub", value, cast(at(index), DType.I32))

    return Operand(TensorType(DType.I32, x.type.shape), compute)


def _along(parameter: Operand, axis: int, of: TensorType) -> Parameter:
    """Scales or zero points of a matrix: one, a vector along ``axis``, or a tensor that broadcasts to it."""
    rank = parameter.type.rank
    if rank == 0 or (rank == 1 and (parameter.type.shape[0] == 1 or of.rank == 1)):
        return lambda index: parameter.scalar()
    return (lambda index: parameter.at((index[axis],))) if rank == 1 else parameter.broadcast


# -- convolutions of integers ----------------------------------------------------------------------------------------


@lowering("ConvInteger")
def _lower_conv_integer(ctx: Context) -> Operand:
    return ctx.result(_convolved(ctx, ctx.input(0), ctx.optional(2), ctx.input(1), ctx.optional(3)))


@lowering("QLinearConv")
def _lower_qlinear_conv(ctx: Context) -> Operand:
    total = _convolved(ctx, ctx.input(0), ctx.optional(2), ctx.input(3), ctx.optional(5))
    bias = ctx.optional(8)
    weight_scale = _of_channel(ctx.input(4))

    def at(index: tuple[Index, ...]) -> Value:
        acc = total(index)
        if bias is not None:
            acc = binary("add", acc, bias.at((index[1],)))
        scales = (ctx.input(1).scalar(), weight_scale(index[1]))
        return _requantized(ctx, acc, scales, ctx.input(6).scalar(), ctx.input(7).scalar())

    return ctx.result(at)


def _of_channel(parameter: Operand) -> Callable[[Index], Value]:
    """A scale or zero point of the weights, for one output channel."""
    if parameter.type.rank == 0 or parameter.type.shape[0] == 1:
        return lambda channel: parameter.scalar()
    return lambda channel: parameter.at((channel,))


def _convolved(
    ctx: Context, x: Operand, zero: Operand | None, w: Operand, weight_zero: Operand | None
) -> Callable[[tuple[Index, ...]], Value]:
    """``Σ (x - zero) · (w - weight zero)`` in 32 bits; outside the input is what stands for 0."""
    composer, groups = ctx.composer, ctx.attribute("group", 1)
    windows = sliding(ctx, [s.value for s in w.type.shape[2:]])
    per_group = w.type.shape[0] // groups
    offset = None if weight_zero is None or weight_zero.is_zero else _of_channel(weight_zero)

    def read(place: Sequence[Index]) -> Value:
        value = cast(composer.padded(x, place, 0), DType.I32)
        if zero is None or zero.is_zero:
            return value
        value = binary("sub", value, cast(zero.scalar(), DType.I32))
        inside = composer.inside(place, x.type.shape)
        return value if inside is None else select(inside, value, 0)

    def at(index: tuple[Index, ...]) -> Value:
        b, o, *where = index
        assert isinstance(o, Expr)
        window = [constant(0) if s == 1 else composer.axis(s, "k") for s in w.type.shape[2:]]
        i = composer.axis(w.type.shape[1], "c")
        channel = i if groups == 1 else (o // per_group) * w.type.shape[1] + i
        right = cast(w.at((o, i, *window)), DType.I32)
        if offset is not None:
            right = binary("sub", right, cast(offset(o), DType.I32))
        left = read((b, channel, *windows.place(where, window)))
        over = [k for k in (*window, i) if not k.is_constant]
        return composer.reduce("sum", over, binary("mul", left, right), "acc")

    return at
