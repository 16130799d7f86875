"""Images read at positions that inputs tell, and columns of blocks put together to images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value, shape_of
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.rules.resize import weighted
from tilewright.backends.xla.sampling import Arithmetic, channels_second, interpolated, neighbours, read
from tilewright.ir.types import DType

_MODES = {"bilinear": "linear", "bicubic": "cubic"}

#: Entries of a block that are added one by one; larger blocks are refused.
_MOST_ENTRIES = 256


@rule("GridSample", padding=Padding.NONE)
def grid_sample(ctx: Rule) -> Tensor:
    """``y[n, c, p] = x[n, c, grid[n, p]]``, interpolated; grids give the last dimension's position first."""
    x, grid = ctx.input(0), ctx.input(1)
    mode = str(ctx.attribute("mode", "linear"))
    mode, padding = _MODES.get(mode, mode), str(ctx.attribute("padding_mode", "zeros"))
    corners, sizes = bool(ctx.attribute("align_corners", 0)), x.shape[2:]
    if 0 in (*x.shape, *ctx.shape()):
        return ctx.result(build.splat(0, x.dtype, ctx.shape()))
    dtype = weighted(x.dtype)
    places = []
    for d, size in enumerate(sizes):
        normal = indexing.cut_dim(grid.value, grid.rank - 1, len(sizes) - 1 - d, len(sizes) - d)
        normal = build.convert(build.reshape(normal, grid.shape[:-1]), dtype)
        at = _pixel(normal, size, corners, dtype)
        at = stablehlo().round_nearest_even(at) if mode == "nearest" else at
        # A cubic kernel at the border takes its part of the pixels inside: only what it reads is led back.
        stays = mode == "cubic" and padding == "border"
        places.append(at if stays else _led_back(at, size, padding, corners, dtype))
    near = [neighbours(p, s, mode, dtype) for p, s in zip(places, sizes, strict=True)]
    if mode == "nearest":
        return ctx.result(channels_second(read(x.value, x.dtype, [n[0].index for n in near], padding, corners)))
    made = interpolated(build.convert(x.value, dtype), near, padding, dtype, corners)
    return ctx.result(build.convert(channels_second(made), x.dtype))


def _pixel(normal: Value, size: int, corners: bool, dtype: DType) -> Value:
    """The position in pixels of a coordinate between -1 and 1: centres of the last pixels, or their outer edges."""
    on = Arithmetic(dtype)
    shifted = on.add(normal, 1)
    if corners:
        return on.mul(on.mul(shifted, 0.5), size - 1)
    return on.mul(on.add(on.mul(shifted, size), -1), 0.5)


def _led_back(position: Value, size: int, padding: str, corners: bool, dtype: DType) -> Value:
    """A position beyond the ends as the padding has it; those between an end and its pixel's edge stay."""
    if padding == "zeros":
        return position
    hlo, on = stablehlo(), Arithmetic(dtype)
    low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
    outside = hlo.or_(on.compare(position, "LT", low), on.compare(position, "GT", high))
    if padding == "border":
        return hlo.select(outside, on.clamp(0, position, size - 1), position)
    # Back and forth between the ends is a wave of twice their distance.
    length = max(1, size - 1) if corners else max(1, size)
    turn = on.add(position, -low)
    whole = hlo.floor(hlo.divide(turn, on.number(2 * length, turn)))
    turn = hlo.subtract(turn, on.mul(whole, 2 * length))
    back = on.add(on.mul(hlo.abs(on.add(turn, -length)), -1), length)
    return hlo.select(outside, on.add(back, low), position)


@rule("AffineGrid", padding=Padding.NONE)
def affine_grid(ctx: Rule) -> Tensor:
    """``y[n, p, d] = Σ theta[n, d, j] · base_j(p) + theta[n, d, last]``; base positions of the last axis come first."""
    theta, corners = ctx.input(0), bool(ctx.attribute("align_corners", 0))
    dtype = DType.F32 if theta.dtype.bits < 32 else theta.dtype
    sizes = ctx.shape()[1:-1]
    base = []
    for d in reversed(range(len(sizes))):
        # -1 to 1 between the centres of the first and the last pixel, or between their outer edges.
        steps = max(1, sizes[d] - 1) if corners else max(1, sizes[d])
        line = (2 * np.arange(sizes[d]) + (0 if corners else 1)) / steps - 1
        shape = [-1 if e == d else 1 for e in range(len(sizes))]
        base.append(np.broadcast_to(line.reshape(shape), sizes))
    points = np.stack([*base, np.ones(sizes)], -1)
    made = build.dot(
        build.convert(theta.value, dtype),
        build.literal(points, dtype),
        ((), ()),
        ([2], [len(sizes)]),
        dtype,
        ctx.policy.precision,
    )
    order = [0, *range(2, len(sizes) + 2), 1]
    return ctx.result(build.convert(build.transpose(made, order), theta.dtype))


@rule("RoiAlign", padding=Padding.NONE)
def roi_align(ctx: Rule) -> Tensor:
    """The mean or the maximum of samples at regular distances within each bin of a region."""
    hlo, x, rois = stablehlo(), ctx.input(0), ctx.input(1)
    taken = int(ctx.attribute("sampling_ratio", 0))
    if taken <= 0:
        raise ctx.unsupported("the number of samples hangs on the regions (sampling_ratio is 0)")
    dtype = weighted(x.dtype)
    regions, bins, sizes = rois.shape[0], ctx.shape()[2:], x.shape[2:]
    if 0 in (*ctx.shape(), *x.shape):
        return ctx.result(build.splat(0, x.dtype, ctx.shape()))
    shape = (regions, bins[0], taken, bins[1], taken)
    lows, ratios, counted = [], [], []
    for d in range(2):
        position = _samples(ctx, d, shape, bins[d], taken, dtype)
        on = Arithmetic(dtype)
        counted.append(hlo.and_(on.compare(position, "GE", -1), on.compare(position, "LE", sizes[d])))
        inside = on.clamp(0, position, sizes[d] - 1)
        floor = hlo.floor(inside)
        lows.append(build.convert(floor, DType.I32))
        ratios.append(hlo.subtract(inside, floor))
    batch = build.broadcast(build.convert(ctx.input(2).value, DType.I32), shape, [0])
    largest = str(ctx.attribute("mode", "avg")) == "max"
    pixel = _around(build.convert(x.value, dtype), batch, lows, ratios, largest, dtype)
    full = shape_of(pixel)
    valid = build.broadcast(hlo.and_(*counted), full, range(5))
    pixel = hlo.select(valid, pixel, build.splat(0, dtype, full))
    if largest:
        total = build.reduce(pixel, build.splat(-np.inf, dtype), [2, 4], hlo.maximum)
    else:
        total = build.reduce(pixel, build.splat(0, dtype), [2, 4], hlo.add)
        total = Arithmetic(dtype).mul(total, 1 / taken**2)
    return ctx.result(build.convert(channels_second(total), x.dtype))


def _samples(ctx: Rule, d: int, shape: Sequence[int], bins: int, taken: int, dtype: DType) -> Value:
    """Positions of samples along dimension ``d`` of the image, ``[regions, bins, taken, bins, taken]``."""
    hlo, on, rois = stablehlo(), Arithmetic(dtype), ctx.input(1)
    scale = float(ctx.attribute("spatial_scale", 1.0))
    half = str(ctx.attribute("coordinate_transformation_mode", "half_pixel")) == "half_pixel"

    def edge(i: int) -> Value:
        column = build.reshape(indexing.cut_dim(rois.value, 1, i, i + 1), (shape[0],))
        scaled = on.mul(build.convert(column, dtype), scale)
        return on.add(scaled, -0.5) if half else scaled

    start, end = edge(1 - d), edge(3 - d)
    length = hlo.subtract(end, start)
    length = length if half else hlo.maximum(length, on.number(1, length))
    step = on.mul(length, 1 / bins)
    spread = [build.broadcast(v, shape, [0]) for v in (start, step)]
    bin_, sample = (build.iota(dtype, shape, 1 + 2 * d + n) for n in range(2))
    within = hlo.add(bin_, on.mul(on.add(sample, 0.5), 1 / taken))
    return hlo.add(spread[0], hlo.multiply(within, spread[1]))


def _around(
    image: Value, batch: Value, lows: Sequence[Value], ratios: Sequence[Value], largest: bool, dtype: DType
) -> Value:
    """The four pixels around each sample, weighted: their sum, or (as ``max`` has it) the largest of them."""
    hlo, on, whole = stablehlo(), Arithmetic(dtype), Arithmetic(DType.I32)
    total: Value | None = None
    for corner in itertools.product(range(2), repeat=2):
        places = [
            whole.clamp(0, whole.add(low, by), size - 1)
            for low, by, size in zip(lows, corner, shape_of(image)[2:], strict=True)
        ]
        pixel = indexing.take_points(image, indexing.points([batch, *places]), [0, 2, 3])
        shares = [r if by else on.add(on.mul(r, -1), 1) for r, by in zip(ratios, corner, strict=True)]
        share = hlo.multiply(*shares)
        part = hlo.multiply(pixel, build.broadcast(share, shape_of(pixel), range(5)))
        total = part if total is None else hlo.maximum(total, part) if largest else hlo.add(total, part)
    assert total is not None
    return total


@rule("DeformConv", padding=Padding.NONE)
def deform_conv(ctx: Rule) -> Tensor:
    """``y[b, o, p] = Σ x[b, i, p · stride + k · dilation - pad + offset[b, k, p]] · mask[b, k, p] · w[o, i, k]``.

    Pixels between others are interpolated linearly; outside of the image they are zero.
    """
    hlo, x, w, offset = stablehlo(), ctx.input(0), ctx.input(1), ctx.input(2)
    groups, moved = int(ctx.attribute("group", 1)), int(ctx.attribute("offset_group", 1))
    dtype = DType.F32 if x.dtype.bits < 32 else x.dtype
    taps, out, rank = w.shape[2:], ctx.shape()[2:], x.rank - 2
    if 0 in (*ctx.shape(), *x.shape, *w.shape):
        raise ctx.unsupported("there is nothing to compute")
    batch, entries = x.shape[0], int(np.prod(taps))
    shape = (batch, entries, *out)
    offsets = build.reshape(build.convert(offset.value, dtype), (batch, moved, entries, rank, *out))
    masks = None
    if ctx.has(4):
        masks = build.reshape(build.convert(ctx.input(4).value, dtype), (batch, moved, entries, *out))
    image, per = build.convert(x.value, dtype), x.shape[1] // moved
    columns = []
    for g in range(moved):
        near = []
        for d in range(rank):
            own = indexing.cut_dim(indexing.cut_dim(offsets, 1, g, g + 1), 3, d, d + 1)
            place = hlo.add(build.reshape(own, shape), build.literal(_regular(ctx, taps, out, d, shape), dtype))
            near.append(neighbours(place, x.shape[2 + d], "linear", dtype))
        pixels = interpolated(indexing.cut_dim(image, 1, g * per, (g + 1) * per), near, "zeros", dtype)
        if masks is not None:
            mask = build.reshape(indexing.cut_dim(masks, 1, g, g + 1), shape)
            pixels = hlo.multiply(pixels, build.broadcast(mask, shape_of(pixels), range(len(shape))))
        columns.append(pixels)
    whole = columns[0] if moved == 1 else hlo.concatenate(columns, len(shape))
    channels = w.shape[1]
    split = build.reshape(whole, (*shape, groups, channels))
    weights = build.reshape(build.convert(w.value, dtype), (groups, w.shape[0] // groups, channels, entries))
    left = len(shape)
    made = build.dot(
        split, weights, ([left], [0]), ([left + 1, 1], [2, 3]), dtype, ctx.policy.precision
    )  # [group, batch, *out, outputs of a group]
    made = build.transpose(made, [1, 0, 2 + rank, *range(2, 2 + rank)])
    made = build.reshape(made, ctx.shape())
    if ctx.has(3):
        made = hlo.add(made, build.broadcast(build.convert(ctx.input(3).value, dtype), ctx.shape(), [1]))
    return ctx.result(build.convert(made, x.dtype))


def _regular(ctx: Rule, taps: Sequence[int], out: Sequence[int], d: int, shape: Sequence[int]) -> np.ndarray:
    """Where each entry of a window lies without an offset along dimension ``d``, in ``shape``."""
    rank = len(taps)
    stride, dilation = ((ctx.attribute(n) or [1] * rank)[d] for n in ("strides", "dilations"))
    pad = (ctx.attribute("pads") or [0] * 2 * rank)[d]
    entry = np.unravel_index(np.arange(shape[1]), taps)[d] * dilation
    point = np.arange(out[d]) * stride - pad
    places = entry.reshape(1, -1, *[1] * rank) + point.reshape(1, 1, *[-1 if e == d else 1 for e in range(rank)])
    return np.broadcast_to(places, shape)


@rule("Col2Im", padding=Padding.NONE)
def col2im(ctx: Rule) -> Tensor:
    """Each entry of the blocks, spread to where it belongs, and all added up."""
    hlo, x = stablehlo(), ctx.input(0)
    image, block = ctx.shape()[2:], ctx.integers(2)
    rank, entries = len(block), int(np.prod(block))
    if entries > _MOST_ENTRIES:
        raise ctx.unsupported(f"blocks of {entries} elements, of at most {_MOST_ENTRIES}")
    if 0 in (*ctx.shape(), *x.shape):
        return ctx.result(build.splat(0, x.dtype, ctx.shape()))
    strides, dilations = (ctx.attribute(n) or [1] * rank for n in ("strides", "dilations"))
    pads = ctx.attribute("pads") or [0] * 2 * rank
    steps = [
        (image[d] + pads[d] + pads[d + rank] - dilations[d] * (block[d] - 1) - 1) // strides[d] + 1 for d in range(rank)
    ]
    batch, channels = ctx.shape()[:2]
    columns = build.reshape(x.value, (batch, channels, entries, *steps))
    total: Value | None = None
    for n, entry in enumerate(np.ndindex(*block)):
        part = build.reshape(indexing.cut_dim(columns, 2, n, n + 1), (batch, channels, *steps))
        low = [int(entry[d] * dilations[d] - pads[d]) for d in range(rank)]
        covered = [(s - 1) * stride + 1 for s, stride in zip(steps, strides, strict=True)]
        high = [image[d] - covered[d] - low[d] for d in range(rank)]
        inner = [0, 0, *(int(s) - 1 for s in strides)]
        part = hlo.pad(part, build.splat(0, x.dtype), [0, 0, *low], [0, 0, *high], inner)
        total = part if total is None else hlo.add(total, part)
    assert total is not None
    return ctx.result(total)
