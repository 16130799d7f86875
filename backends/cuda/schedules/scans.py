"""Schedules of scans: attention, whose rows stay in registers while keys and values pass by.

Prefill: a tile of rows a program, the axis of keys in a pipelined loop. Decode: the few rows that share keys and values
(a group of heads, some positions) are one tile, and the axis of keys is split over programs, since there is little else
to deal out; their partial results are merged (:mod:`tilewright.backends.cuda.arrival`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product as combinations

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.merging import merge_of
from tilewright.backends.cuda.schedules.costs import LATENCY
from tilewright.backends.cuda.schedules.extents import SHARES, dealt, extent, extent_at, lanes_of
from tilewright.backends.cuda.schedules.precision import Unit, precision_of, unit_of
from tilewright.ir.types import DType
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel, Scan, Store
from tilewright.target import Target

#: Rows of a tile (of the matrix instructions at least 16), positions of the scanned axis in a turn, warps.
_ROWS, _PIECES, _WARPS = (128, 64, 32, 16), (128, 64, 32), (4, 8, 2)
_STAGES = (3, 2, 4)
#: Rows that are one tile whatever their number, and so leave the scanned axis as the only thing to deal out.
_FEW = 16
#: Turns of the loop that are worth a program of their own, and most programs that share one tile of rows: the last of
#: them reads what all found.
_LEAST_TURNS, _MOST_PARTS = 2, 32
#: Programs for each multiprocessor that a split aims at: with two, one computes while the other waits.
_WAVES = 2
#: Sums of f32 in a tile: beyond, what is taken apart for tf32 and turned for the instruction made ptxas spill.
_LONG_SUMS = 4096
#: Rows of an instruction that reads both operands from shared memory.
_WIDE_ROWS = 64
#: Registers of a thread for sums and scores, and for scores, beyond which ptxas spilled: 255 in all.
_REGISTERS, _SCORES = 152, 32
#: Instructions for each score beside the products (scale, mask, exponential, sums, conversion): counted in SASS.
_SCORE_OPERATIONS = 14
#: Exponentials a clock and multiprocessor (CUDA C++ Programming Guide, Arithmetic Instructions: special functions).
_EXPONENTIALS = 16
#: Clocks of a turn that nothing overlaps where a multiprocessor has one program alone. An assumption.
_TURN = 250
#: Values of a piece that a thread holds where one row meets one piece. An assumption: two such tiles, and room.
_LONE_REGISTERS = 64
#: What it costs that warps have rows in common, and meet in shared memory for each row's maximum. An assumption.
_SHARED_ROWS = 1.5
#: Candidates told: a tuner compiles each.
_MOST = 24


@dataclass(frozen=True, slots=True)
class _Shape:
    """Axes of an attention: ``rows`` share keys and values, ``columns`` and ``depth`` are what is taken whole."""

    rows: tuple[str, ...]
    outer: tuple[str, ...]
    columns: int
    depth: int
    scanned: str
    unit: Unit
    precision: str


def scan_schedules(kernel: Kernel, scan: Scan, products: list[Contraction], target: Target) -> Iterator[Schedule]:
    """Tiles of rows by rising estimate of their time; of few rows, with the scanned axis split."""
    shape = _shape(kernel, scan, products, target)
    few = math.prod(extent(kernel, a) for a in shape.rows) <= _FEW
    found: list[tuple[float, Schedule]] = []
    for rows, piece, warps, stages in combinations((_FEW,) if few else _ROWS, _PIECES, _WARPS, _STAGES):
        sizes = dealt(kernel, shape.rows, rows)
        if piece > max(16, lanes_of(extent(kernel, scan.axis))) or not _fits(shape, rows, piece, warps, stages, target):
            continue
        order = [a for a in shape.outer if a not in shape.rows] + list(shape.rows)
        loops = tuple(Loop(a, sizes.get(a, 1), "block") for a in order)
        extra: list[tuple[str, int | str | bool]] = [("num_warps", warps), ("num_stages", stages)]
        if shape.precision and shape.precision != "ieee":
            extra.append(("precision", shape.precision))
        if few and merge_of(scan) is not None:
            extra += [(f"split:{scan.axis}", _MOST_PARTS), ("programs", _WAVES * target.units), ("least", _LEAST_TURNS)]
        schedule = Schedule(loops, (Loop(scan.axis, piece, "pipeline"),), extra=tuple(extra))
        found.append((_seconds(kernel, shape, sizes, (rows, piece, warps, stages), few, target), schedule))
    found.sort(key=lambda x: x[0])
    yield from (s for _, s in found[:_MOST])


def lone_scan_schedules(kernel: Kernel, scan: Scan, target: Target) -> Iterator[Schedule]:
    """Schedules of a scan whose rows share nothing, such as one query for each head with keys of its own.

    There is no matrix product: a program takes one row and a part of the scanned axis, whose values it holds as they
    come. Pieces by rising distance from what 64 registers of a thread hold.
    """
    top = scan.carries[0].axes
    stored = dict.fromkeys(a for s in kernel.body if isinstance(s, Store) for a in s.axes)
    loops = tuple(Loop(a, 1, "block") for a in stored if a in top)
    products = [d for d in scan.body if d.reduce is not None]
    whole = {a for d in products for a in (*d.axes, *(d.reduce.axes if d.reduce else ()))} - {scan.axis, *top}
    width = max((lanes_of(extent(kernel, a)) for a in whole), default=1)
    room = max(16, lanes_of(extent(kernel, scan.axis)))
    sizes = [(p, w) for p, w in combinations(_PIECES, _WARPS) if p <= room]
    for piece, warps in sorted(sizes, key=lambda x: abs(math.log2(x[0] * width / (x[1] * 32) / _LONE_REGISTERS))):
        extra: tuple[tuple[str, int | str | bool], ...] = (("num_warps", warps), ("num_stages", 2))
        split = (f"split:{scan.axis}", _MOST_PARTS), ("programs", _WAVES * target.units), ("least", _LEAST_TURNS)
        yield Schedule(loops, (Loop(scan.axis, piece, "pipeline"),), extra=(*extra, *split))


def _shape(kernel: Kernel, scan: Scan, products: list[Contraction], target: Target) -> _Shape:
    first = products[0]
    kept = {a for c in products for a in (*c.columns, *c.depth)} - {scan.axis}
    stored = dict.fromkeys(a for s in kernel.body if isinstance(s, Store) for a in s.axes)
    dtype = first.left.dtype
    precision = precision_of(dtype, target)
    return _Shape(
        rows=tuple(a for a in first.rows if a != scan.axis),
        outer=tuple(a for a in stored if a not in kept),
        columns=math.prod(lanes_of(extent(kernel, a)) for c in products[1:] for a in c.columns if a != scan.axis),
        depth=math.prod(lanes_of(extent(kernel, a)) for a in first.depth),
        scanned=scan.axis,
        unit=unit_of(first, precision, target),
        precision=precision if dtype is DType.F32 else "",
    )


def _fits(s: _Shape, rows: int, piece: int, warps: int, stages: int, target: Target) -> bool:
    """Whether what a turn holds fits the registers of a thread and buffers the memory of a block."""
    threads, long = 32 * warps, s.unit.size > 2
    # Sums, and scores with mask and probabilities beside them; f32 has what tf32 leaves of each besides. Queries
    # stay in registers, those of a warp's rows in each warp, unless the matrix unit reads them from shared memory.
    scores = rows * piece * (2 if long else 1)
    held = rows * s.columns * (7 if long else 4) // 4 + 2 * scores
    if rows < _WIDE_ROWS or not target.features & {"wgmma", "tcgen05"}:
        held += max(rows * s.depth, s.depth // 2 * threads) * s.unit.size // 4
    room = _REGISTERS * threads
    buffers = stages * piece * (s.depth + s.columns) + rows * (s.depth + piece)
    fits = held < room and scores <= _SCORES * threads
    if long and rows * s.columns > _LONG_SUMS:
        return False
    return fits and 8 * warps <= rows + _FEW and buffers * s.unit.size <= target.extra["shared_per_block"]


def _seconds(
    kernel: Kernel, s: _Shape, sizes: dict[str, int], tile: tuple[int, int, int, int], few: bool, target: Target
) -> float:
    """Predicted time, as the product over sizes that stand for the range of the symbols; for choosing only."""
    rows, piece, warps, stages = tile
    clock = float(target.extra["clock_hz"])
    rate = s.unit.operations / target.units / clock  # of a multiprocessor
    total = 1.0
    for share in SHARES:
        programs = math.prod(-(-extent_at(kernel, a, share) // sizes.get(a, 1)) for a in s.outer)
        turns = -(-extent_at(kernel, s.scanned, share) // piece)
        if few:
            parts = max(1, min(_MOST_PARTS, _WAVES * target.units // programs, turns // _LEAST_TURNS))
            programs, turns = programs * parts, -(-turns // parts)
        bytes_ = piece * (s.depth + s.columns) * s.unit.size
        work = max(
            2 * rows * piece * (s.depth + s.columns) / rate * (1 if rows >= 64 or not s.unit.matrix else 64 / rows / 2),
            rows * piece * _SCORE_OPERATIONS / 128,
            rows * piece / _EXPONENTIALS,
            bytes_ * target.units * clock / target.memory["global"].bandwidth / (1 if few else 4),
            # Little's law: no more than the other buffers are in flight.
            LATENCY / max(1, stages - 1),
        )
        together = max(1, min(programs // target.units, 16 // warps))
        if rows < 16 * warps and not few:
            work *= _SHARED_ROWS
        waves = -(-programs // (target.units * together))
        total *= waves * (LATENCY + turns * max(work * together, work + _TURN)) / clock
    return total
