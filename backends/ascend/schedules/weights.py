"""Products whose weights vector cores widen: packed layouts of those, and tiles by an estimate of the slowest pipe.

Weights lie in planes of 16 columns, one behind the other along the depth. What bounds a product of few rows is reading
them, so blocks of columns are dealt out evenly, and are as wide as that allows: a block ends with a meeting of both
kinds of core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.backends.ascend.placed.layout import FRACTAL, round_up
from tilewright.backends.ascend.placing.dequantized import Dequantized
from tilewright.backends.ascend.schedules.pace import RATE
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import Pack
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Rows and columns of a block, and lanes of depth in a slice.
_ROWS = (256, 208, 192, 160, 128, 112, 96, 80, 64, 48, 32, 16)
_COLUMNS = (256, 224, 192, 160, 128, 96, 64, 32)
DEPTHS = (512, 256, 128, 64)
#: In how many rounds blocks of few rows are dealt out, at most.
_ROUNDS = 4
#: Columns of the widest block: more leave L0B no room for two pieces of 16 lanes of depth.
_WIDEST = 1024
#: Slices that may be under way between the cores.
_SLOTS = 8
#: Pieces of a slice that the queue of the way to L0 has room for, of about eight statements each.
_PIECES = 4
#: Estimates whose logarithms are closer than this are taken to be the same: longer runs of memory go first then.
_CLOSE = 0.04
#: Bytes of a repeat of the vector unit.
_REPEAT = 256


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a product is of: ``others`` such products in one kernel; ``size`` bytes of an operand's element. ``vector``:
    vector cores finish the sums."""

    rows: int
    columns: int
    depth: int
    others: int
    size: int
    vector: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Sums of one block, and lanes of depth in one slice."""

    rows: int
    columns: int
    depth: int


def widened_blocks(sizes: Sizes, weights: Dequantized, target: Target) -> list[Block]:
    """Blocks by rising estimate of their time; none that L0C or L1 does not hold."""
    memory = target.memory
    found: list[tuple[float, Block]] = []
    most = round_up(sizes.rows, FRACTAL)
    for rows in [r for r in _ROWS if r <= most] or [FRACTAL]:
        for columns in _columns(sizes, rows, target):
            for depth in DEPTHS:
                block = Block(rows, columns, depth)
                l1 = 2 * (rows + columns) * depth * sizes.size
                if 4 * rows * columns <= memory["l0c"].size and l1 <= memory["l1"].size:
                    found.append((_cycles(sizes, block, weights, target), block))
    return [b for _, b in sorted(found, key=lambda f: (round(math.log(f[0]) / _CLOSE), -f[1].depth, f[0]))]


def _columns(sizes: Sizes, rows: int, target: Target) -> list[int]:
    """Columns of a block: as listed, and such that all blocks of so many rows are dealt out in few rounds."""
    blocks = -(-sizes.rows // rows) * sizes.others
    even = []
    for turns in range(1, _ROUNDS + 1):
        share = max(1, target.units * turns // blocks)
        even.append(round_up(-(-sizes.columns // share), 2 * FRACTAL))
    most = round_up(sizes.columns, 2 * FRACTAL)
    return sorted({c for c in (*_COLUMNS, *even) if c <= min(most, _WIDEST)} or {2 * FRACTAL}, reverse=True)


def _cycles(s: Sizes, b: Block, weights: Dequantized, target: Target) -> float:
    """The busiest group: its slices at the pace of the slowest pipe, or of two slots that wait for one another, and
    what nothing hides. Weights that another group has read come from L2."""
    table = target.extra["cycles"]
    cores = max(1, int(target.extra["subblocks"]))
    down = -(-s.rows // b.rows)
    blocks = -(-s.columns // b.columns) * down * s.others
    rounds = -(-blocks // target.units)
    lanes = b.columns * b.depth
    narrow = weights.integers.dtype.bits / 8 + sum(_bytes_a_weight(load, s.depth) for load in weights.loads[1:])
    rate = 1 / (cores / table["dram"] / down + (1 - 1 / down) / table["gm_ub"])
    into, vector = lanes * narrow / cores / rate, lanes / cores * _vector_cycles(weights, s.size, table)
    out = lanes * s.size / cores / table["ub_gm"]
    read = (lanes + b.rows * b.depth) * s.size / table["gm_l1"]
    into_l0 = b.depth * s.size * (b.rows / table["l1_l0a"] + b.columns / table["l1_l0b"])
    products = round_up(b.rows, FRACTAL) * lanes / RATE * s.size / 2
    latency, late = table["read_latency"], table["write_latency"]
    meeting = 2 * table["cross_latency"] + latency + late
    turns = ((into + vector + latency) / 2, (vector + out + late) / 2, (read + into_l0 + latency) / 2, meeting / _SLOTS)
    # A slice of many pieces fills the queue of the way to L0: what comes behind it is issued late.
    half = min(int(target.memory[m].size) for m in ("l0a", "l0b")) // 2
    piece = max(1, half // (s.size * max(b.rows, b.columns)) // FRACTAL) * FRACTAL
    queued = max(0.0, 1 - _PIECES * piece / b.depth)
    pace = max(into, vector, out, read + into_l0 * queued, into_l0, products, *turns)
    first = into + vector + out + read + into_l0 + meeting
    drained = 4 * b.rows * b.columns / table["l0c_out"]
    single = 8 * b.rows * b.columns > target.memory["l0c"].size
    ends = rounds * (first + 2 * drained) if s.vector else first + drained * (rounds if single else 1)
    return float(rounds * -(-s.depth // b.depth) * pace + ends)


def _bytes_a_weight(load: Load, depth: int) -> float:
    """Bytes of zero points or scales for each weight, taking one for 128 where it has groups at all."""
    return load.dtype.bits / 8 / (128 if len(load.index) > 1 else depth)


def _vector_cycles(weights: Dequantized, size: int, table: dict[str, dict[str, list[int]]]) -> float:
    """Cycles of a vector core for one weight: to f16 and zero points there, the rest in f32 where there is one."""
    steps = table["vector"]
    halves = steps["cast"][0] + (steps["sub"][0] if weights.zero is not None else 0)
    scales = steps["mul"][0] if weights.scale is not None else 0
    if size == 2 and weights.rounded is not DType.BF16:
        return (halves + scales) * 2 / _REPEAT
    return halves * 2 / _REPEAT + (2 * steps["cast"][1] + scales) * 4 / _REPEAT


def in_words(pack: Pack, depth: int) -> Pack:
    """``pack`` of integers of 4 bits for cores that take words apart: the four of a word are of four quarters of each
    slice of ``depth`` lanes."""
    plane, row, lane = pack.index
    inside, quarter = row % depth, depth // 4
    index = (plane, row // depth * quarter + inside % quarter, lane, inside // quarter)
    slices = constant(-(-pack.shape[1].value // depth) * quarter)
    return Pack(pack.tensor, index, (pack.shape[0], slices, constant(FRACTAL), constant(4)))


def widened_packs(kernel: Kernel, weights: Dequantized, depth: str, columns: str) -> Iterator[Pack]:
    """Packs of integers ``[depth, columns]``, of zero points and scales of groups of their rows or of whole columns;
    none where one of them is something else."""
    packs = [_pack(kernel, load, depth, columns) for load in weights.loads]
    if all(p is not None for p in packs) and _is_plain(kernel, weights.integers, depth, columns):
        yield from (p for p in packs if p is not None)


def _is_plain(kernel: Kernel, load: Load, depth: str, columns: str) -> bool:
    shape = kernel.param(load.tensor).shape
    return load.index == (symbol(depth), symbol(columns)) and shape[0] == kernel.extent(depth)


def _pack(kernel: Kernel, load: Load, depth: str, columns: str) -> Pack | None:
    param = kernel.param(load.tensor)
    constants = param.role == "const" and all(s.is_constant for s in param.shape)
    if not constants or not param.shape or param.shape[-1] != kernel.extent(columns):
        return None
    planes = ceildiv(param.shape[-1], FRACTAL)
    column = symbol(f"d{len(param.shape) - 1}")
    if load.index == (symbol(columns),):
        return Pack(param.name, (column // FRACTAL, ZERO, column % FRACTAL), (planes, constant(1), constant(FRACTAL)))
    if len(load.index) != 2 or load.index[1] != symbol(columns) or not _is_group(kernel, load, depth):
        return None
    whole = load.index[0] == symbol(depth)
    rows = constant(round_up(param.shape[0].value, FRACTAL)) if whole else param.shape[0]
    return Pack(param.name, (column // FRACTAL, symbol("d0"), column % FRACTAL), (planes, rows, constant(FRACTAL)))


def _is_group(kernel: Kernel, load: Load, depth: str) -> bool:
    """Whether rows of the tensor are equal groups of ``depth``, in order."""
    extent, count = kernel.extent(depth), kernel.param(load.tensor).shape[0]
    if not extent.is_constant or extent.value % count.value:
        return False
    wanted: Expr = symbol(depth) // (extent.value // count.value)
    return load.index[0] == wanted
