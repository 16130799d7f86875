"""Lowering of convolutions whose taps are moved by offsets that are computed at run time."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, constant, product
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, select, size_of
from tilewright.ops.lower import Context, lowering, unsupported
from tilewright.ops.lowering.conv import sliding
from tilewright.ops.lowering.reduction import accumulator
from tilewright.ops.lowering.sampling import all_of, clamp, interpolated, is_inside, neighbours


@lowering("DeformConv")
def _lower_deform_conv(ctx: Context) -> Operand:
    """``y[b, o, p] = Σ x[b, i, p · stride + k · dilation - pad + offset[b, k, p]] · mask[b, k, p] · w[o, i, k]``.

    Pixels between others are interpolated linearly; outside of the image they are zero.
    """
    x, w, offset, bias, mask = ctx.input(0), ctx.input(1), ctx.input(2), ctx.optional(3), ctx.optional(4)
    groups, moved, dtype = ctx.attribute("group", 1), ctx.attribute("offset_group", 1), x.type.dtype
    wide, taps, sizes = accumulator(dtype), w.type.shape[2:], x.type.shape[2:]
    windows = sliding(ctx, [s.value for s in taps])
    per_group, per_offset = w.type.shape[0] // groups, x.type.shape[1] // moved
    rank = len(taps)
    if moved > 1 and not per_offset.is_constant:
        raise unsupported(ctx.node, f"{moved} groups of offsets over an open number of channels")

    def at(index: tuple[Index, ...]) -> Value:
        b, o, *where = index
        assert isinstance(o, Expr)
        window = [constant(0) if s == 1 else ctx.composer.axis(s, "k") for s in taps]
        i = ctx.composer.axis(w.type.shape[1], "c")
        channel = i if groups == 1 else (o // per_group) * w.type.shape[1] + i
        tap = _flat(window, taps) + (channel // per_offset if moved > 1 else 0) * product(taps)
        near = []
        for d, place in enumerate(windows.place(where, window)):
            assert isinstance(place, Expr)
            by = cast(offset.at((b, tap * rank + d, *where)), wide)
            near.append(neighbours(binary("add", by, size_of(place, wide)), sizes[d], "linear"))

        def read(place: Sequence[Value]) -> Value:
            pixel = x.at((b, channel, *(clamp(p, s) for p, s in zip(place, sizes, strict=True))))
            return select(all_of([is_inside(p, s) for p, s in zip(place, sizes, strict=True)]), pixel, 0)

        pixel = interpolated(near, read, wide)
        if mask is not None:
            pixel = binary("mul", pixel, cast(mask.at((b, tap, *where)), wide))
        acc = binary("mul", pixel, cast(w.at((o, i, *window)), wide))
        y = cast(ctx.composer.reduce("sum", [k for k in (*window, i) if not k.is_constant], acc, "acc"), dtype)
        return y if bias is None else binary("add", y, bias.at((o,)))

    return ctx.result(at)


def _flat(window: Sequence[Expr], taps: Sequence[Expr]) -> Expr:
    total = constant(0)
    for k, size in zip(window, taps, strict=True):
        total = total * size + k
    return total
