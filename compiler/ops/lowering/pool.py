"""Lowering of pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, product
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.conv import Sliding, sliding
from tilewright.ops.lowering.reduction import accumulator


@lowering("AveragePool")
def _lower_average_pool(ctx: Context) -> Operand:
    x, kernel = ctx.input(0), list(ctx.attribute("kernel_shape"))
    windows, dtype = sliding(ctx, kernel), x.type.dtype
    wide = accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        b, c, *where = index
        window = [ctx.composer.axis(s, "k") for s in kernel]
        value = cast(ctx.composer.padded(x, (b, c, *windows.place(where, window)), 0), wide)
        total = ctx.composer.reduce("sum", window, value, "sum")
        count = product(_counts(ctx, kernel, where, windows))
        return cast(binary("div", total, size_of(count, wide)), dtype)

    return ctx.result(at)


def lowest(dtype: DType) -> float | int:
    """What no element of ``dtype`` is below."""
    return -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


@lowering("MaxPool")
def _lower_max_pool(ctx: Context) -> Operand | tuple[Operand, ...]:
    x, kernel = ctx.input(0), list(ctx.attribute("kernel_shape"))
    windows, bottom = sliding(ctx, kernel), lowest(x.type.dtype)

    def top(index: tuple[Index, ...]) -> Value:
        b, c, *where = index
        window = [ctx.composer.axis(s, "k") for s in kernel]
        value = ctx.composer.padded(x, (b, c, *windows.place(where, window)), bottom)
        return ctx.composer.reduce("max", window, value, "top")

    largest = ctx.result(top)
    if len(ctx.outputs) < 2 or not ctx.node.outputs[1].name:
        return largest

    def place(index: tuple[Index, ...]) -> Value:
        """The first of the largest in row-major order; a NaN is the largest wherever it stands."""
        b, c, *where = index
        window = [ctx.composer.axis(s, "k") for s in kernel]
        position = windows.place(where, window)
        value = ctx.composer.padded(x, (b, c, *position), bottom)
        attains = binary("eq", value, largest.at(index))
        if value.dtype.is_float:
            attains = binary("or", attains, unary("isnan", value))
        inside = ctx.composer.inside(position, x.type.shape[2:])
        attains = attains if inside is None else binary("and", attains, inside)
        size = product(x.type.shape[2:])
        found = select(attains, IndexValue(_row_major(position, x.type.shape[2:])), IndexValue(size - 1))
        first = ctx.composer.reduce("min", window, found, "first")
        plane = IndexValue(_row_major((b, c), x.type.shape[:2]) * size)
        return binary("add", plane, first if not ctx.attribute("storage_order", 0) else _column_major(ctx, first))

    return (largest, ctx.result(place, 1))


def _row_major(index: Sequence[Index], shape: Sequence[Expr]) -> Expr:
    total = ZERO
    for i, size in zip(index, shape, strict=True):
        assert isinstance(i, Expr)
        total = total * size + i
    return total


def _column_major(ctx: Context, flat: Value) -> Value:
    """The position within an image that is at ``flat`` in row-major order, counted with the first axis fastest."""
    shape = ctx.input(0).type.shape[2:]
    total: Value = const(0, DType.I64)
    rest = flat
    for n in reversed(range(len(shape))):
        digit = binary("mod", rest, IndexValue(maximum(1, shape[n]))) if n else rest
        rest = binary("div", rest, IndexValue(maximum(1, shape[n]))) if n else rest
        total = binary("add", total, binary("mul", digit, IndexValue(product(shape[:n]))))
    return total


@lowering("LpPool")
def _lower_lp_pool(ctx: Context) -> Operand:
    """``(Σ |x|^p)^(1/p)`` over the window."""
    x, kernel = ctx.input(0), list(ctx.attribute("kernel_shape"))
    windows, wide = sliding(ctx, kernel), accumulator(x.type.dtype)

    def at(index: tuple[Index, ...]) -> Value:
        b, c, *where = index
        window = [ctx.composer.axis(s, "k") for s in kernel]
        value = cast(ctx.composer.padded(x, (b, c, *windows.place(where, window)), 0), wide)
        return cast(_norm(ctx, window, value), x.type.dtype)

    return ctx.result(at)


def _norm(ctx: Context, axes: Sequence[Expr], value: Value) -> Value:
    p = float(ctx.attribute("p", 2))
    if p == 2:
        return unary("sqrt", ctx.composer.reduce("sum", axes, binary("mul", value, value), "sum"))
    powered = unary("abs", value) if p == 1 else binary("pow", unary("abs", value), p)
    total = ctx.composer.reduce("sum", axes, powered, "sum")
    return total if p == 1 else binary("pow", total, 1 / p)


def _counts(ctx: Context, kernel: Sequence[int], where: Sequence[Index], windows: Sliding) -> Iterator[Expr]:
    """How many entries of the window at ``where`` a mean counts along each dimension.

    With ``count_include_pad`` padding counts; what a window of ``ceil_mode`` has beyond the padding never does.
    """
    padded = bool(ctx.attribute("count_include_pad", 0))
    for n, (p, size, taps) in enumerate(zip(where, ctx.input(0).type.shape[2:], kernel, strict=True)):
        assert isinstance(p, Expr)
        if padded and not ctx.attribute("ceil_mode", 0):
            yield constant(taps)
            continue
        before, after = (windows.before[n], windows.after[n]) if padded else (ZERO, ZERO)
        # The entries k with 0 <= first + k * dilation < end.
        first, end = p * windows.strides[n] - windows.before[n] + before, before + size + after
        dilation = windows.dilations[n]
        least = maximum(0, ceildiv(-first, dilation))
        yield maximum(0, minimum(taps, ceildiv(end - first, dilation)) - least)


@lowering("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _lower_global_pool(ctx: Context) -> Operand:
    x, dtype = ctx.input(0), ctx.input(0).type.dtype
    wide = accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        axes: list[Expr] = []
        for size in x.type.shape[2:]:
            axes.append(ctx.composer.axis(size, "k", avoid=[*index, *axes]))
        value = x.at((*index[:2], *axes))
        if not axes:
            return value if ctx.node.op_type != "GlobalLpPool" else unary("abs", value)
        if ctx.node.op_type == "GlobalMaxPool":
            return ctx.composer.reduce("max", axes, value, "top")
        if ctx.node.op_type == "GlobalLpPool":
            return cast(_norm(ctx, axes, cast(value, wide)), dtype)
        total = ctx.composer.reduce("sum", axes, cast(value, wide), "sum")
        return cast(binary("div", total, size_of(product(x.type.shape[2:]), wide)), dtype)

    return ctx.result(at)
