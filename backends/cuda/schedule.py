"""First schedules from target data: tiles that fill the device and fit its shared memory. Heuristics, not tuned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product as combinations

from tilewright.backends.cuda.contraction import Contraction, contraction
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import loads_of, used_symbols
from tilewright.kernel.apply import defines
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.schedule import Loop, Schedule, Stage
from tilewright.kernel.tile import Define, Kernel, Scan, Store
from tilewright.target import Target

#: Rows, columns and warps of a product's tile: a warpgroup computes 64 rows of wgmma, a warp 16 x 8 of mma.
_TILES = ((128, 256, 8), (128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 64, 4), (32, 32, 2))
#: The same for products without a matrix unit (f32 at full precision), where operands stay in registers.
_FMA_TILES = ((128, 64, 8), (64, 64, 8), (64, 64, 4), (32, 64, 4), (32, 32, 4), (16, 32, 2))
#: Lanes of one program where nothing is reduced by a matrix unit, and lanes for one warp of it: 8 a thread.
_POINTWISE, _LANES_PER_WARP = 1024, 256
#: A reduced axis that may be longer than the first is taken in pieces of the second.
_WHOLE, _PIECE = 8192, 32


def schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Candidates for ``kernel``, best guess first; each is complete (axes taken whole have their padded lanes)."""
    scan = next((s for s in kernel.body if isinstance(s, Scan)), None)
    products = [(d, c) for d in defines(kernel) if (c := _product(d)) is not None]
    if scan is not None and products:
        found: Iterable[Schedule] = _scans(kernel, scan, [c for _, c in products], target)
    elif products:
        found = _products(kernel, products[0][1], target)
    else:
        found = _pointwise(kernel)
    yield from dict.fromkeys(_whole(kernel, schedule) for schedule in found)


def precision_unit(left: Value, schedule_precision: str) -> bool:
    """Whether a matrix unit takes operands of this type; f32 needs the schedule to allow tf32."""
    return left.dtype not in (DType.F32, DType.F64) or schedule_precision == "tf32"


def _product(d: Define) -> Contraction | None:
    c = contraction(d.axes, d.value, d.reduce)
    return c if c is not None and c.rows and c.columns else None


def _extent(kernel: Kernel, axis: str) -> int:
    """The largest extent that ``axis`` may have."""
    return bounds(kernel.extent(axis), dict(kernel.facts))[1]


def _lanes(n: int) -> int:
    """The smallest power of two that holds ``n``."""
    return 1 << max(0, n - 1).bit_length()


# -- products ------------------------------------------------------------------------------------------------------


def _products(kernel: Kernel, c: Contraction, target: Target) -> Iterator[Schedule]:
    """Tiles of rows and columns, ordered by an estimate of their time."""
    unit = precision_unit(c.left, "ieee")
    size = c.left.dtype.bits // 8
    deep = c.depth[-1]
    depths = sorted(
        {min(d, max(16, _lanes(_extent(kernel, deep)))) for d in ((128 // size, 64 // size) if unit else (32, 16))},
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
        sizes[axis] = min(lanes, _lanes(_extent(kernel, axis)))
        lanes //= sizes[axis]
    return sizes


def _cost(kernel: Kernel, sizes: dict[str, int], rows: int, columns: int, target: Target) -> float:
    """Waves of programs over the device times the work of one: its multiply-adds, and its reads at a sixteenth of
    their rate (the balance of tensor cores and shared memory from sm_80 on). The largest extents count."""
    programs = math.prod(-(-_extent(kernel, a) // n) for a, n in sizes.items())
    waves = -(-programs // target.units)
    return waves * (rows * columns + 16 * (rows + columns))


# -- scans ---------------------------------------------------------------------------------------------------------


def _scans(kernel: Kernel, scan: Scan, products: list[Contraction], target: Target) -> Iterator[Schedule]:
    """Attention: a tile of rows in registers, the scanned axis in pieces, everything else one at a time."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    first = products[0]
    row = first.rows[-1]
    kept = {a for c in products for a in (*c.columns, *c.depth)} - {scan.axis}
    unit = precision_unit(first.left, "ieee")
    choices = (
        ((64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 3), (32, 32, 4, 2))
        if unit
        else ((32, 64, 8, 2), (64, 32, 8, 2), (16, 32, 4, 2))
    )
    still = tuple(x.tensor for x in loads_of(first.left) if scan.axis not in used_symbols(x) and _is_plain(kernel, x))
    for rows, piece, warps, stages in choices:
        loops = tuple(Loop(a, rows if a == row else 1, "block") for a in store.axes if a not in kept)
        reduce = (Loop(scan.axis, piece, "pipeline"),)
        stage = tuple(Stage(t, len(loops), "reg") for t in still)
        yield Schedule(loops, reduce, stage, extra=(("num_warps", warps), ("num_stages", stages)))


def _is_plain(kernel: Kernel, load: Load) -> bool:
    """Whether every index of ``load`` is an axis: only such reads can be staged."""
    return all(isinstance(i, Expr) and str(i) in {a.name for a in kernel.axes} for i in load.index)


# -- rows and elements ---------------------------------------------------------------------------------------------


def _pointwise(kernel: Kernel) -> Iterator[Schedule]:
    """Reduced axes whole, or in pieces where they may be too long for that and no output needs them whole; the other
    axes of the outputs in blocks, filled from the last axis on."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    reduced = list(dict.fromkeys(a for d in defines(kernel) if d.reduce is not None for a in d.reduce.axes))
    long = [a for a in reduced if a not in store.axes and _extent(kernel, a) > _WHOLE]
    pieces = tuple(Loop(a, _PIECE, "pipeline") for a in long)
    taken = math.prod(_PIECE if a in long else _lanes(_extent(kernel, a)) for a in reduced)
    for target_lanes in (_POINTWISE, 4 * _POINTWISE, _POINTWISE // 4):
        room, loops = max(1, target_lanes // taken), []
        for axis in reversed([a for a in store.axes if a not in reduced]):
            size = min(room, _lanes(_extent(kernel, axis)))
            room //= size
            loops.append(Loop(axis, size, "block"))
        lanes = taken * math.prod(loop.size for loop in loops)
        warps = min(16, max(1, _lanes(lanes // _LANES_PER_WARP)))
        extra = (("num_warps", warps), ("num_stages", 3 if pieces else 1))
        yield Schedule(tuple(reversed(loops)), pieces, extra=extra)


def _whole(kernel: Kernel, schedule: Schedule) -> Schedule:
    """``schedule`` with padded lanes for the axes that it takes whole and that are no power of two."""
    cut = {loop.axis for loop in (*schedule.loops, *schedule.reduce)}
    extra = [
        (f"whole:{a.name}", _lanes(_extent(kernel, a.name)))
        for a in kernel.axes
        if a.name not in cut and not (a.extent.is_constant and a.extent.value == _lanes(a.extent.value))
    ]
    return replace(schedule, extra=(*schedule.extra, *extra))
