"""Lowering of pools over regions of an image that are given at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.ir.symbolic import Expr, as_expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.pool import lowest
from tilewright.ops.lowering.reduction import accumulator
from tilewright.ops.lowering.sampling import all_of, clamp


@dataclass(frozen=True, slots=True)
class Sample:
    """A position along one dimension between two pixels.

    Attributes:
        low: the pixel before; ``high`` the one after.
        ratio: how far it is from ``low`` to ``high``.
        counts: whether it is on the image, give or take a pixel.
    """

    low: Value
    high: Value
    ratio: Value
    counts: Value


@lowering("RoiAlign")
def _lower_roi_align(ctx: Context) -> Operand:
    """The mean or the maximum of samples at regular distances within each bin of a region."""
    x, rois, batch = ctx.input(0), ctx.input(1), ctx.input(2)
    dtype, scale = accumulator(x.type.dtype), float(ctx.attribute("spatial_scale", 1.0))
    half_pixel = ctx.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    ratio, largest = ctx.attribute("sampling_ratio", 0), ctx.attribute("mode", "avg") == "max"
    sizes, bins = x.type.shape[2:], ctx.outputs[0].shape[2:]
    most = [ctx.defined(f"samples{d}") for d in range(2)]

    def at(index: tuple[Index, ...]) -> Value:
        n, c, *where = index
        image = cast(batch.at((n,)), DType.I64)
        axes = [ctx.composer.axis(count, "s") for count in most]
        samples: list[Sample] = []
        counts: list[Value] = []  # of samples along each dimension of a bin
        for d, size in enumerate(sizes):
            start, length = _span(rois, n, 1 - d, scale, half_pixel, dtype)
            step = binary("div", length, size_of(bins[d], dtype))
            counts.append(const(float(ratio), dtype) if ratio > 0 else unary("ceil", step))
            first = binary("add", start, binary("mul", size_of(_plain(where[d]), dtype), step))
            middle = binary("add", size_of(axes[d], dtype), 0.5)
            position = binary("add", first, binary("div", binary("mul", middle, step), counts[d]))
            samples.append(_sample(position, size))
        taken = [] if ratio > 0 else [binary("lt", size_of(a, dtype), n) for a, n in zip(axes, counts, strict=True)]
        value = select(all_of([s.counts for s in samples]), _pixel(x, image, c, samples, largest, dtype), 0)
        if largest:
            value = select(all_of(taken), value, lowest(dtype)) if taken else value
            top = ctx.composer.reduce("max", axes, value, "top")
            some = [binary("gt", n, 0.0) for n in counts]
            return cast(select(all_of(some), top, 0) if taken else top, x.type.dtype)
        total = ctx.composer.reduce("sum", axes, select(all_of(taken), value, 0) if taken else value, "sum")
        return cast(binary("div", total, binary("max", binary("mul", *counts), 1.0)), x.type.dtype)

    return ctx.result(at)


def _plain(i: Index) -> Expr:
    assert isinstance(i, Expr)
    return i


def _span(rois: Operand, n: Index, which: int, scale: float, half_pixel: bool, dtype: DType) -> tuple[Value, Value]:
    """Start and length of region ``n``, in pixels; without ``half_pixel`` at least one pixel."""
    start, end = (binary("mul", cast(rois.at((n, as_expr(e))), dtype), scale) for e in (which, which + 2))
    if half_pixel:
        return binary("sub", start, 0.5), binary("sub", binary("sub", end, 0.5), binary("sub", start, 0.5))
    return start, binary("max", binary("sub", end, start), 1.0)


def _sample(position: Value, size: Expr) -> Sample:
    dtype = position.dtype
    counts = binary("and", binary("ge", position, -1.0), binary("le", position, size_of(size, dtype)))
    inside = binary("max", binary("min", position, size_of(size - 1, dtype)), 0.0)
    floor = unary("floor", inside)
    low = clamp(cast(floor, DType.I64), size)
    return Sample(low, clamp(binary("add", low, 1), size), binary("sub", inside, floor), counts)


def _pixel(x: Operand, image: Value, c: Index, samples: Sequence[Sample], largest: bool, dtype: DType) -> Value:
    """The four pixels around a sample, weighted: their sum, or (as ``max`` has it) the largest of them."""
    (y, x_), total = samples, None
    for vertical, row in ((binary("sub", const(1.0, dtype), y.ratio), y.low), (y.ratio, y.high)):
        for horizontal, column in ((binary("sub", const(1.0, dtype), x_.ratio), x_.low), (x_.ratio, x_.high)):
            pixel = cast(x.at((image, c, row, column)), dtype)
            part = binary("mul", binary("mul", vertical, horizontal), pixel)
            total = part if total is None else binary("max" if largest else "add", total, part)
    assert total is not None
    return total


@lowering("MaxRoiPool")
def _lower_max_roi_pool(ctx: Context) -> Operand:
    """The largest element of each bin of a region; 0 for a bin without elements.

    How large a bin is hangs on the region, so every bin looks at the whole image and leaves out what is not its own.
    """
    x, rois = ctx.input(0), ctx.input(1)
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    scale, bins, sizes = float(ctx.attribute("spatial_scale", 1.0)), ctx.outputs[0].shape[2:], x.type.shape[2:]

    def at(index: tuple[Index, ...]) -> Value:
        n, c, *where = index
        image = cast(rois.at((n, as_expr(0))), DType.I64)
        axes: list[Expr] = []
        inside: list[Value] = []
        some: list[Value] = []
        for d, size in enumerate(sizes):
            axes.append(ctx.composer.axis(size, "r", avoid=[*index, *axes]))
            start, end = (_rounded(binary("mul", cast(rois.at((n, as_expr(e - d))), wide), scale)) for e in (2, 4))
            length = binary("max", binary("add", binary("sub", end, start), 1.0), 1.0)
            step = binary("div", length, size_of(bins[d], wide))
            bin_ = size_of(_plain(where[d]), wide)
            first = binary("add", unary("floor", binary("mul", bin_, step)), start)
            last = binary("add", unary("ceil", binary("mul", binary("add", bin_, 1.0), step)), start)
            position = size_of(axes[-1], wide)
            inside += [binary("ge", position, first), binary("lt", position, last)]
            some.append(binary("lt", binary("max", first, 0.0), binary("min", last, size_of(size, wide))))
        value = select(all_of(inside), x.at((image, c, *axes)), lowest(dtype))
        return select(all_of(some), ctx.composer.reduce("max", axes, value, "top"), 0)

    return ctx.result(at)


def _rounded(value: Value) -> Value:
    """The nearest whole number, away from zero when there are two."""
    away = unary("floor", binary("add", unary("abs", value), 0.5))
    return binary("mul", away, unary("sign", value))
