"""Lowering of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.ir.symbolic import Expr, constant, maximum
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.integer import Factor, factors, padding, scaled_product
from tilewright.ops.lowering.reduction import accumulator


@lowering("Conv")
def _lower_conv(ctx: Context) -> Operand:
    """``y[b, o, …] = Σ x[b, g + i, …·stride + k·dilation - pad] · w[o, i, k…]``, zero outside the input."""
    x, w, bias = ctx.input(0), ctx.input(1), ctx.optional(2)
    groups, wide = ctx.attribute("group", 1), accumulator(x.type.dtype)
    windows = sliding(ctx, [s.value for s in w.type.shape[2:]])
    per_group = w.type.shape[0] // groups
    sides = factors(ctx, x, w, (range(1, x.type.rank), range(1, w.type.rank)))

    def at(index: tuple[Index, ...]) -> Value:
        b, o, *where = index
        assert isinstance(o, Expr)
        window = [constant(0) if s == 1 else ctx.composer.axis(s, "k") for s in w.type.shape[2:]]
        i = ctx.composer.axis(w.type.shape[1], "c")
        place = windows.place(where, window)
        channel = i if groups == 1 else (o // per_group) * w.type.shape[1] + i
        if sides is not None:
            y = _quantized(ctx, sides, (b, channel, *place), (o, i, *window))
            return y if bias is None else binary("add", y, bias.at((o,)))
        left = ctx.composer.padded(x, (b, channel, *place), 0)
        acc = binary("mul", cast(left, wide), cast(w.at((o, i, *window)), wide))
        y = cast(ctx.composer.reduce("sum", [k for k in (*window, i) if not k.is_constant], acc, "acc"), x.type.dtype)
        return y if bias is None else binary("add", y, bias.at((o,)))

    return ctx.result(at)


def _quantized(ctx: Context, sides: tuple[Factor, Factor], where: Sequence[Index], weight: Sequence[Index]) -> Value:
    """The sum over a window of products of dequantized integers."""
    _, i, *window = weight
    over = [k for k in (*window, i) if isinstance(k, Expr)]

    def places(k: Sequence[Expr]) -> Sequence[Index]:
        return weight[0], k[-1], *k[:-1]

    return scaled_product(ctx, sides, (lambda _: where, places), over, padding(ctx, sides[0], where))


@dataclass(frozen=True, slots=True)
class Sliding:
    """How windows slide over the spatial dimensions; one entry a dimension, sizes in elements."""

    strides: Sequence[int]
    dilations: Sequence[int]
    before: Sequence[Expr]
    after: Sequence[Expr]

    def place(self, where: Sequence[Index], window: Sequence[Index]) -> list[Index]:
        """The position in the input that entry ``window`` of the window at output position ``where`` covers."""
        places: list[Index] = []
        for p, k, s, d, q in zip(where, window, self.strides, self.dilations, self.before, strict=True):
            assert isinstance(p, Expr) and isinstance(k, Expr)
            places.append(p * s + k * d - q)
        return places


def sliding(ctx: Context, kernel: Sequence[int]) -> Sliding:
    """The window attributes of a convolution or pool, padding from ``pads`` or ``auto_pad``."""
    spatial = len(kernel)
    strides, dilations = ctx.attribute("strides") or [1] * spatial, ctx.attribute("dilations") or [1] * spatial
    mode = ctx.attribute("auto_pad", "NOTSET")
    given = (ctx.attribute("pads") if mode in ("NOTSET", "") else None) or [0] * 2 * spatial
    before, after = [constant(p) for p in given[:spatial]], [constant(p) for p in given[spatial:]]
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for d in range(spatial):
            size, out = ctx.input(0).type.shape[2 + d], ctx.outputs[0].shape[2 + d]
            total = maximum(0, (out - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 - size)
            small, large = total // 2, (total + 1) // 2
            before[d], after[d] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Sliding(strides, dilations, before, after)
