"""Schedules of products: tiles of rows and columns that fill the device and fit its shared memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product as combinations

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.schedules.extents import extent, has_unit, lanes_of
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Rows, columns and warps of a product's tile: a warpgroup computes 64 rows of wgmma, a warp 16 x 8 of mma.
_TILES = ((128, 256, 8), (128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 64, 4), (32, 32, 2))
#: The same for products without a matrix unit (f32 at full precision), where operands stay in registers.
_FMA_TILES = ((128, 64, 8), (64, 64, 8), (64, 64, 4), (32, 64, 4), (32, 32, 4), (16, 32, 2))


def product_schedules(kernel: Kernel, c: Contraction, target: Target) -> Iterator[Schedule]:
    """Tiles of rows and columns, ordered by an estimate of their time."""
    unit = has_unit(c.left, "ieee")
    size = c.left.dtype.bits // 8
    deep = c.depth[-1]
    depths = sorted(
        {min(d, max(16, lanes_of(extent(kernel, deep)))) for d in ((128 // size, 64 // size) if unit else (32, 16))},
        reverse=True,
    )
    candidates: list[tuple[float, Schedule]] = []
    for (rows, columns, warps), depth, stages in combinations(_TILES if unit else _FMA_TILES, depths, (3, 4, 2)):
        row_tiles = _split(kernel, c.rows, rows)
        column_tiles = _split(kernel, c.columns, columns)
        # The accumulator's registers of a thread; wgmma and tcgen05 read operands from shared memory, mma does not.
        room = 128 if target.features & {"wgmma", "tcgen05"} and unit else 64
        if rows * columns // (32 * warps) > room:
            continue
        if stages * (rows + columns) * depth * size > target.extra["shared_per_block"]:
            continue
        sizes = {**row_tiles, **column_tiles, **dict.fromkeys(c.batch, 1)}
        order = [*c.batch, *c.columns, *c.rows]  # neighbours share columns: those are the weights, and stay in L2
        loops = tuple(Loop(a, sizes[a], "block") for a in order)
        reduce = tuple(Loop(a, depth if a == deep else 1, "pipeline") for a in c.depth)
        extra = (("num_warps", warps), ("num_stages", stages))
        candidates.append((_cost(kernel, sizes, rows, columns, target), Schedule(loops, reduce, extra=extra)))
    candidates.sort(key=lambda x: x[0])
    yield from (s for _, s in candidates)


def _split(kernel: Kernel, axes: tuple[str, ...], lanes: int) -> dict[str, int]:
    """``lanes`` dealt out to ``axes`` from the last on, none more than its extent needs."""
    sizes = {}
    for axis in reversed(axes):
        sizes[axis] = min(lanes, lanes_of(extent(kernel, axis)))
        lanes //= sizes[axis]
    return sizes


def _cost(kernel: Kernel, sizes: dict[str, int], rows: int, columns: int, target: Target) -> float:
    """Waves of programs over the device times the work of one: its multiply-adds, and its reads at a sixteenth of
    their rate (the balance of tensor cores and shared memory from sm_80 on). The largest extents count."""
    programs = math.prod(-(-extent(kernel, a) // n) for a, n in sizes.items())
    waves = -(-programs // target.units)
    return waves * (rows * columns + 16 * (rows + columns))
