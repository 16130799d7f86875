"""Operators on images whose sizes hang on floating-point numbers, or that write where data says."""

from __future__ import annotations

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.late import defined
from tilewright.ir.symbolic import product
from tilewright.ir.types import DType
from tilewright.ops.resize import LARGEST, MOST_SAMPLES, REACH
from tilewright.ops.steps import Program, float_bits, program


@program("Resize")
def resize(ctx: Program) -> None:
    """Scales that are computed at run time are looked at first: the sizes, and along which axes anything changes."""
    if ctx.has(2) and ctx.type(2).shape[0] != 0 and "size0" in defined(ctx.node):
        x = ctx.type(0)
        axes = [a % x.rank for a in ctx.attribute("axes") or range(x.rank)]
        count, reach = len(axes), REACH[ctx.attribute("mode", "nearest")]
        found = ctx.temporary(DType.I64, 2 * count)
        stretched = int(bool(ctx.attribute("antialias", 0)))
        sizes = [x.shape[a] for a in axes]
        ctx.call("resize_sizes", [ctx.input(2), found], [count, reach, stretched, LARGEST, *sizes])
        for n in range(count):
            ctx.read(f"size{n}", found, n)
            ctx.read(f"taps{n}", found, count + n)
    ctx.kernel()


@program("RoiAlign")
def roi_align(ctx: Program) -> None:
    """Where the samples of a bin hang on its region, the most there are is found first."""
    if ctx.attribute("sampling_ratio", 0) == 0:
        rois, most = ctx.input(1), ctx.temporary(DType.I64, 2)
        half = int(ctx.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel")
        bins = [ctx.attribute("output_height", 1), ctx.attribute("output_width", 1)]
        scale = float_bits(ctx.attribute("spatial_scale", 1.0))
        ctx.call("roi_samples", [rois, most], [ctx.type(1).shape[0], *bins, half, scale, MOST_SAMPLES])
        for d in range(2):
            ctx.read(f"samples{d}", most, d)
    ctx.kernel()


@program("MaxUnpool")
def max_unpool(ctx: Program) -> None:
    """Zeros, and each element at its position in the tensor that was pooled."""
    x, rank = ctx.type(0), ctx.type(0).rank
    pooled = [*x.shape[:2], *(ctx.defined(f"pooled{d}") for d in range(rank - 2))]
    out: tuple[ir.Value, ...] = (ctx.input(0), ctx.input(1), ctx.output())
    ctx.call("max_unpool", out, [product(x.shape), rank, *pooled, *type_of(ctx.output()).shape])
