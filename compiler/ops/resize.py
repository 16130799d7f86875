"""Resampling of images: Resize, grid sampling and what goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum
from tilewright.ir.types import TensorType
from tilewright.ops.choose import choose, is_equal, is_negative
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: A size beyond this is a mistake, and products of a few of them would not fit 64 bits.
LARGEST = 2**31 - 1

#: Samples of a region of RoiAlign along one dimension, at most.
MOST_SAMPLES = 2**16

#: Combinations of neighbours that a kernel writes out one by one; more are summed by a loop.
UNROLLED = 16

_COORDINATES = frozenset(
    "half_pixel half_pixel_symmetric pytorch_half_pixel tf_half_pixel_for_nn align_corners asymmetric "
    "tf_crop_and_resize".split()
)
_NEAREST = frozenset("round_prefer_floor round_prefer_ceil floor ceil".split())

#: Neighbours to each side of a position.
REACH = {"nearest": 0, "linear": 1, "cubic": 2}


@shape_rule("Resize")
def resize(ctx: Infer) -> TensorType:
    """``floor(size * scale)``, or given sizes."""
    x = ctx.input(0)
    _check_modes(ctx)
    axes = ctx.integers("axes")
    axes = list(range(x.rank)) if axes is None else [ctx.axis(a, x.rank) for a in axes]
    if len(set(axes)) != len(axes):
        ctx.fail(f"axes {axes} name one twice")
    current = [x.shape[a] for a in axes]
    if ctx.has(3) and ctx.input(3).shape[0] != 0:
        targets = _given(ctx, current)
    elif ctx.has(2) and ctx.input(2).shape[0] != 0:
        targets = _scaled(ctx, current)
    else:
        ctx.fail("neither scales nor sizes are given")
    sizes = list(x.shape)
    for axis, size in zip(axes, targets, strict=True):
        sizes[axis] = size
    if ctx.string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        ctx.equal(ctx.input(1).shape[0], 2 * len(axes))
    return TensorType(x.dtype, tuple(sizes))


def _check_modes(ctx: Infer) -> None:
    for name, default, known in (
        ("mode", "nearest", REACH.keys()),
        ("coordinate_transformation_mode", "half_pixel", _COORDINATES),
        ("nearest_mode", "round_prefer_floor", _NEAREST),
        ("keep_aspect_ratio_policy", "stretch", {"stretch", "not_larger", "not_smaller"}),
    ):
        if (value := ctx.string(name, default)) not in known:
            ctx.unsupported(f"{name} {value!r}")


def simple_fraction(scale: float) -> Fraction:
    """The fraction that a scale of 32 bits stands for: the simplest one that rounds to it.

    ``0.7`` is not quite 7/10 in 32 bits, but 10 pixels times 0.7 are 7, as 32-bit arithmetic has it.
    """
    exact = Fraction(scale)
    for limit in (64, 1024, 4096):
        simple = exact.limit_denominator(limit)
        if np.float32(float(simple)) == np.float32(scale):
            return simple
    return exact


def ratio_of(out: Expr, size: Expr) -> Fraction | None:
    """``out / size`` where that is one number, whatever the sizes, that floating-point numbers hold exactly."""
    if out == size:
        return Fraction(1)
    if size.is_constant:
        ratio = Fraction(out.value, max(1, size.value)) if out.is_constant else None
        return ratio if ratio is not None and ratio.denominator & (ratio.denominator - 1) == 0 else None
    times = out // size
    return Fraction(times.value) if times.is_constant and times * size == out else None


def _scaled(ctx: Infer, current: list[Expr]) -> list[Expr]:
    """Sizes from scales. Those of scales that are computed at run time are made by the node's program."""
    ctx.equal(ctx.input(2).shape[0], len(current))
    scales = ctx.constant(2)
    if scales is None:
        targets = [ctx.new_size(f"size{n}", LARGEST) for n in range(len(current))]
        _taps(ctx, current, targets, [None] * len(current))
        return targets
    values = [float(s) for s in scales.reshape(-1)]
    if not all(math.isfinite(s) and 0 < s < 2**16 for s in values):
        ctx.fail(f"scales {values}")
    exact = [simple_fraction(s) for s in values]
    targets = [(c * f.numerator) // f.denominator for c, f in zip(current, exact, strict=True)]
    _taps(ctx, current, targets, exact)
    return targets


def _given(ctx: Infer, current: list[Expr]) -> list[Expr]:
    sizes = ctx.known_list(3, "sizes", lo=0, hi=LARGEST)
    if len(sizes) != len(current):
        ctx.fail(f"{len(sizes)} sizes for {len(current)} axes")
    policy = ctx.string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        _taps(ctx, current, sizes, [ratio_of(s, c) for s, c in zip(sizes, current, strict=True)])
        return sizes
    # The scale is ``size / of`` of the axis that asks for the least, or for the most.
    size, of = sizes[0], current[0]
    for n, (s, c) in enumerate(zip(sizes[1:], current[1:], strict=True)):
        less = is_negative(s * of - size * c if policy == "not_larger" else size * c - s * of)
        less = ctx.define(f"less{n}", less, hi=1)
        size, of = ctx.define(f"side{n}", choose(less, s, size)), ctx.define(f"of{n}", choose(less, c, of))
    # Half a pixel is rounded up.
    targets = [ctx.define(f"size{n}", (2 * size * c + of) // maximum(1, 2 * of)) for n, c in enumerate(current)]
    _taps(ctx, current, targets, [None] * len(current))
    return targets


def _taps(ctx: Infer, current: Sequence[Expr], targets: Sequence[Expr], ratios: Sequence[Fraction | None]) -> None:
    """Define how many pixels take part along each axis: 1 where nothing changes, as far as that is known; where many
    axes leave it open, a run finds out."""
    reach = REACH[ctx.string("mode", "nearest")]
    antialias = bool(ctx.integer("antialias", 0)) and reach > 0
    crops = ctx.string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    many = antialias or (2 * reach) ** sum(r != 1 or crops for r in ratios) > UNROLLED
    stretch = ctx.string("keep_aspect_ratio_policy", "stretch") == "stretch"
    for n, (size, out, ratio) in enumerate(zip(current, targets, ratios, strict=True)):
        whole: Expr = constant(max(1, 2 * reach))
        if antialias:
            # Two pixels of the output are no further apart than input over output, rounded up.
            whole = 2 * maximum(reach, ceildiv(reach * size, maximum(1, out)))
        if crops or not many:
            taps = whole if crops or ratio != 1 else constant(1)
        elif ratio is not None or not stretch:
            taps = constant(1) if ratio == 1 else whole
        elif ctx.constant(2) is None and ctx.has(2) and ctx.input(2).shape[0] != 0:
            ctx.new_size(f"taps{n}", 2 * LARGEST)  # a scale near 1 may keep the size and still change the pixels
            continue
        else:
            # At least 1 either way, which the bounds of a choice do not tell.
            taps = maximum(1, choose(is_equal(size, out), 1, whole))
        ctx.define(f"taps{n}", taps, lo=1)


@shape_rule("GridSample")
def grid_sample(ctx: Infer) -> TensorType:
    """Batch and channels of the image, spatial sizes of the grid."""
    x, grid = ctx.input(0), ctx.input(1)
    if x.rank != grid.rank or x.rank < 3:
        ctx.fail("image and grid differ in rank")
    if ctx.string("mode", "linear") not in ("nearest", "linear", "bilinear", "cubic", "bicubic"):
        ctx.unsupported(f"mode {ctx.string('mode', '')!r}")
    if ctx.string("padding_mode", "zeros") not in ("zeros", "border", "reflection"):
        ctx.unsupported(f"padding_mode {ctx.string('padding_mode', '')!r}")
    if not grid.dtype.is_float:
        ctx.fail(f"a grid of {grid.dtype}")
    ctx.equal(grid.shape[-1], x.rank - 2)
    return TensorType(x.dtype, (ctx.equal(x.shape[0], grid.shape[0]), x.shape[1], *grid.shape[1:-1]))


@shape_rule("AffineGrid")
def affine_grid(ctx: Infer) -> TensorType:
    """Positions for every pixel of an image of the given size."""
    theta, size = ctx.input(0), ctx.known_list(1, "the size", lo=0, hi=LARGEST)
    if len(size) not in (4, 5):
        ctx.fail(f"a size of {len(size)} numbers; images have 4 or 5 axes")
    n, _, *spatial = size
    if theta.rank != 3:
        ctx.fail(f"theta of rank {theta.rank}")
    ctx.equal(theta.shape[1], len(spatial))
    ctx.equal(theta.shape[2], len(spatial) + 1)
    return TensorType(theta.dtype, (ctx.equal(theta.shape[0], n), *spatial, constant(len(spatial))))


@shape_rule("RoiAlign")
def roi_align(ctx: Infer) -> TensorType:
    """One crop per region."""
    x, rois, batch = ctx.input(0), ctx.input(1), ctx.input(2)
    h, w = ctx.integer("output_height", 1), ctx.integer("output_width", 1)
    if x.rank != 4 or rois.rank != 2 or batch.rank != 1 or min(h, w) < 1:
        ctx.fail(f"{h} x {w} bins of regions {rois} of images {x}, in images {batch}")
    if not batch.dtype.is_integer:
        ctx.fail(f"numbers of images of {batch.dtype}")
    if ctx.string("mode", "avg") not in ("avg", "max"):
        ctx.unsupported(f"mode {ctx.string('mode', '')!r}")
    ctx.equal(rois.shape[1], 4)
    ratio = ctx.integer("sampling_ratio", 0)
    if not 0 <= ratio <= MOST_SAMPLES:
        ctx.fail(f"sampling_ratio {ratio}")
    for d in range(2):
        if ratio == 0:
            ctx.new_size(f"samples{d}", MOST_SAMPLES)
        else:
            ctx.define(f"samples{d}", ratio)
    regions = ctx.equal(rois.shape[0], batch.shape[0])
    return TensorType(x.dtype, (regions, x.shape[1], constant(h), constant(w)))


@shape_rule("MaxRoiPool")
def max_roi_pool(ctx: Infer) -> TensorType:
    """One crop per region."""
    x, rois = ctx.input(0), ctx.input(1)
    pooled = ctx.integers("pooled_shape") or ctx.fail("pooled_shape is missing")
    if x.rank != 4 or rois.rank != 2 or len(pooled) != 2 or min(pooled) < 1:
        ctx.fail(f"bins {pooled} of regions {rois} of images {x}")
    ctx.equal(rois.shape[1], 5)
    return TensorType(x.dtype, (rois.shape[0], x.shape[1], *map(constant, pooled)))
