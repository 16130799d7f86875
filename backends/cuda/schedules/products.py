"""Schedules of products: tiles of rows and columns, how the depth is taken, and which of them should be fastest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product as combinations

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.descriptors import DESCRIPTORS
from tilewright.backends.cuda.grid import GROUP, PERSISTENT
from tilewright.backends.cuda.schedules.costs import (
    Shape,
    Tiling,
    Used,
    band_of,
    resources_of,
    seconds,
    splits_at_all,
)
from tilewright.backends.cuda.schedules.extents import extent, lanes_of
from tilewright.backends.cuda.schedules.precision import Unit, precision_of, unit_of
from tilewright.backends.cuda.schedules.weights import weight_packs
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import loads_of
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel
from tilewright.target import Target

Option = tuple[str, int | str | bool]

#: Rows, columns and warps of a product's tile: a warpgroup computes 64 rows of wgmma, a warp 16 x 8 of mma.
_TILES = (
    (128, 256, 8), (256, 128, 8), (128, 128, 8), (128, 128, 4), (128, 64, 4), (64, 256, 4), (64, 128, 4), (64, 64, 4),
    (32, 128, 4), (32, 64, 4), (32, 32, 4), (16, 128, 4), (16, 64, 4), (16, 32, 2), (16, 16, 1),
)  # fmt: skip
#: The same for products without a matrix unit (f64, f32 at full precision), where operands stay in registers.
_FMA_TILES = ((128, 64, 8), (64, 64, 8), (64, 64, 4), (32, 64, 4), (32, 32, 4), (16, 32, 2), (16, 16, 1))
#: The same for element types that ``tl.dot`` does not take: all products of a step are a tensor, and stay few.
_PLAIN_TILES = ((32, 32, 4), (16, 32, 4), (16, 16, 4), (16, 16, 2))
_PLAIN_DEPTH = 4
#: Bytes of a row of depth in a tile: what one row of a swizzle holds, half of it, and a quarter.
_DEPTH_BYTES = (128, 64, 32)
_LEAST_DEPTH = 16
#: The most candidates that are told: a tuner compiles each of them.
_MOST = 48
#: Rows of a tile that are worth a block of the tensor memory accelerator: those of a warpgroup's product.
_LARGE = 64
#: The most programs of one tile: the last of them adds that many sums by itself.
_PIECES = 16


def product_schedules(kernel: Kernel, c: Contraction, target: Target) -> Iterator[Schedule]:
    """Tiles of rows and columns, by rising estimate of their time."""
    c = replace(c, depth=_as_in_memory(kernel, c))
    precision = precision_of(c.left.dtype, target)
    unit = unit_of(c, precision, target)
    shape = Shape.of(kernel, c, unit)
    packs = weight_packs(kernel, c, unit)
    tiles = _TILES if unit.matrix else _FMA_TILES if c.on_unit else _PLAIN_TILES
    splits = (1, _PIECES) if c.on_unit and _is_one_product(kernel) else (1,)
    found: list[tuple[float, Schedule]] = []
    for (rows, columns, warps), depth in combinations(tiles, _depths(kernel, c, unit)):
        sizes = {**_split(kernel, c.rows, rows), **_split(kernel, c.columns, columns), **dict.fromkeys(c.batch, 1)}
        for stages, split in combinations((4, 3, 2), splits):
            tiling = Tiling(sizes, depth, warps, stages, split, target.units)
            used = resources_of(shape, tiling, target)
            if used is not None and (split == 1 or splits_at_all(shape, tiling)):
                extra = (*_options(c, tiling, shape, used, target), *_precision(c, precision))
                found.append((seconds(shape, tiling, used, target), _schedule(c, tiling, packs, extra)))
    ordered = [schedule for _, schedule in sorted(found, key=lambda x: x[0])][:_MOST]
    yield from ordered[:1]
    yield from _persistent(kernel, c, shape, ordered, target)
    yield from ordered[1:]


def _schedule(c: Contraction, t: Tiling, packs: tuple[Pack, ...], extra: tuple[Option, ...]) -> Schedule:
    """Neighbours in the grid share columns: those are the weights, and stay in the L2."""
    loops = tuple(Loop(a, t.sizes[a], "block") for a in (*c.batch, *c.columns, *c.rows))
    reduce = tuple(Loop(a, t.depth[a], "pipeline") for a in c.depth)
    return Schedule(loops, reduce, packs=packs, extra=extra)


def _persistent(
    kernel: Kernel, c: Contraction, shape: Shape, ordered: Sequence[Schedule], target: Target
) -> Iterator[Schedule]:
    """The best large tile with as many programs as the device has room for, each of which computes tile after tile, its
    operands brought by the tensor memory accelerator; the same with warps for that alone. To be tried, not guessed: no
    device has said yet where they pay."""
    if "tma" not in target.features or not shape.unit.matrix or not _is_one_product(kernel):
        return
    for schedule in ordered:
        sizes = {loop.axis: loop.size for loop in schedule.loops}
        tiles = math.prod(-(-shape.sizes[-1][a] // n) for a, n in sizes.items())
        split = any(name.startswith("split:") for name, _ in schedule.extra)
        if not split and math.prod(sizes[a] for a in c.rows) >= _LARGE and tiles > 2 * target.units:
            extra = (*schedule.extra, (PERSISTENT, target.units), (DESCRIPTORS, True))
            yield replace(schedule, extra=extra)
            if "wgmma" in target.features and schedule.option("num_warps", 0) == 4:
                yield replace(schedule, extra=(*extra, ("specialize", True)))
            return


def _options(c: Contraction, t: Tiling, shape: Shape, used: Used, target: Target) -> Iterator[Option]:
    yield "num_warps", t.warps
    yield "num_stages", t.stages
    if t.split > 1:
        yield f"split:{c.depth[-1]}", t.split
        yield "programs", t.programs
    if (group := band_of(shape, t, used, target)) > 1:
        yield GROUP, group


def _precision(c: Contraction, precision: str) -> Iterator[Option]:
    if c.left.dtype is DType.F32 and c.on_unit and precision != "ieee":
        yield "precision", precision


def _as_in_memory(kernel: Kernel, c: Contraction) -> tuple[str, ...]:
    """The axes of depth, that along which the elements of what is no constant are neighbours last."""
    loads = [x for v in (c.left, c.right) for x in loads_of(v) if kernel.param(x.tensor).role != "const"]
    if not loads:
        return c.depth
    used = [i.symbols if isinstance(i, Expr) else frozenset[str]() for i in loads[0].index]
    place = {a: max((n for n, symbols in enumerate(used) if a in symbols), default=0) for a in c.depth}
    return tuple(sorted(c.depth, key=place.__getitem__))


def _is_one_product(kernel: Kernel) -> bool:
    """Whether one reduction is all that stands before the results."""
    return sum(isinstance(s, Define) and s.reduce is not None for s in kernel.body) == 1


def _split(kernel: Kernel, axes: tuple[str, ...], lanes: int) -> dict[str, int]:
    """``lanes`` dealt out to ``axes`` from the last on, none more than its extent needs."""
    sizes = {}
    for axis in reversed(axes):
        sizes[axis] = min(lanes, lanes_of(extent(kernel, axis)))
        lanes //= sizes[axis]
    return sizes


def _depths(kernel: Kernel, c: Contraction, unit: Unit) -> list[dict[str, int]]:
    """How much of each axis of depth a step takes: the last axis in pieces that leave little of a step empty, and of
    those before it as much as the least depth of an instruction needs."""
    *outer, last = c.depth
    length, least = extent(kernel, last), unit.least_depth
    if not c.on_unit:
        return [{**dict.fromkeys(outer, 1), last: min(_PLAIN_DEPTH, lanes_of(length))}]
    found: list[dict[str, int]] = []
    for wanted in (n // unit.size for n in _DEPTH_BYTES if n // unit.size >= _LEAST_DEPTH):
        lanes = min(max(wanted, least), lanes_of(length))
        taken = {last: lanes}
        for axis in reversed(outer):
            taken[axis] = 1
            while lanes < max(least, wanted // 2) and taken[axis] < extent(kernel, axis):
                taken[axis], lanes = taken[axis] * 2, lanes * 2
        if lanes < least:  # the whole depth is shorter than an instruction: the rest is padding
            taken[last] *= least // lanes
        if taken not in found:
            found.append(taken)
    return found
