"""Lowering of Resize: which pixels of the input each pixel of the output is a weighted sum of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum, minimum, product
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.coordinates import Dimension, Exact, position
from tilewright.ops.lowering.sampling import clamp, cubic, is_inside, kernel, linear, within
from tilewright.ops.resize import UNROLLED, ratio_of, simple_fraction


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One pixel that takes part along a dimension: its index and its weight."""

    index: Index
    weight: Value


@lowering("Resize")
def _lower_resize(ctx: Context) -> Operand:
    x, mode = ctx.input(0), ctx.attribute("mode", "nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    coordinates = ctx.attribute("coordinate_transformation_mode", "half_pixel")
    dtype = x.type.dtype
    wide = DType.F32 if mode == "nearest" else weighted(dtype)
    dims = [d for d in dimensions(ctx, wide) if not d.is_identity]

    def at(index: tuple[Index, ...]) -> Value:
        places = [position(coordinates, _plain(index[d.axis]), d) for d in dims]
        if mode == "nearest":
            pixel = x.at(_replaced(index, dims, [_nearest(ctx, p, d) for p, d in zip(places, dims, strict=True)]))
            return _within_region(ctx, pixel, dims, places)
        written_out = all(d.taps.is_constant for d in dims) and product(d.taps for d in dims).value <= UNROLLED
        loops = not written_out or bool(ctx.attribute("antialias", 0))
        total = _looped(ctx, mode, index, dims, places) if loops else _unrolled(ctx, mode, index, dims, places)
        return _within_region(ctx, _narrowed(total, dtype), dims, places)

    return ctx.result(at)


def weighted(dtype: DType) -> DType:
    """The dtype in which pixels of ``dtype`` are weighted."""
    return DType.F64 if dtype is DType.F64 or (dtype.is_integer and dtype.bits > 16) else DType.F32


def _plain(i: Index) -> Expr:
    assert isinstance(i, Expr)
    return i


def _replaced(index: Sequence[Index], dims: Sequence[Dimension], places: Sequence[Index]) -> list[Index]:
    moved = {d.axis: p for d, p in zip(dims, places, strict=True)}
    return [moved.get(n, i) for n, i in enumerate(index)]


def _narrowed(value: Value, dtype: DType) -> Value:
    """A weighted sum as ``dtype``: integers are rounded, and cut off at their limits."""
    if not dtype.is_integer:
        return cast(value, dtype)
    limits = np.iinfo(dtype.numpy)
    highest = min(int(limits.max), 2**53 if value.dtype is DType.F64 else 2**24)
    inside = binary("max", binary("min", unary("round", value), float(highest)), float(max(int(limits.min), -highest)))
    return cast(inside, dtype)


def _within_region(ctx: Context, value: Value, dims: Sequence[Dimension], places: Sequence[Exact | Value]) -> Value:
    """``extrapolation_value`` where ``tf_crop_and_resize`` reaches outside of the image."""
    for d, p in zip(dims, places, strict=True):
        if d.roi is None or isinstance(p, Exact):
            continue
        fill = ctx.attribute("extrapolation_value", 0.0)
        inside = binary("and", binary("ge", p, 0.0), binary("le", p, size_of(d.size - 1, p.dtype)))
        value = select(inside, value, fill if value.dtype.is_float else int(fill))
    return value


# -- dimensions ----------------------------------------------------------------------------------------------------


def dimensions(ctx: Context, dtype: DType) -> list[Dimension]:
    """Every dimension that the operator names, with its scale as a value of ``dtype``."""
    x, rank = ctx.input(0), ctx.input(0).type.rank
    axes = [a % rank for a in ctx.attribute("axes") or range(rank)]
    scales, sizes, roi = (_given(ctx, n) for n in (2, 3, 1))
    crops = ctx.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    found = []
    for n, axis in enumerate(axes):
        size, out = x.type.shape[axis], ctx.outputs[0].shape[axis]
        ratio, scale = _scale(scales, n, size, out, dtype)
        ratio = None if "size0" in ctx.definitions else ratio  # what a pass has folded since is computed all the same
        length = binary("mul", scale, size_of(size, dtype)) if scales is not None else size_of(out, dtype)
        region = None
        if crops and roi is not None:
            region = (cast(roi.at((n,)), dtype), cast(roi.at((n + len(axes),)), dtype))
        found.append(Dimension(axis, size, out, ctx.defined(f"taps{n}"), ratio, scale, length, region))
    policy = ctx.attribute("keep_aspect_ratio_policy", "stretch")
    return found if policy == "stretch" or sizes is None else _one_scale(ctx, found, policy, dtype)


def _given(ctx: Context, n: int) -> Operand | None:
    """Input ``n`` when it is there and not empty."""
    operand = ctx.optional(n)
    return None if operand is None or operand.type.shape[0] == 0 else operand


def _scale(scales: Operand | None, n: int, size: Expr, out: Expr, dtype: DType) -> tuple[Fraction | None, Value]:
    if scales is None:
        return ratio_of(out, size), binary("div", size_of(out, dtype), size_of(size, dtype))
    if scales.known is None:
        return None, cast(scales.at((n,)), dtype)
    scale = float(scales.known.reshape(-1)[n])
    return simple_fraction(scale), const(scale, dtype)


def _one_scale(ctx: Context, found: list[Dimension], policy: str, dtype: DType) -> list[Dimension]:
    """The dimensions with the smallest, or the largest, scale that their given sizes ask for."""
    asked = [size_of(s, dtype) for s in ctx.expressions(3)]
    scales = [binary("div", a, size_of(d.size, dtype)) for a, d in zip(asked, found, strict=True)]
    scale = scales[0]
    for s in scales[1:]:
        scale = binary("min" if policy == "not_larger" else "max", scale, s)
    result = []
    for d in found:
        length = binary("mul", scale, size_of(d.size, dtype))
        result.append(Dimension(d.axis, d.size, d.out, d.taps, None, scale, length, d.roi))
    return result


# -- neighbours ----------------------------------------------------------------------------------------------------


def _nearest(ctx: Context, place: Exact | Value, d: Dimension) -> Index:
    mode = ctx.attribute("nearest_mode", "round_prefer_floor")
    if isinstance(place, Exact):
        n, m = place.numerator, place.denominator
        index = {
            "floor": n // m,
            "ceil": ceildiv(n, m),
            "round_prefer_floor": ceildiv(2 * n - m, 2 * m),
            "round_prefer_ceil": (2 * n + m) // (2 * m),
        }[mode]
        return maximum(0, minimum(index, d.size - 1))
    shifted = {"round_prefer_floor": ("ceil", -0.5), "round_prefer_ceil": ("floor", 0.5)}.get(mode, (mode, 0.0))
    rounded = unary(shifted[0], binary("add", place, shifted[1]) if shifted[1] else place)
    return clamp(cast(within(rounded, d.size), DType.I64), d.size)


def _start(place: Exact | Value, d: Dimension, dtype: DType) -> tuple[Index, Value]:
    """The pixel at or before a position, and how far the position is from it."""
    if isinstance(place, Exact):
        n, m = place.numerator, place.denominator
        return n // m, binary("mul", cast(IndexValue(n % m), dtype), 1.0 / m) if m > 1 else const(0.0, dtype)
    near = within(place, d.size)
    floor = unary("floor", near)
    return cast(floor, DType.I64), binary("sub", near, floor)


def _moved(start: Index, by: Expr) -> Index:
    if isinstance(start, Expr):
        return start + by
    return start if by == 0 else binary("add", start, IndexValue(by))


def _kept(index: Index, size: Expr) -> Index:
    """``index`` led back into the image."""
    return maximum(0, minimum(index, size - 1)) if isinstance(index, Expr) else clamp(index, size)


def _is_inside(index: Index, size: Expr) -> Value:
    return is_inside(IndexValue(index) if isinstance(index, Expr) else index, size)


def _unrolled(
    ctx: Context, mode: str, index: Sequence[Index], dims: Sequence[Dimension], places: Sequence[Exact | Value]
) -> Value:
    """The sum over all neighbours, dimension by dimension, the first outermost."""
    x, dtype = ctx.input(0), weighted(ctx.input(0).type.dtype)
    taps = [_neighbours(ctx, mode, p, d, dtype) for p, d in zip(places, dims, strict=True)]

    def summed(n: int, chosen: list[Index]) -> Value:
        if n == len(taps):
            return cast(x.at(_replaced(index, dims, chosen)), dtype)
        total: Value | None = None
        for near in taps[n]:
            part = binary("mul", summed(n + 1, [*chosen, near.index]), near.weight)
            total = part if total is None else binary("add", total, part)
        assert total is not None
        return total

    return summed(0, [])


def _neighbours(ctx: Context, mode: str, place: Exact | Value, d: Dimension, dtype: DType) -> list[Neighbour]:
    start, ratio = _start(place, d, dtype)
    weights = linear(ratio) if mode == "linear" else cubic(ratio, float(ctx.attribute("cubic_coeff_a", -0.75)))
    first = 0 if mode == "linear" else -1
    places = [_moved(start, constant(first + n)) for n in range(len(weights))]
    if ctx.attribute("exclude_outside", 0):
        weights = [select(_is_inside(p, d.size), w, 0.0) for p, w in zip(places, weights, strict=True)]
        total = weights[0]
        for w in weights[1:]:
            total = binary("add", total, w)
        weights = [binary("div", w, total) for w in weights]
    return [Neighbour(_kept(p, d.size), w) for p, w in zip(places, weights, strict=True)]


def _looped(
    ctx: Context, mode: str, index: Sequence[Index], dims: Sequence[Dimension], places: Sequence[Exact | Value]
) -> Value:
    """The sum over all neighbours, one index variable a dimension; with ``antialias`` the kernel is as wide as the
    distance of the output's pixels, and weights are made to sum to 1."""
    x, dtype = ctx.input(0), weighted(ctx.input(0).type.dtype)
    coefficient = float(ctx.attribute("cubic_coeff_a", -0.75))
    stretched, exclude = bool(ctx.attribute("antialias", 0)), bool(ctx.attribute("exclude_outside", 0))
    axes: list[Expr] = []
    chosen: list[Index] = []
    weight: Value | None = None
    for place, d in zip(places, dims, strict=True):
        start, ratio = _start(place, d, dtype)
        axis = ctx.composer.axis(d.taps, "k", avoid=[*index, *axes])
        axes.append(axis)
        # The first of an even number of them; where nothing changes there is one, the pixel itself.
        offset = axis + minimum(1, d.taps - 1) - d.taps // 2
        distance = binary("sub", size_of(offset, dtype), ratio)
        if stretched:
            distance = binary("mul", distance, binary("min", d.scale, 1.0))
        here = _moved(start, offset)
        w = kernel(distance, mode, coefficient)
        w = select(_is_inside(here, d.size), w, 0.0) if exclude else w
        if stretched or exclude:
            w = binary("div", w, ctx.composer.reduce("sum", [axis], w, "norm"))
        weight = w if weight is None else binary("mul", weight, w)
        chosen.append(_kept(here, d.size))
    pixel = cast(x.at(_replaced(index, dims, chosen)), dtype)
    if weight is None:
        return pixel
    return ctx.composer.reduce("sum", axes, binary("mul", pixel, weight), "sum")
