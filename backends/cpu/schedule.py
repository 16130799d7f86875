"""Schedules of CPU kernels: a template for each class of kernel, filled in from the target and the known sizes.

Classes are told apart by what the body does, not by an operator's name: a scan (attention), a sum of products
(matrix products and convolutions), other reductions (softmax, normalization), and the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tilewright.backends.cpu.lanes import Vectorized, offset_of
from tilewright.backends.cpu.machine import codegen
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import Product, as_product, loads_of, used_symbols, walk
from tilewright.kernel.apply import apply
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule, ScheduleError, Stage
from tilewright.kernel.tile import Define, Kernel, Scan, Store
from tilewright.target import Target

#: Row tiles of one block of a contraction: their operand (8 × 14 rows of 1536 f32: 688 KB) stays in a 1 MiB L2.
ROW_TILES = 8
#: Elements of one block of an elementwise kernel: 64 KB a tensor, about 5 microseconds of work.
BLOCK_ELEMENTS = 16384
#: Elements of the scanned axis at a time: 14 rows of 256 f32 scores are 14 KB, which leaves L1 room for the operands.
SCAN_PIECE = 256


def schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Legal schedules of a kernel, best guess first; the last is always one block with everything whole."""
    for candidate in (*_candidates(kernel, target), Schedule()):
        try:
            apply(kernel, candidate)
        except ScheduleError:
            continue
        yield candidate


def _candidates(kernel: Kernel, target: Target) -> Iterable[Schedule]:
    scans = [s for s in kernel.body if isinstance(s, Scan)]
    if len(scans) == 1:
        yield from _scan(kernel, scans[0], target)
    for define in kernel.body:
        if isinstance(define, Define) and (product := as_product(define)) is not None and product.n:
            yield from _contraction(kernel, define, product, target)
    yield from _rows(kernel)


def _stored(kernel: Kernel) -> tuple[str, ...]:
    """Axes that every output has and no statement reduces: those that may be cut into blocks."""
    stores = [s for s in kernel.body if isinstance(s, Store)]
    bodies = [d for s in kernel.body for d in (s.body if isinstance(s, Scan) else (s,)) if isinstance(d, Define)]
    reduced = {a for d in bodies if d.reduce is not None for a in d.reduce.axes}
    reduced |= {s.axis for s in kernel.body if isinstance(s, Scan)}
    return tuple(a for a in stores[0].axes if a not in reduced and all(a in s.axes for s in stores))


def _most(kernel: Kernel, axis: str) -> int:
    """The largest possible extent of an axis."""
    return bounds(kernel.extent(axis), dict(kernel.facts))[1]


# -- sums of products ----------------------------------------------------------------------------------------------


def _contraction(kernel: Kernel, define: Define, product: Product, target: Target) -> Iterator[Schedule]:
    table = codegen(target)
    rows, panel = int(table["tile_rows"]), int(table["panel"])
    free = _stored(kernel)
    column, row = product.n[-1], product.m[-1] if product.m else None
    single = tuple(Loop(a, 1, "block") for a in free if a not in (column, row))
    packs = tuple(_packs(kernel, product.b, column, panel))
    stretches = not packs and not _unit_stride(kernel, product.b, column)
    blocks = list(single)
    if row in free:
        assert row is not None
        blocks.append(Loop(row, ROW_TILES * rows, "block", balanced=True))
    columns = [Loop(column, panel, "block")] if column in free else []
    tiles = [Loop(row, rows, "tile", balanced=True)] if row in free and row is not None and not stretches else []
    best = Schedule(loops=(*blocks, *columns, *tiles), packs=packs)
    yield best
    if columns:
        yield replace(best, loops=(*blocks, *tiles))
    yield replace(best, loops=single, packs=packs)
    yield replace(best, loops=single, packs=())


def _packs(kernel: Kernel, b: Value, column: str, panel: int) -> Iterator[Pack]:
    """Panels of a constant operand along its column dimension."""
    for load in loads_of(b):
        param = kernel.param(load.tensor)
        dims = [n for n, i in enumerate(load.index) if isinstance(i, Expr) and i == symbol(column)]
        if param.role == "const" and load.fill is None and len(dims) == 1 and len(param.shape) > 1:
            yield blocked(load.tensor, param.shape, dims[0], panel)


def _unit_stride(kernel: Kernel, v: Value, axis: str) -> bool:
    """Whether every load in ``v`` is f32 in memory order along ``axis``."""
    lane = Vectorized(axis, dict(kernel.facts), 1)
    for x in walk(v):
        if isinstance(x, Load):
            index = tuple(i for i in x.index if isinstance(i, Expr))
            if len(index) < len(x.index) or x.fill is not None or x.dtype is not DType.F32:
                return False
            if lane.stride(offset_of(kernel.param(x.tensor), index)) != 1:
                return False
    return True


# -- attention -----------------------------------------------------------------------------------------------------


def _scan(kernel: Kernel, scan: Scan, target: Target) -> Iterator[Schedule]:
    rows = int(codegen(target)["tile_rows"])
    products = [p for d in scan.body if (p := as_product(d)) is not None]
    free = _stored(kernel)
    row = next((a for p in products for a in reversed(p.m) if a in free), None)
    columns = {a for p in products for a in p.n}
    batch = tuple(a for a in free if a != row and a not in columns)
    blocks = tuple(Loop(a, 1, "block") for a in batch)
    reduce = (Loop(scan.axis, SCAN_PIECE),)
    stages = tuple(
        Stage(x.tensor, len(blocks), "l2")
        for p in products
        for x in loads_of(p.b)
        if p.n and not _unit_stride(kernel, x, p.n[-1])
    )
    tile = (Loop(row, rows, "tile", balanced=True),) if row is not None else ()
    yield Schedule(loops=blocks + tile, reduce=reduce, stages=stages)
    # An operand that cannot be staged once is copied for each tile of rows: fewer, larger ones.
    tall = (Loop(row, 4 * rows, "tile", balanced=True),) if row is not None else ()
    yield Schedule(loops=blocks + tall, reduce=reduce)
    yield Schedule(loops=blocks, reduce=reduce)


# -- the rest ------------------------------------------------------------------------------------------------------


def _rows(kernel: Kernel) -> Iterator[Schedule]:
    """Blocks of whole rows, about :data:`BLOCK_ELEMENTS` elements each."""
    free = _stored(kernel)
    axes = {a for s in kernel.body if isinstance(s, Store) for a in s.axes}
    axes |= {a for d in kernel.body if isinstance(d, Define) for a in (*d.axes, *used_symbols(d.value))}
    room = BLOCK_ELEMENTS
    for axis in (a.name for a in kernel.axes):
        if axis in axes and axis not in free:
            room = max(1, room // max(1, _most(kernel, axis)))
    loops: list[Loop] = []
    for axis in reversed(free):
        most = max(1, _most(kernel, axis))
        if most > room:
            loops.append(Loop(axis, max(1, room), "block"))
        room = max(1, room // most)
    yield Schedule(loops=tuple(reversed(loops)))


def choose(kernel: Kernel, target: Target) -> Schedule:
    """The best guess."""
    return next(schedules(kernel, target))
