"""How long a product takes under a tiling, predicted from a target's data: for choosing, never measured.

A multiprocessor takes the longest of three: its share of the products at the rate of its unit; its share of the bytes,
of which it has no more in flight than its blocks keep buffers for (Little's law); and the device's bytes at its
bandwidths. To this come, once for each wave of blocks, filling the first buffers and writing the results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.schedules.precision import Unit
from tilewright.ir.types import DType
from tilewright.kernel.analysis import loads_of, walk
from tilewright.kernel.expr import Load, Unary, Value
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Clocks from a read of global memory to its data on a loaded device. Not published; unloaded reads that miss the L2
#: took 400 to 600 clocks in microbenchmarks (Jia et al. 2018, table 3.1, of sm_70).
LATENCY = 600
#: The same for what the L2 has: 200 clocks (the same source, table 3.1).
_L2_LATENCY = 200
#: Clocks to start a kernel's blocks and to end them, beside latencies. An assumption.
_BLOCK = 300
#: Bytes a clock and multiprocessor from the L2 where a target's data states no bandwidth: those of sm_80
#: (NVIDIA A100 Tensor Core GPU Architecture: 5120 bytes a clock over 108 multiprocessors).
_L2_BYTES = 47
#: Registers of a thread beside accumulators: addresses, masks and operands. Seen in compiled kernels of each kind.
_OTHER_REGISTERS = 96
#: Registers for each element of a window that is copied by itself: its address and its mask, of several steps. As seen.
_SCATTERED = 5
#: Clocks of a step for its barrier and addresses. An assumption.
_STEP = 40
#: Operations a clock and multiprocessor of the ordinary units, of the smallest of the architectures.
_ORDINARY = 64
#: Bytes of each row that one instruction of mma takes.
_LEAST = 32
#: Results of a thread at the most where more is done with them than a sum or a comparison: an epilogue works on many at
#: once. Functions that are long programs.
_BUSY = 64
_LONG = frozenset("exp log log2 exp2 sin cos tan tanh erf sigmoid".split())
#: Elements of a tile for which the operands in shared memory are read as fast as the matrix unit works: below, it
#: waits in proportion. 128 bytes a clock and multiprocessor (CUDA C++ Programming Guide, Shared Memory).
_SHARED_BYTES = 128


#: Where symbols are taken to be, three times, as a power of the ratio of their range's ends. Short ranges are of
#: batches: a single one, which is what latency is asked of, a few, and many. Long ones are of lengths, whose limit
#: users come near. The choice is the best on (geometric) average. Assumptions.
_SHORT, _SHARES, _LONG_SHARES = 64, (0.0, 0.4, 0.8), (0.75, 0.75, 0.9)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is to be computed: extents of each axis at a few sizes that stand for the range of the symbols.

    Attributes:
        sizes: extents by axis, with the symbols at each of three points.
        results: bytes of the epilogue's reads and writes for an element of the result.
        busy: whether the epilogue holds many values at a time.
    """

    contraction: Contraction
    unit: Unit
    sizes: tuple[Mapping[str, int], ...]
    results: int
    busy: bool

    @staticmethod
    def of(kernel: Kernel, c: Contraction, unit: Unit) -> Shape:
        """That of a kernel around one product."""
        operands = {x.tensor for v in (c.left, c.right) for x in loads_of(v)}
        axes = {*c.rows, *c.columns, *c.batch}
        other = [p for p in kernel.params if p.name not in operands and len(p.shape) >= len(axes)]
        results = sum(p.dtype.bits for p in other) // 8
        points = [{a.name: extent_at(kernel, a.name, point) for a in kernel.axes} for point in range(len(_SHARES))]
        distinct = [p for n, p in enumerate(points) if p not in points[:n]]
        busy = len(other) > 2 or any(isinstance(v, Unary) and v.op in _LONG for v in _values(kernel))
        return Shape(c, unit, tuple(distinct), max(1, results), busy)


def _values(kernel: Kernel) -> Iterator[Value]:
    for s in kernel.body:
        if isinstance(s, Define | Store):
            yield from walk(s.value)


def extent_at(kernel: Kernel, axis: str, point: int) -> int:
    """The extent of ``axis`` at one of the points that stand for the range of the symbols."""
    symbols = {}
    for name, r in kernel.facts:
        ratio = r.hi / max(1, r.lo)
        share = (_SHARES if ratio <= _SHORT else _LONG_SHARES)[point]
        symbols[name] = max(1, round(max(1, r.lo) * ratio**share))
    return max(1, kernel.extent(axis).evaluate(symbols))


@dataclass(frozen=True, slots=True)
class Tiling:
    """Elements of each output axis in a tile, and of each axis of depth in a step; warps and buffers of a block; at
    most ``split`` programs for a tile, and ``programs`` in all, where the depth is split."""

    sizes: Mapping[str, int]
    depth: Mapping[str, int]
    warps: int
    stages: int
    split: int = 1
    programs: int = 1

    def lanes(self, axes: tuple[str, ...]) -> int:
        """Elements of a tile along ``axes`` together."""
        return math.prod(self.sizes.get(a, 0) or self.depth[a] for a in axes)


@dataclass(frozen=True, slots=True)
class Used:
    """What a block takes, and how many fit a multiprocessor."""

    shared: int
    registers: int
    blocks: int


def resources_of(shape: Shape, t: Tiling, target: Target) -> Used | None:
    """Predicted resources; ``None`` where a block does not fit, or would spill."""
    c, x = shape.contraction, target.extra
    rows, columns, depth = t.lanes(c.rows), t.lanes(c.columns), t.lanes(c.depth)
    threads = 32 * t.warps
    grouped = "wgmma" in target.features and shape.unit.matrix and rows >= 64 and t.warps % 4 == 0
    shared = (t.stages if grouped else t.stages - 1) * (rows + columns) * depth * shape.unit.size
    if grouped and shape.unit.halves:  # wgmma reads both halves of the columns there
        shared += 2 * columns * depth * shape.unit.size
    if not shape.unit.matrix:
        shared = max(shared, (rows + columns) * depth * shape.unit.size)
    # The result passes through shared memory on its way to rows of memory.
    shared = max(shared, rows * columns * 4)
    own = rows * columns // threads
    registers = own + _fragments(shape, t, grouped) + _OTHER_REGISTERS
    # An operand that is computed passes through registers whole, and unsigned bytes are summed there as well.
    sides = ((c.left, rows), (c.right, columns))
    computed = [lanes for x, lanes in sides if not isinstance(x, Load)]
    computed += [lanes for x, _ in sides if x.dtype is DType.U8 for _, lanes in sides]
    registers += sum(lanes * depth * shape.unit.size // (4 * threads) for lanes in computed)
    if shape.unit.size == 4 and sum(n > 1 for n in t.depth.values()) > 1:
        registers += _SCATTERED * rows * depth // threads
    if own > _BUSY and (shape.busy or computed or (t.split > 1 and not grouped)):
        return None
    if shared > x["shared_per_block"] or registers > x["registers_per_thread"]:
        return None
    if rows * columns < 32 * threads // 8 or (not shape.unit.matrix and rows * columns // threads > 64):
        return None
    blocks = min(
        x["shared_per_sm"] // (shared + 1024),
        x["registers_per_sm"] // (threads * registers),
        x["threads_per_sm"] // threads,
        x["blocks_per_sm"],
    )
    return Used(shared, registers, blocks) if blocks else None


def seconds(shape: Shape, t: Tiling, used: Used, target: Target) -> float:
    """The geometric mean of the predicted times at the sizes that stand for the range."""
    times = [seconds_at(shape, sizes, t, used, target) for sizes in shape.sizes]
    return math.exp(sum(map(math.log, times)) / len(times))


def seconds_at(shape: Shape, sizes: Mapping[str, int], t: Tiling, used: Used, target: Target) -> float:
    """The predicted time at given extents."""
    c, clock, units = shape.contraction, float(target.extra["clock_hz"]), target.units
    tiles = math.prod(-(-sizes[a] // t.sizes[a]) for a in (*c.batch, *c.rows, *c.columns))
    steps = math.prod(-(-sizes[a] // t.depth[a]) for a in c.depth)
    own = -(-steps // max(1, min(t.split, t.programs // tiles, steps)))
    split = -(-steps // own)
    rows, columns, depth = t.lanes(c.rows), t.lanes(c.columns), t.lanes(c.depth)
    blocks = tiles * split
    at_once = min(used.blocks, -(-blocks // units))
    share = -(-blocks // units)  # blocks of the busiest multiprocessor
    waves = -(-share // used.blocks)
    work = share * own * 2.0 * rows * columns * depth / (shape.unit.operations / units * efficiency(shape, t, target))
    work += share * own * (_STEP + _halving(shape, t)) / clock
    loaded = share * own * (rows + columns) * depth * shape.unit.size
    in_flight = at_once * max(1, t.stages - 1) * (rows + columns) * depth * shape.unit.size
    l2 = target.memory["l2"].bandwidth or _L2_BYTES * clock * units
    reading = loaded / min(l2 / units, in_flight / (LATENCY / clock))
    result = tiles * rows * columns * (shape.results + (8 * split if split > 1 else 0))
    memory = (_unique(shape, sizes) + result) / target.memory["global"].bandwidth
    fill = waves * (2 * LATENCY + _BLOCK) / clock
    if split > 1:  # its sums, the count, then all sums of a tile one after the other
        fill += (3 * LATENCY + split * (_L2_LATENCY + rows * columns * 4 / _L2_BYTES)) / clock
    return max(work, reading, memory) + fill


def splits_at_all(shape: Shape, t: Tiling) -> bool:
    """Whether tiles are so few at any of the points that they have several programs."""
    c = shape.contraction
    counts = [math.prod(-(-sizes[a] // t.sizes[a]) for a in (*c.batch, *c.rows, *c.columns)) for sizes in shape.sizes]
    return t.programs // min(counts) > 1


def band_of(shape: Shape, t: Tiling, used: Used, target: Target) -> int:
    """How many rows of tiles are computed together: those of which the programs at one time, in a square, read least.
    1 where there are no more rows or columns of tiles than that, or all operands stay in the L2 anyway."""
    c, sizes = shape.contraction, shape.sizes[-1]
    if sum(math.prod(sizes[a] for a in x) > t.lanes(x) for x in (c.rows, c.columns)) < 2 or len(c.rows) > 1:
        return 1
    if _unique(shape, sizes) < target.memory["l2"].size // 2:
        return 1
    at_once = target.units * used.blocks
    band = 1 << round(math.log2(max(1.0, math.sqrt(at_once * t.lanes(c.columns) / t.lanes(c.rows)))))
    tiles = -(-math.prod(sizes[a] for a in c.rows) // t.lanes(c.rows))
    return band if band < tiles else 1


def _halving(shape: Shape, t: Tiling) -> float:
    """Clocks of a step for what tf32x3 does on the ordinary units: three operations for each element of an operand in
    every warp that reads it, and one for each sum."""
    if not shape.unit.halves:
        return 0.0
    rows, columns, depth = (t.lanes(axes) for axes in _roles(shape.contraction))
    across, down = _warps(rows, t.warps)
    return (3 * depth * (rows * down + columns * across) + rows * columns) / _ORDINARY


def _roles(c: Contraction) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return c.rows, c.columns, c.depth


def efficiency(shape: Shape, t: Tiling, target: Target) -> float:
    """The share of the matrix unit's rate that operands from shared memory allow to this tile.

    Each warp (or the warpgroup, for wgmma) reads its operands of every step once from shared memory.
    """
    if not shape.unit.matrix:
        return 0.7
    rows, columns = t.lanes(shape.contraction.rows), t.lanes(shape.contraction.columns)
    across, down = _warps(rows, t.warps)
    mine = rows / across * (columns / down)
    read = rows / across + columns / down if rows < 64 or "wgmma" not in target.features else columns / down
    # Products of one byte read by a warp, against those the unit does while a byte comes from shared memory.
    clock = float(target.extra["clock_hz"])
    balance = shape.unit.operations / 2 / (target.units * clock) / (_SHARED_BYTES / shape.unit.size)
    least = min(1.0, rows / 16) * min(1.0, columns / 8)
    return least * min(1.0, mine / (read * balance)) * min(1.0, t.warps / 4)


def _warps(rows: int, warps: int) -> tuple[int, int]:
    """Into how many parts the warps of a block cut its rows and its columns."""
    across = 1
    while warps > 1 and rows // across >= 32 and warps > across * across:
        across *= 2
    return across, max(1, warps // across)


def _fragments(shape: Shape, t: Tiling, grouped: bool) -> int:
    """Registers of a thread for operands: none where wgmma reads them from shared memory, those of one instruction's
    depth for mma. Where a product is several (tf32x3), both halves of a whole step's operands were seen to stand there,
    and little else."""
    if grouped:
        return 0
    c = shape.contraction
    rows, columns, depth = t.lanes(c.rows), t.lanes(c.columns), t.lanes(c.depth)
    if not shape.unit.halves:
        return (rows + columns) * _LEAST // (4 * 32 * t.warps) * (2 if shape.unit.size == 4 else 1)
    across, down = _warps(rows, t.warps)
    return depth * (rows // across + columns // down) * shape.unit.size * 2 // (4 * 32) - (_OTHER_REGISTERS - 20)


def _unique(shape: Shape, sizes: Mapping[str, int]) -> int:
    """Bytes of the operands, each once."""
    c = shape.contraction
    batch, rows, columns, depth = (math.prod(sizes[a] for a in x) for x in (c.batch, c.rows, c.columns, c.depth))
    return batch * (rows + columns) * depth * shape.unit.size
