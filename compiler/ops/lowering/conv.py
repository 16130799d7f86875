"""Lowering of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.ir.symbolic import Expr, maximum
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.reduction import accumulator


@lowering("Conv")
def _lower_conv(ctx: Context) -> Operand:
    """``y[b, o, …] = Σ x[b, g + i, …·stride + k·dilation - pad] · w[o, i, k…]``, zero outside the input."""
    x, w, bias = ctx.input(0), ctx.input(1), ctx.optional(2)
    spatial = x.type.rank - 2
    strides = ctx.attribute("strides") or [1] * spatial
    dilations = ctx.attribute("dilations") or [1] * spatial
    groups, wide = ctx.attribute("group", 1), accumulator(x.type.dtype)
    pads = begin_pads(ctx, [s.value for s in w.type.shape[2:]], strides, dilations)
    per_group = w.type.shape[0].value // groups

    def at(index: tuple[Index, ...]) -> Value:
        b, o, *where = index
        assert isinstance(o, Expr)
        window = [ctx.composer.axis(s, "k") for s in w.type.shape[2:]]
        i = ctx.composer.axis(w.type.shape[1], "c")
        place = [p * s + k * d - q for p, k, s, d, q in zip(where, window, strides, dilations, pads, strict=True)]
        channel = i if groups == 1 else (o // per_group) * w.type.shape[1] + i
        left = ctx.composer.padded(x, (b, channel, *place), 0)
        acc = binary("mul", cast(left, wide), cast(w.at((o, i, *window)), wide))
        y = cast(ctx.composer.reduce("sum", [*window, i], acc, "acc"), x.type.dtype)
        return y if bias is None else binary("add", y, bias.at((o,)))

    return ctx.result(at)


def begin_pads(ctx: Context, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[Any]:
    """Padding before each spatial dimension, from ``pads`` or ``auto_pad``. Sizes in elements."""
    spatial = len(kernel)
    mode = ctx.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return list((ctx.attribute("pads") or [0] * 2 * spatial)[:spatial])
    if mode == "VALID":
        return [0] * spatial
    pads = []
    for d in range(spatial):
        size, out = ctx.input(0).type.shape[2 + d], ctx.outputs[0].shape[2 + d]
        total = maximum(0, (out - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 - size)
        pads.append(total // 2 if mode == "SAME_UPPER" else (total + 1) // 2)
    return pads
