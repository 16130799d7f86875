"""Schedules of convolutions by image to column: tiles of output pixels of one image, columns, pieces of a window.

Candidates are ordered by an estimate of cycles, as products are: what the cube unit, the ways into L0 and the way into
L1 take beside each other, and what nothing hides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product as combinations

from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.convolution import DEPTH, RESIDENT
from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.placing.runs import slope
from tilewright.backends.ascend.placing.windows import DEPTHS, PIXELS, Windows, windows_of
from tilewright.backends.ascend.schedules.pace import RATE
from tilewright.backends.ascend.schedules.products import row_packs, used_once, vector_work
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.kernel.schedule import INLINE, Loop, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Columns of a block, whole fractals.
_COLUMNS = (256, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)
#: The most output pixels of a tile, and the fewest where an image has more.
_PIXELS, _FEWEST = 512, 16
#: Images of a batch that only a run tells, for estimates.
_USUAL = 8
#: Bytes of the weights of a piece, for one column, where not all of a slice of the image fit: two lie in L1 at a time.
_PIECES = (4096, 2048, 1024, 512, 256)
#: Bytes of L1 that biases may take.
_ROWS = 4096
#: Bytes of global memory that are read at once.
_LINE = 128
#: Cycles in which a piece of the weights reaches L1, where two are on the way: half of a transfer and its latency.
_WAY = 400
#: Cycles that the cube unit stands between pieces of the weights, and between slices of the image, in this model.
_PIECE, _SLICE = 60, 200
#: Cycles between one product and the next that adds to the same sums: latency, flags and a barrier.
_EACH = 30
#: Vector instructions, about, that turning a sum and bringing it in and out are.
_TURNED = 4
#: Cycles that vector cores stand between one sum and the next, in this model: latencies of a turn that nothing hides.
_HANDED = 600
_MOST = 12


@dataclass(frozen=True, slots=True)
class _Tiling:
    """``pixels × columns`` sums at a time over ``channels``; weights in pieces of ``depth``, or ``resident``."""

    pixels: int
    columns: int
    channels: int
    depth: int
    resident: bool


def convolution_schedules(kernel: Kernel, define: Define, target: Target) -> Iterator[Schedule]:
    """Tiles of output pixels by rising estimate of their time; none where the cube core has no such windows."""
    w = windows_of(kernel, define)
    if w is None:
        return
    packs = (w.pack(w.weights.tensor, kernel), *row_packs(kernel, w.columns))
    spaces = tuple((tile, INLINE) for tile in used_once(kernel))
    store = next(s for s in kernel.body if isinstance(s, Store))
    after = _instructions(kernel, define, w)
    ordered = sorted(_tilings(kernel, w, after, target), key=lambda f: f[0])
    for _, t in ordered[:_MOST]:
        sizes = {w.rows: t.pixels, w.columns: t.columns}
        loops = tuple(Loop(a, sizes.get(a, 1), "block") for a in store.axes)
        reduce = (Loop(w.channel, t.channels, "pipeline"),) if t.channels < w.channels else ()
        whole = t.depth >= w.depth_of(t.channels)
        extra = ((RESIDENT, True),) if t.resident else () if whole else ((DEPTH, t.depth),)
        yield Schedule(loops, reduce, packs=packs, spaces=spaces, extra=extra)


def _tilings(kernel: Kernel, w: Windows, after: float, target: Target) -> Iterator[tuple[float, _Tiling]]:
    """What fits L0C and L1: two slots of the image and of a piece of the weights, or all weights once."""
    size, room = w.load.dtype.bits // 8, target.memory["l1"].size - _ROWS
    for pixels, channels in combinations(_divisors(w.pixels), _channels(w)):
        count = w.high(pixels) * w.across.size
        image = 2 * count * (w.few or channels) * size
        if (
            count > PIXELS
            or not w.counted(pixels)
            or w.depth_of(channels) > DEPTHS
            or (w.few and image // 2 % BLOCK_BYTES)
        ):
            continue
        for columns in _columns(kernel, w):
            if 4 * round_up(pixels, FRACTAL) * columns > target.memory["l0c"].size:
                continue
            depth, one = w.depth_of(channels), columns * size
            whole = columns >= kernel.extent(w.columns).value and channels == w.channels
            pieces = [n for n in (depth, *(p // size for p in _PIECES)) if n <= depth and image + 2 * n * one <= room]
            tilings = [_Tiling(pixels, columns, channels, n, False) for n in pieces]
            if whole and image + depth * one <= room:
                tilings.append(_Tiling(pixels, columns, channels, depth, True))
            yield from ((_cycles(kernel, w, t, after, target), t) for t in tilings)


def _channels(w: Windows) -> list[int]:
    """Channels of the image that lie in L1 at a time: all, or halves of halves."""
    found = [w.channels]
    while not w.few and found[-1] % (2 * w.fine) == 0:
        found.append(found[-1] // 2)
    return found


def _columns(kernel: Kernel, w: Windows) -> list[int]:
    most = round_up(kernel.extent(w.columns).value, FRACTAL)
    return [n for n in _COLUMNS if n <= most]


def _divisors(pixels: int) -> list[int]:
    """Tiles that leave no rest of an image."""
    found = [n for n in range(1, min(pixels, _PIXELS) + 1) if pixels % n == 0]
    large = [n for n in found if n >= min(_FEWEST, found[-1])]
    return large or found


def _instructions(kernel: Kernel, define: Define, w: Windows) -> float:
    """Vector instructions behind a sum, about; 0 where it leaves L0C by rows as it is."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    flat = flat_index(kernel, store.tensor, tuple(i for i in store.index if isinstance(i, Expr)))
    turned = slope(flat, w.columns) != 1
    return vector_work(kernel, define) + (_TURNED if turned else 0)


def _cycles(kernel: Kernel, w: Windows, t: _Tiling, after: float, target: Target) -> float:
    """Estimated cycles of the busiest core. ``after``: vector instructions behind each sum."""
    size = w.load.dtype.bits // 8
    clock = float(target.extra["clock_mhz"]) * 1e6
    rate = {m: target.memory[m].bandwidth / target.units / clock for m in ("l0a", "l0b", "l0c", "l1", "gm")}
    images = _images(kernel, w)
    blocks = images * (w.pixels // t.pixels) * -(-kernel.extent(w.columns).value // t.columns)
    rounds = -(-blocks // target.units)
    rows, columns = round_up(t.pixels, FRACTAL), round_up(t.columns, FRACTAL)
    depth = round_up(w.depth, w.fine)
    products = _products(w, t, rows * columns * size / 2 / RATE, target)
    into_l0 = _window_cycles(w, rows) * depth / w.fine + columns * depth * size / rate["l0b"]
    channels = w.few or w.channels
    # Rows of a slice of the channels are read in whole lines.
    slices = round_up(t.channels * size, _LINE) / (t.channels * size) if t.channels < w.channels else 1.0
    image, weights = w.high(t.pixels) * w.across.size * channels * size * slices, columns * depth * size
    # What several blocks read comes from global memory once, from L2 otherwise.
    beside = -(-kernel.extent(w.columns).value // t.columns)
    once = {"image": 1 / beside, "weights": 1 / min(target.units if t.resident else blocks, blocks // beside)}
    rates = {name: 1 / (miss / rate["gm"] + (1 - miss) / rate["l1"]) for name, miss in once.items()}
    into_l1 = rounds * image / rates["image"] + (1 if t.resident else rounds) * weights / rates["weights"]
    sides = max(1, int(target.extra["subblocks"]))
    vector = after * rows * columns * 4 / sides / target.vector_bytes + (_HANDED if after else 0)
    if w.planar:  # the gathers of the vector cores, side by side: an offset of four bytes a lane
        repeats = w.high(t.pixels) * w.across.size * channels * 4 / sides / target.vector_bytes
        vector += repeats * target.extra["cycles"]["vector"]["gather"][0]
    into_l1 = max(into_l1, rounds * vector)
    out = 4 * rows * columns / rate["l0c"]
    # The cube core goes on when a sum has left L0C: what vector cores do with it is hidden, but for that of the last
    # block, which weighs less than the waits that every further block brings.
    exposed = out * (rounds if 8 * rows * columns > target.memory["l0c"].size else 1)
    # What the first product waits for: a slice of the image, and the weights that come with it.
    first = image * t.channels / w.channels / rates["image"] + columns * t.depth * size / rates["weights"]
    return max(rounds * max(products, into_l0), into_l1) + exposed + first


def _products(w: Windows, t: _Tiling, cycles: float, target: Target) -> float:
    """Cycles of the cube unit for a block, of which one element of a row of windows takes ``cycles``."""
    half = min(target.memory[s].size for s in ("l0a", "l0b")) // 2
    largest = max(round_up(t.pixels, FRACTAL), round_up(t.columns, FRACTAL))
    step = max(w.fine, half * 8 // w.load.dtype.bits // largest // w.fine * w.fine)
    total, depth = 0.0, w.depth_of(t.channels)
    for piece, times in ((t.depth, depth // t.depth), (depth % t.depth, 1)):
        one = round_up(piece, w.fine) * cycles + -(-piece // step) * _EACH
        total += times * (one if t.resident or not piece else max(one, _WAY) + _PIECE)
    slices = w.channels // t.channels
    return total * slices + (slices * _SLICE if slices > 1 else 0)


def _window_cycles(w: Windows, rows: int) -> float:
    """Cycles in which the windows of ``rows`` pixels reach L0A, for one column of fractals."""
    wide, stride = w.across.steps, w.across.stride
    lines = 1 + (FRACTAL - 1) / wide if wide % FRACTAL else 1.0
    one = (2 if stride == 1 else 2 * stride) if stride in (1, 2, 4, 8) else FRACTAL
    return rows / FRACTAL * min(FRACTAL, one + (lines if lines >= 2 else 2 * (lines - 1)))


def _images(kernel: Kernel, w: Windows) -> int:
    """Images of a batch: as many as there are, or as are usual."""
    most = bounds(kernel.param(w.load.tensor).shape[0], dict(kernel.facts))
    return max(1, most[0], min(most[1], _USUAL))
