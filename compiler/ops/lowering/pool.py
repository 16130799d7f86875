"""Lowering of pooling."""

from __future__ import annotations

import math

import numpy as np
from tilewright.ir.symbolic import Expr, product
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of
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
        inside = _counted(ctx, place, windows)
        if inside is None:
            return cast(binary("div", total, math.prod(kernel)), dtype)
        inside = select(inside, const(1, wide), 0)
        return cast(binary("div", total, ctx.composer.reduce("sum", window, inside, "count")), dtype)

    return ctx.result(at)


def _counted(ctx: Context, place: list[Index], windows: Sliding) -> Value | None:
    """Whether a mean counts this position; ``None`` when it counts all of them.

    With ``count_include_pad`` padding counts; what a window of ``ceil_mode`` has beyond the padding never does.
    """
    sizes = ctx.input(0).type.shape[2:]
    if not ctx.attribute("count_include_pad", 0):
        return ctx.composer.inside(place, sizes)
    if not ctx.attribute("ceil_mode", 0):
        return None
    padded = [i + b for i, b in zip(place, windows.before, strict=True) if isinstance(i, Expr)]
    return ctx.composer.inside(
        padded, [b + s + a for b, s, a in zip(windows.before, sizes, windows.after, strict=True)]
    )


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
