"""Resampling of images: Resize, grid sampling and what goes with it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("Resize")
def resize(ctx: Infer) -> TensorType:
    """``floor(size * scale)``, or given sizes."""
    x = ctx.input(0)
    axes = ctx.integers("axes")
    axes = list(range(x.rank)) if axes is None else [ctx.axis(a, x.rank) for a in axes]
    if ctx.has(3) and ctx.input(3).shape[0] != 0:
        targets = _given(ctx, [x.shape[a] for a in axes])
    else:
        targets = _scaled(ctx, [x.shape[a] for a in axes])
    if len(targets) != len(axes):
        ctx.fail(f"{len(targets)} scales or sizes for {len(axes)} axes")
    sizes = list(x.shape)
    for axis, size in zip(axes, targets, strict=True):
        sizes[axis] = size
    return TensorType(x.dtype, tuple(sizes))


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


def _scaled(ctx: Infer, current: list[Expr]) -> list[Expr]:
    scales = ctx.constant(2)
    if scales is None or not scales.size:
        ctx.unsupported("scales that depend on run-time values")
    values = [float(s) for s in scales.reshape(-1)]
    if len(values) != len(current):
        ctx.fail(f"{len(values)} scales for {len(current)} axes")
    if not all(math.isfinite(s) and 0 < s < 2**16 for s in values):
        ctx.fail(f"scales {values}")
    exact = [simple_fraction(s) for s in values]
    return [(c * f.numerator) // f.denominator for c, f in zip(current, exact, strict=True)]


def _given(ctx: Infer, current: list[Expr]) -> list[Expr]:
    sizes = ctx.known_list(3, "sizes")
    policy = ctx.string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes
    if not all(s.is_constant for s in (*sizes, *current)):
        ctx.unsupported(f"keep_aspect_ratio_policy {policy} with symbolic sizes")
    choose = min if policy == "not_larger" else max
    scale = choose(Fraction(s.value, c.value) for s, c in zip(sizes, current, strict=False))
    # Round half up, as the operator's text says.
    return [constant(math.floor(scale * c.value + Fraction(1, 2))) for c in current]


@shape_rule("GridSample")
def grid_sample(ctx: Infer) -> TensorType:
    """Batch and channels of the image, spatial sizes of the grid."""
    x, grid = ctx.input(0), ctx.input(1)
    if x.rank != grid.rank or x.rank < 3:
        ctx.fail("image and grid differ in rank")
    ctx.equal(grid.shape[-1], x.rank - 2)
    return TensorType(x.dtype, (ctx.equal(x.shape[0], grid.shape[0]), x.shape[1], *grid.shape[1:-1]))


@shape_rule("AffineGrid")
def affine_grid(ctx: Infer) -> TensorType:
    """Positions for every pixel of an image of the given size."""
    n, _, *spatial = ctx.known_list(1, "the size")
    return TensorType(ctx.input(0).dtype, (n, *spatial, constant(len(spatial))))


@shape_rule("RoiAlign")
def roi_align(ctx: Infer) -> TensorType:
    """One crop per region."""
    x, rois = ctx.input(0), ctx.input(1)
    h, w = ctx.integer("output_height", 1), ctx.integer("output_width", 1)
    return TensorType(x.dtype, (rois.shape[0], x.shape[1], constant(h), constant(w)))


@shape_rule("MaxRoiPool")
def max_roi_pool(ctx: Infer) -> TensorType:
    """One crop per region."""
    x, rois = ctx.input(0), ctx.input(1)
    pooled = ctx.integers("pooled_shape") or ctx.fail("pooled_shape is missing")
    return TensorType(x.dtype, (rois.shape[0], x.shape[1], *map(constant, pooled)))
