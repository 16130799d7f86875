"""Lowering of pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, product
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, size_of
from tilewright.ops.lower import Context, lowering, unsupported
from tilewright.ops.lowering.conv import Sliding, sliding
from tilewright.ops.lowering.reduction import accumulator


@lowering("MaxPool", "AveragePool")
def _lower_pool(ctx: Context) -> Operand:
    x, kernel = ctx.input(0), list(ctx.attribute("kernel_shape"))
    if len(ctx.outputs) > 1 and ctx.node.outputs[1].name:
        raise unsupported(ctx.node, "the Indices output is not lowered")
    windows = sliding(ctx, kernel)
    largest, dtype = ctx.node.op_type == "MaxPool", x.type.dtype
    wide = dtype if largest else accumulator(dtype)
    lowest = -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)

    def at(index: tuple[Index, ...]) -> Value:
        b, c, *where = index
        window = [ctx.composer.axis(s, "k") for s in kernel]
        place = windows.place(where, window)
        value = cast(ctx.composer.padded(x, (b, c, *place), lowest if largest else 0), wide)
        if largest:
            return ctx.composer.reduce("max", window, value, "top")
        total = ctx.composer.reduce("sum", window, value, "sum")
        count = product(_counts(ctx, kernel, where, windows))
        return cast(binary("div", total, size_of(count, wide)), dtype)

    return ctx.result(at)


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


@lowering("GlobalAveragePool", "GlobalMaxPool")
def _lower_global_pool(ctx: Context) -> Operand:
    x, dtype = ctx.input(0), ctx.input(0).type.dtype
    wide = accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        axes: list[Expr] = []
        for size in x.type.shape[2:]:
            axes.append(ctx.composer.axis(size, "k", avoid=[*index, *axes]))
        value = x.at((*index[:2], *axes))
        if ctx.node.op_type == "GlobalMaxPool":
            return ctx.composer.reduce("max", axes, value, "top")
        total = ctx.composer.reduce("sum", axes, cast(value, wide), "sum")
        return cast(binary("div", total, size_of(product(x.type.shape[2:]), wide)), dtype)

    return ctx.result(at)
