"""Lowering of what spreads instead of gathering: transposed convolutions and the assembly of images from columns.

Both are written as reads. An output position meets only those entries of the kernel whose distance the stride divides;
the entries of one remainder are a stride apart, so each position sums over ``ceil(kernel / stride)`` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from tilewright.ir.symbolic import ZERO, Expr, ceildiv, maximum, minimum
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, select
from tilewright.ops.conv import Spread, spread
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.reduction import accumulator


@dataclass(frozen=True, slots=True)
class Tap:
    """What one output position meets along one dimension.

    Attributes:
        axis: the index variable over the entries that can meet it; constant when there is one.
        source: the position in the input, outside of it where there is none.
        entry: the entry of the kernel.
        meets: what has to hold as well; ``None`` when nothing does.
    """

    axis: Expr
    source: Expr
    entry: Expr
    meets: Value | None


def tap(ctx: Context, position: Expr, how: Spread) -> Tap:
    """The entries ``k`` and sources ``q`` with ``q · stride + k · dilation - before = position``."""
    divisor = gcd(how.stride, how.dilation)
    stride, dilation = how.stride // divisor, how.dilation // divisor
    place = position + how.before
    reduced = place // divisor
    count = ceildiv(how.kernel, stride)
    axis = ZERO if count == 1 else ctx.composer.axis(count, "k")
    first = reduced * pow(dilation, -1, stride) % stride if stride > 1 else ZERO
    entry = first + axis * stride
    # With dilation 1 the first entry is the remainder of the position, and what is left is the quotient.
    source = (reduced if dilation == 1 else reduced - first * dilation) // stride - axis * dilation
    meets: Value | None = None
    if divisor > 1:
        meets = binary("eq", IndexValue(place % divisor), IndexValue(ZERO))
    if how.kernel % stride != 0:
        inside = binary("lt", IndexValue(entry), IndexValue(how.kernel))
        meets = inside if meets is None else binary("and", meets, inside)
    return Tap(axis, source, entry, meets)


def _where(taps: Sequence[Tap], value: Value) -> Value:
    """``value`` where every tap meets, zero elsewhere (whatever was read there, infinities included)."""
    for t in taps:
        value = value if t.meets is None else select(t.meets, value, 0)
    return value


def _plain(i: Index) -> Expr:
    assert isinstance(i, Expr)
    return i


def _clamped(i: Expr, size: Expr) -> Expr:
    return maximum(0, minimum(i, size - 1))


@lowering("ConvTranspose")
def _lower_conv_transpose(ctx: Context) -> Operand:
    """``y[b, o, p] = Σ x[b, i, q] · w[i, o, k]`` over the taps of ``p``."""
    x, w, bias = ctx.input(0), ctx.input(1), ctx.optional(2)
    groups, wide, dtype = ctx.attribute("group", 1), accumulator(x.type.dtype), x.type.dtype
    how = spread(ctx.attribute, x.type.shape[2:], w.type.shape[2:], ctx.outputs[0].shape[2:])
    per_group, per_input = w.type.shape[1], x.type.shape[1] // groups

    def at(index: tuple[Index, ...]) -> Value:
        b, o, *where = index
        assert isinstance(o, Expr)
        taps = [tap(ctx, _plain(p), s) for p, s in zip(where, how, strict=True)]
        i = ctx.composer.axis(per_input, "c")
        channel = i if groups == 1 else (o // per_group) * per_input + i
        left = ctx.composer.padded(x, (b, channel, *(t.source for t in taps)), 0)
        right = ctx.composer.padded(w, (channel, o if groups == 1 else o % per_group, *(t.entry for t in taps)), 0)
        value = _where(taps, binary("mul", cast(left, wide), cast(right, wide)))
        axes = [a for a in (*(t.axis for t in taps), i) if not a.is_constant]
        y = cast(ctx.composer.reduce("sum", axes, value, "acc"), dtype)
        return y if bias is None else binary("add", y, bias.at((o,)))

    return ctx.result(at)


@lowering("Col2Im")
def _lower_col2im(ctx: Context) -> Operand:
    """``y[n, c, p] = Σ x[n, c · block + k, q]`` over the blocks that cover ``p``; ``k`` and ``q`` are row-major."""
    x, image = ctx.input(0), ctx.outputs[0].shape[2:]
    block = ctx.expressions(2)
    how = spread(ctx.attribute, image, block, image)
    steps = [ctx.defined(f"steps{n}") for n in range(len(block))]

    def at(index: tuple[Index, ...]) -> Value:
        n, c, *where = index
        taps = [tap(ctx, _plain(p), s) for p, s in zip(where, how, strict=True)]
        row, column = _plain(c), ZERO
        for t, size, count in zip(taps, block, steps, strict=True):
            row, column = row * size + t.entry, column * count + t.source
        # Along each dimension by itself: the column of a position outside may be another one's.
        value = x.at((n, _clamped(row, x.type.shape[1]), _clamped(column, x.type.shape[2])))
        inside = ctx.composer.inside([t.source for t in taps], steps)
        value = _where(taps, cast(value, accumulator(value.dtype)))
        value = value if inside is None else select(inside, value, 0)
        axes = [t.axis for t in taps if not t.axis.is_constant]
        return cast(ctx.composer.reduce("sum", axes, value, "sum") if axes else value, x.type.dtype)

    return ctx.result(at)
