"""Schedules of products: tiles of rows and columns, how the depth is taken, and which of them should be fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product as combinations

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.schedules.costs import Shape, Tiling, resources_of, seconds
from tilewright.backends.cuda.schedules.extents import extent, lanes_of
from tilewright.backends.cuda.schedules.precision import precision_of, unit_of
from tilewright.backends.cuda.schedules.weights import weight_packs
from tilewright.ir.types import DType
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Rows, columns and warps of a product's tile: a warpgroup computes 64 rows of wgmma, a warp 16 x 8 of mma.
_TILES = (
    (128, 256, 8), (256, 128, 8), (128, 128, 8), (128, 128, 4), (128, 64, 4), (64, 256, 4), (64, 128, 4), (64, 64, 4),
    (32, 128, 4), (32, 64, 4), (32, 32, 4), (16, 128, 4), (16, 64, 4), (16, 32, 2), (16, 16, 1),
)  # fmt: skip
#: The same for products without a matrix unit (f64, f32 at full precision), where operands stay in registers.
_FMA_TILES = ((128, 64, 8), (64, 64, 8), (64, 64, 4), (32, 64, 4), (32, 32, 4), (16, 32, 2), (16, 16, 1))
#: Bytes of a row of depth in a tile: what one row of a swizzle holds, half of it, and a quarter.
_DEPTH_BYTES = (128, 64, 32)
#: The most candidates that are told: a tuner compiles each of them.
_MOST = 48


@dataclass(frozen=True, slots=True)
class _Candidate:
    seconds: float
    schedule: Schedule


def product_schedules(kernel: Kernel, c: Contraction, target: Target) -> Iterator[Schedule]:
    """Tiles of rows and columns, by rising estimate of their time."""
    precision = precision_of(c.left.dtype, target)
    unit = unit_of(c.left.dtype, precision, target)
    shape = Shape.of(kernel, c, unit)
    packs = weight_packs(kernel, c, unit)
    found: list[_Candidate] = []
    for (rows, columns, warps), depth in combinations(
        _TILES if unit.matrix else _FMA_TILES, _depths(kernel, c, unit.least_depth, unit.size)
    ):
        sizes = {**_split(kernel, c.rows, rows), **_split(kernel, c.columns, columns), **dict.fromkeys(c.batch, 1)}
        for stages in (4, 3, 2):
            tiling = Tiling(sizes, depth, warps, stages)
            used = resources_of(shape, tiling, target)
            if used is None:
                continue
            order = [*c.batch, *c.columns, *c.rows]  # neighbours share columns: those are the weights, and stay in L2
            loops = tuple(Loop(a, sizes[a], "block") for a in order)
            reduce = tuple(Loop(a, depth[a], "pipeline") for a in c.depth)
            extra: list[tuple[str, int | str | bool]] = [("num_warps", warps), ("num_stages", stages)]
            if c.left.dtype is DType.F32 and precision != "ieee":
                extra.append(("precision", precision))
            schedule = Schedule(loops, reduce, packs=packs, extra=tuple(extra))
            found.append(_Candidate(seconds(shape, tiling, used, target), schedule))
    found.sort(key=lambda x: x.seconds)
    yield from (x.schedule for x in found[:_MOST])


def _split(kernel: Kernel, axes: tuple[str, ...], lanes: int) -> dict[str, int]:
    """``lanes`` dealt out to ``axes`` from the last on, none more than its extent needs."""
    sizes = {}
    for axis in reversed(axes):
        sizes[axis] = min(lanes, lanes_of(extent(kernel, axis)))
        lanes //= sizes[axis]
    return sizes


def _depths(kernel: Kernel, c: Contraction, least: int, size: int) -> list[dict[str, int]]:
    """How much of each axis of depth a step takes: the last axis in pieces that leave little of a step empty, and of
    those before it as much as the least depth of an instruction needs."""
    *outer, last = c.depth
    length = extent(kernel, last)
    found: list[dict[str, int]] = []
    for wanted in (n // size for n in _DEPTH_BYTES):
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
