"""Images resized by constant scales or to known sizes.

Pixels that are chosen are repeated, cut or gathered; pixels that are mixed are products with a constant matrix, one a
dimension, which is what matrix units are for. As zeros of those matrices meet every pixel of a row, an infinite pixel
makes its whole row and column NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.resampling import Resized, nearest, positions, weights
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType
from tilewright.ops.resize import simple_fraction

#: Positions that do not change when an image is longer: what lies in padding stays there.
_LOCAL = frozenset(["asymmetric", "half_pixel"])


@rule("Resize", padding=Padding.MASKED)
def resize(ctx: Rule) -> Tensor:
    """Along one dimension after the other."""
    x, mode = ctx.input(0), str(ctx.attribute("mode", "nearest"))
    coordinates = str(ctx.attribute("coordinate_transformation_mode", "half_pixel"))
    wide = x.dtype if mode == "nearest" else weighted(x.dtype)
    positional = weighted(x.dtype).numpy
    dims = {axis: d for axis, d in _dimensions(ctx, x).items() if not d.is_identity}
    value, outside = build.convert(x.value, wide), []
    if 0 in ctx.shape():
        return ctx.result(build.splat(0, x.dtype, ctx.shape()))
    # The last dimension first: what is read is contiguous.
    for axis, d in sorted(dims.items(), reverse=True):
        places = positions(coordinates, d, positional)
        if d.region is not None:
            outside.append((axis, np.array([not 0 <= p <= d.size - 1 for p in places])))
        if mode == "nearest":
            chosen = nearest(str(ctx.attribute("nearest_mode", "round_prefer_floor")), places, d.size)
            repeats = np.array_equal(chosen, np.repeat(np.arange(d.size), d.out // d.size))
            if not (repeats and coordinates in _LOCAL):
                ctx.refuse_padding(x, [axis])
            value = _chosen(value, axis, chosen, repeats)
            continue
        ctx.refuse_padding(x, [axis])
        a, exclude = float(ctx.attribute("cubic_coeff_a", -0.75)), bool(ctx.attribute("exclude_outside", 0))
        shares = weights(mode, places, d, a, exclude, bool(ctx.attribute("antialias", 0)))
        value = _mixed(ctx, value, axis, shares, wide)
    value = rounded(value, wide, x.dtype)
    for axis, beyond in outside:
        fill = ctx.attribute("extrapolation_value", 0.0)
        other = build.splat(fill if x.dtype.is_float else int(fill), x.dtype, ctx.shape())
        value = stablehlo().select(
            build.broadcast(build.literal(beyond, DType.BOOL), ctx.shape(), [axis]), other, value
        )
    return ctx.result(value)


def weighted(dtype: DType) -> DType:
    """The dtype in which pixels of ``dtype`` are weighted."""
    return DType.F64 if dtype is DType.F64 or (dtype.is_integer and dtype.bits > 16) else DType.F32


def rounded(value: Value, wide: DType, dtype: DType) -> Value:
    """A weighted sum as ``dtype``: integers are rounded, and cut off at their limits."""
    if dtype.is_integer and wide.is_float:
        hlo, limits, shape = stablehlo(), np.iinfo(dtype.numpy), build.shape_of(value)
        highest = min(int(limits.max), 2**53 if wide is DType.F64 else 2**24)
        low, high = (build.splat(float(n), wide, shape) for n in (max(int(limits.min), -highest), highest))
        value = hlo.clamp(low, hlo.round_nearest_even(value), high)
    return build.convert(value, dtype)


def _dimensions(ctx: Rule, x: Tensor) -> dict[int, Resized]:
    """Every dimension that the operator names, by axis."""
    axes = [a % x.rank for a in ctx.attribute("axes") or range(x.rank)]
    out = ctx.shape()
    scales = _given(ctx, 2)
    regions = _given(ctx, 1) if ctx.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize" else None
    if scales is not None:
        ratios = [simple_fraction(float(s)) for s in scales.reshape(-1)]
    else:
        asked = [int(n) for n in ctx.integers(3)] if ctx.constant(3) is not None else [out[a] for a in axes]
        ratios = [Fraction(n, max(1, x.shape[a])) for n, a in zip(asked, axes, strict=True)]
        policy = str(ctx.attribute("keep_aspect_ratio_policy", "stretch"))
        if policy != "stretch":
            ratios = [(min if policy == "not_larger" else max)(ratios)] * len(axes)
    found = {}
    for n, (axis, ratio) in enumerate(zip(axes, ratios, strict=True)):
        region = None if regions is None else (float(regions[n]), float(regions[n + len(axes)]))
        found[axis] = Resized(x.shape[axis], out[axis], ratio, float(ratio * x.shape[axis]), region)
        if scales is None and not found[axis].is_identity:
            ctx.refuse_padding(x, [axis])
    return found


def _given(ctx: Rule, index: int) -> NDArray[np.float64] | None:
    """A list of numbers that is there and not empty; refused when it is computed at run time."""
    if not ctx.has(index) or ctx.input(index).shape == (0,):
        return None
    found = ctx.constant(index)
    if found is None:
        raise ctx.computed(index)
    return np.asarray(found, np.float64)


def _chosen(value: Value, axis: int, chosen: NDArray[np.int64], repeats: bool) -> Value:
    """The pixels at ``chosen`` along a dimension."""
    shape = build.shape_of(value)
    if repeats:
        times = len(chosen) // shape[axis]
        spread = build.broadcast(
            value,
            [*shape[: axis + 1], times, *shape[axis + 1 :]],
            [*range(axis + 1), *range(axis + 2, len(shape) + 1)],
        )
        return build.reshape(spread, [*shape[:axis], len(chosen), *shape[axis + 1 :]])
    return indexing.take(value, build.literal(chosen, DType.I32), axis)


def _mixed(ctx: Rule, value: Value, axis: int, shares: NDArray[np.float64], wide: DType) -> Value:
    """Sums of pixels along a dimension, weighted by ``[out, size]``."""
    rank = len(build.shape_of(value))
    matrix = build.literal(shares, wide)
    made = build.dot(value, matrix, ((), ()), ([axis], [1]), wide, ctx.policy.precision)
    order: Sequence[int] = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return build.transpose(made, order)
