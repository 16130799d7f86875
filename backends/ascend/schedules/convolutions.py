"""Schedules of convolutions by image to column: tiles of output pixels of one image, columns, pieces of a window.

Candidates are ordered by an estimate of cycles, as products are: what the cube unit, the ways into L0 and the way into
L1 take beside each other, and what nothing hides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.convolution import DEPTH, RESIDENT
from tilewright.backends.ascend.placing.windows import Windows, windows_of
from tilewright.backends.ascend.schedules.products import roles_of, row_packs, used_once
from tilewright.ir.ranges import bounds
from tilewright.kernel.analysis import as_product
from tilewright.kernel.schedule import INLINE, Loop, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Columns of a block, whole fractals.
_COLUMNS = (256, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)
#: The most output pixels of a tile, and the fewest where an image has more.
_PIXELS, _FEWEST = 512, 16
#: Images of a batch that only a run tells, for estimates.
_USUAL = 8
#: Bytes of the weights of a piece, for one column: two pieces lie in L1 at a time.
_PIECES = (4096, 2048, 1024, 512, 256)
#: Products a cycle of the cube unit, of f16.
_RATE = 4096
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
    w, product = windows_of(kernel, define), as_product(define)
    if w is None or product is None:
        return
    roles = roles_of(kernel, define, product)
    if roles is None or roles.rows != w.rows or roles.columns != w.columns:
        return
    packs = (w.pack(w.weights.tensor, kernel), *row_packs(kernel, roles))
    spaces = tuple((tile, INLINE) for tile in used_once(kernel))
    store = next(s for s in kernel.body if isinstance(s, Store))
    ordered = sorted(_tilings(kernel, w, target), key=lambda f: f[0])
    for _, t in ordered[:_MOST]:
        sizes = {w.rows: t.pixels, w.columns: t.columns}
        loops = tuple(Loop(a, sizes.get(a, 1), "block") for a in store.axes)
        reduce = (Loop(w.channel, t.channels, "pipeline"),) if t.channels < w.channels else ()
        extra = ((RESIDENT, True),) if t.resident else ((DEPTH, t.depth),)
        yield Schedule(loops, reduce, packs=packs, spaces=spaces, extra=extra)


def _tilings(kernel: Kernel, w: Windows, target: Target) -> Iterator[tuple[float, _Tiling]]:
    size = w.load.dtype.bits // 8
    room, sums = target.memory["l1"].size, target.memory["l0c"].size
    total = kernel.extent(w.columns).value
    most = round_up(total, FRACTAL)
    for pixels in _divisors(w.pixels):
        bytes_of_pixel = w.high(pixels) * w.across.size * size
        if w.high(pixels) * w.across.size > 16384:
            continue
        channels = w.channels
        while 2 * bytes_of_pixel * (w.few or channels) > room // 2 and not w.few and channels % (2 * w.fine) == 0:
            channels //= 2
        image = 2 * bytes_of_pixel * (w.few or channels)
        if w.few and image // 2 % BLOCK_BYTES:
            continue
        for columns in (n for n in _COLUMNS if n <= most or n == FRACTAL):
            if 4 * round_up(pixels, FRACTAL) * columns > sums:
                continue
            depth, step = w.depth_of(channels), round_up(columns, FRACTAL) * size
            if columns >= total and channels == w.channels and image + depth * step + 4096 <= room:
                tiling = _Tiling(pixels, columns, channels, depth, True)
                yield _cycles(kernel, w, tiling, target), tiling
                continue
            for piece in _PIECES:
                lanes = min(depth, piece // size)
                if image + 2 * lanes * step + 4096 <= room:
                    tiling = _Tiling(pixels, columns, channels, lanes if lanes < depth else 0, False)
                    yield _cycles(kernel, w, tiling, target), tiling
                    break


def _divisors(pixels: int) -> list[int]:
    """Tiles that leave no rest of an image."""
    found = [n for n in range(1, min(pixels, _PIXELS) + 1) if pixels % n == 0]
    large = [n for n in found if n >= min(_FEWEST, found[-1])]
    return large or found


def _cycles(kernel: Kernel, w: Windows, t: _Tiling, target: Target) -> float:
    """Estimated cycles of the busiest core."""
    size = w.load.dtype.bits // 8
    clock = float(target.extra["clock_mhz"]) * 1e6
    rate = {m: target.memory[m].bandwidth / target.units / clock for m in ("l0a", "l0b", "l0c", "l1", "gm")}
    images = _images(kernel, w)
    blocks = images * (w.pixels // t.pixels) * -(-kernel.extent(w.columns).value // t.columns)
    rounds = -(-blocks // target.units)
    rows, columns = round_up(t.pixels, FRACTAL), round_up(t.columns, FRACTAL)
    depth = round_up(w.depth, w.fine)
    products = rows * columns * depth * size / 2 / _RATE
    into_l0 = _window_cycles(w, rows) * depth / w.fine + columns * depth * size / rate["l0b"]
    channels = w.few or w.channels
    image = w.high(t.pixels) * w.across.size * channels * size
    weights = columns * depth * size
    read = rounds * image + (weights if t.resident else rounds * weights)
    every = images * w.down.size * w.across.size * channels * size + kernel.extent(w.columns).value * depth * size
    cold = min(read, every / target.units)
    into_l1 = cold / rate["gm"] + (read - cold) / rate["l1"]
    out = 4 * rows * columns / rate["l0c"]
    exposed = out * (rounds if 8 * rows * columns > target.memory["l0c"].size else 1)
    first = (image + (weights if t.resident else min(weights, (t.depth or depth) * columns * size))) / rate["gm"]
    return max(rounds * max(products, into_l0), into_l1) + exposed + first


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
