"""Lowering of pooling."""

from __future__ import annotations

import math

import numpy as np
from tilewright.ir.symbolic import Expr, product
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of
from tilewright.ops.lower import Context, lowering, unsupported
from tilewright.ops.lowering.conv import sliding
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
        sizes = x.type.shape[2:]
        if ctx.attribute("count_include_pad", 0):
            # Padding counts; what a window of ceil_mode has beyond the padding does not.
            place = [i + b for i, b in zip(place, windows.before, strict=True) if isinstance(i, Expr)]
            sizes = tuple(b + s + a for b, s, a in zip(windows.before, sizes, windows.after, strict=True))
        inside = None
        if ctx.attribute("ceil_mode", 0) or not ctx.attribute("count_include_pad", 0):
            inside = ctx.composer.inside(place, sizes)
        if inside is None:
            return cast(binary("div", total, math.prod(kernel)), dtype)
        inside = select(inside, const(1, wide), 0)
        return cast(binary("div", total, ctx.composer.reduce("sum", window, inside, "count")), dtype)

    return ctx.result(at)


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
