"""Schedules of products with few rows: what they cost is reading the weights once; nothing else counts.

Bytes in flight: by Little's law a device with a latency of ``L`` seconds reads its ``B`` bytes a second only with
``B * L`` of them under way (sm_90: 3.35e12 B/s times 600 clocks at 1.98 GHz are 1.0 MB, 7.7 KB for each multiprocessor;
sm_80: 1.56e12 times 600 at 1.41 GHz, 6.1 KB). A program has ``stages - 1`` pieces of the weights under way while it
computes on another. Where columns alone do not make enough programs, the depth is split, and the parts are added in
order by the last program to arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product as combinations

from tilewright.backends.cuda.contraction import Contraction, contraction
from tilewright.backends.cuda.schedules.costs import LATENCY
from tilewright.backends.cuda.schedules.extents import SHARES, dealt, extent, extent_at, lanes_of
from tilewright.backends.cuda.schedules.precision import Unit, precision_of, unit_of
from tilewright.backends.cuda.schedules.weights import weight_packs
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import loads_of, refs_of
from tilewright.kernel.apply import defines
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Kernel, Scan
from tilewright.target import Target

#: Products with no more rows than this are bound by their weights on every target: 64 rows are 64 multiply-adds for an
#: element of 16 bits, and the matrix units do some 300 while one is read (sm_80: 312e12 / 2 / 1.56e12 * 2 = 200).
FEW_ROWS = 64
#: Columns of a tile, elements of depth in a turn, warps, buffers.
_COLUMNS, _DEPTHS, _WARPS, _STAGES = (64, 128, 32, 16), (64, 128, 32, 256), (4, 8, 2), (4, 5, 3, 2)
#: A group of depth with one scale is taken whole up to this: Triton overlaps the reads of an innermost loop only.
_GROUP = 128
#: Rows of a tile where all of them are too many for one.
_MANY_ROWS = (128, 64)
#: Least rows of a matrix instruction.
_LEAST_ROWS = 16
#: Programs for each multiprocessor that a split aims at, most parts of a sum, and turns that are worth a program.
_WAVES, _MOST_PARTS, _LEAST_TURNS = 2, 16, 2
#: Bytes that a tile takes of a row of weights at least: what the L2 fetches at a time (cudaLimitMaxL2FetchGranularity).
_ROW_BYTES = 64
#: Elements of a tile of weights in the registers of a thread.
_PER_THREAD = 64
#: Words of f32 operands and sums in a thread beyond which ptxas spilled where each operand is taken apart for tf32:
#: they and their two parts fill 255 registers.
_TAKEN_APART = 108
#: Clocks that a program takes to start and to end, and that adding up each part takes: assumptions.
_PROGRAM, _PART = 1000, 150
_MOST = 24


@dataclass(frozen=True, slots=True)
class Skinny:
    """A product of few rows, or one with ``blocks`` (an axis of groups, over which another sum adds up scaled ones).

    ``weight_bits`` are those of an element; ``deep``: its neighbours in memory are along the depth.
    """

    product: Contraction
    blocks: tuple[str, ...]
    weight_bits: int
    deep: bool = False


def skinny_of(kernel: Kernel) -> Skinny | None:
    """The one product of ``kernel`` where it has few rows, is of a vector, or has weights with a scale for each group;
    ``None`` otherwise."""
    reductions = [d for d in defines(kernel) if d.reduce is not None]
    if not reductions or any(isinstance(s, Scan) for s in kernel.body):
        return None
    define, *later = reductions
    c = contraction(define.axes, define.value, define.reduce)
    if c is None or len(later) > 1 or not (c.rows or c.columns):
        return None
    c = c if c.columns else replace(c, left=c.right, right=c.left, rows=c.columns, columns=c.rows)
    blocks = tuple(a for d in later if d.reduce and d.reduce.op == "sum" for a in d.reduce.axes if a in define.axes)
    weights = [kernel.param(x.tensor) for x in loads_of(c.right)]
    if len(blocks) != len(later) or not weights or refs_of(c.right) or set(c.batch) - set(blocks):
        return None
    if set(blocks) & {*c.rows, *c.columns} or (not blocks and _rows(kernel, c) > FEW_ROWS):
        return None
    last = [x.index[-1] for x in loads_of(c.right) if x.index]
    deep = any(isinstance(i, Expr) and bool(i.symbols & set(c.depth)) for i in last)
    return Skinny(c, blocks, max(p.dtype.bits for p in weights), deep)


def _rows(kernel: Kernel, c: Contraction) -> int:
    return math.prod(extent(kernel, a) for a in c.rows)


def skinny_schedules(kernel: Kernel, s: Skinny, target: Target) -> Iterator[Schedule]:
    """All rows in every program; columns and depth dealt out so that enough of the weights is under way."""
    c = s.product
    precision = precision_of(c.left.dtype, target)
    unit = unit_of(c, precision, target)
    # Of 8-bit weights, threads find the depth that an instruction takes of a column in one access, not byte by byte.
    size = s.weight_bits // 8 if s.weight_bits >= 8 else unit.size
    packs: tuple[Pack, ...] = weight_packs(kernel, c, replace(unit, size=size)) if c.rows and not s.blocks else ()
    whole = max(_LEAST_ROWS, lanes_of(_rows(kernel, c))) if c.rows else 1
    s = replace(s, deep=s.deep or bool(packs))
    choices = (whole,) if whole <= FEW_ROWS else _MANY_ROWS
    tiles = [
        tile
        for tile in combinations(choices, _COLUMNS, _DEPTHS, _WARPS, _STAGES)
        if _takes(kernel, s, unit, tile[2]) and _fits(s, *tile, unit.size, target)
    ]
    # Groups of depth that are taken whole may leave no tile that spills nothing.
    if unit.size > 2 and c.rows:
        tiles = [tile for tile in tiles if _words(tile) <= _TAKEN_APART] or tiles
    found: list[tuple[float, Schedule]] = []
    for rows, columns, depth, warps, stages in tiles:
        sizes = dealt(kernel, c.columns, columns) | dealt(kernel, c.rows, rows)
        loops = tuple(Loop(a, sizes[a], "block") for a in (*c.columns, *c.rows))
        inner = [*(Loop(a, 1, "pipeline") for a in s.blocks), *_turns(c, depth)]
        split = s.blocks[0] if s.blocks else c.depth[0]
        extra: list[tuple[str, int | str | bool]] = [("num_warps", warps), ("num_stages", stages)]
        if c.left.dtype is DType.F32 and c.rows and precision != "ieee":
            extra.append(("precision", precision))
        extra += [(f"split:{split}", _MOST_PARTS), ("programs", _WAVES * target.units), ("least", _LEAST_TURNS)]
        schedule = Schedule(loops, tuple(inner), packs=packs, extra=tuple(extra))
        found.append(
            (_seconds(kernel, s, sizes, (rows, columns, depth, warps, stages), unit.operations, target), schedule)
        )
    found.sort(key=lambda x: x[0])
    yield from dict.fromkeys(x for _, x in found[:_MOST])


def _takes(kernel: Kernel, s: Skinny, unit: Unit, depth: int) -> bool:
    """Whether the product has this much depth, and groups are taken whole where they can be."""
    most = max(unit.least_depth, lanes_of(extent(kernel, s.product.depth[-1])))
    return depth <= most and (not s.blocks or depth >= min(most, _GROUP))


def _words(tile: tuple[int, int, int, int, int]) -> int:
    """Operands and sums of a thread: warps share rows first, each holds its rows and columns to the whole depth."""
    rows, columns, depth, warps, _ = tile
    across = max(1, min(warps, rows // _LEAST_ROWS))
    return (rows * depth // across + columns * depth * across // warps + rows * columns // warps) // 32


def _turns(c: Contraction, depth: int) -> list[Loop]:
    *outer, last = c.depth
    return [*(Loop(a, 1, "pipeline") for a in outer), Loop(last, depth, "pipeline")]


def _fits(s: Skinny, rows: int, columns: int, depth: int, warps: int, stages: int, size: int, target: Target) -> bool:
    """Whether a turn keeps every thread at work, sums and weights fit its registers, and buffers the shared memory."""
    weights = columns * depth
    if not 4 * 32 * warps <= weights <= _PER_THREAD * 32 * warps or columns < 8 * (warps if rows > 1 else 1):
        return False
    if (depth if s.deep else columns) * s.weight_bits < 8 * _ROW_BYTES:
        return False
    buffers = stages * (weights * s.weight_bits // 8 + rows * depth * size) + weights * size
    return rows * columns <= _PER_THREAD * 32 * warps and buffers <= target.extra["shared_per_block"]


def _seconds(
    kernel: Kernel,
    s: Skinny,
    sizes: dict[str, int],
    tile: tuple[int, int, int, int, int],
    operations: float,
    target: Target,
) -> float:
    """Predicted time, as the product over sizes that stand for the range of the symbols; for choosing only."""
    rows, columns, depth, warps, stages = tile
    clock = float(target.extra["clock_hz"])
    piece = columns * depth * s.weight_bits / 8
    rate = target.memory["global"].bandwidth / target.units / clock  # bytes a clock for each multiprocessor
    c, total = s.product, 1.0
    for share in SHARES:
        programs = math.prod(-(-extent_at(kernel, a, share) // n) for a, n in sizes.items())
        turns = math.prod(extent_at(kernel, a, share) for a in s.blocks) * math.prod(
            -(-extent_at(kernel, a, share) // (depth if a == c.depth[-1] else 1)) for a in c.depth
        )
        parts = max(1, min(_MOST_PARTS, _WAVES * target.units // programs, turns // _LEAST_TURNS))
        programs, turns = programs * parts, -(-turns // parts)
        together = max(1, min(-(-programs // target.units), 48 // warps, 4))
        waves = programs / (target.units * together) if programs > target.units * together else 1.0
        flight = min(together, programs / target.units) * piece * (stages - 1)
        products = together * 2 * rows * columns * depth * target.units * clock / operations
        clocks = max(together * piece / min(rate, flight / LATENCY), products)
        total *= (_PROGRAM + LATENCY + waves * turns * clocks + (parts > 1) * (LATENCY + parts * _PART)) / clock
    return total
