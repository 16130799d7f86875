"""Schedules of windows that slide over an image without a matrix product in them: depthwise convolutions and pools.

A thread has a few channels of a pixel, which one access brings; the window is unrolled, so that all its reads are on
their way before the first is used. Neighbouring pixels find most of theirs in the L1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product as combinations

from tilewright.backends.cuda.schedules.extents import extent, lanes_of
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.kernel.analysis import loads_of
from tilewright.kernel.apply import defines
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel, Store

#: Positions of a window that are unrolled: more make long programs.
_UNROLLED = 64
#: Channels and pixels of a program: enough for a few accesses of each thread.
_CHANNELS, _LANES = (64, 128, 32), (1024, 512, 2048)
_LANES_PER_WARP = 256


def window_of(kernel: Kernel) -> Define | None:
    """The one reduction of ``kernel`` where it goes over a small window, along which its reads are apart in memory."""
    reductions = [d for d in defines(kernel) if d.reduce is not None]
    if len(reductions) != 1 or any(not isinstance(s, Define | Store) for s in kernel.body):
        return None
    (d,) = reductions
    assert d.reduce is not None
    stores = [s for s in kernel.body if isinstance(s, Store)]
    sizes = [kernel.extent(a) for a in d.reduce.axes]
    if not all(e.is_constant for e in sizes) or not 1 < math.prod(e.value for e in sizes) <= _UNROLLED:
        return None
    if any(set(s.axes) != set(stores[0].axes) for s in stores) or not stores[0].axes:
        return None
    last = symbol(stores[0].axes[-1])
    moving = [x for x in loads_of(d.value) if kernel.param(x.tensor).role != "const"]
    if not moving or any(not isinstance(x.index[-1], Expr) or x.index[-1] != last for x in moving):
        return None
    return d if all(_slides(x, d.reduce.axes) for x in moving) else None


def window_schedules(kernel: Kernel, window: Define) -> Iterator[Schedule]:
    """Channels along the lanes of a thread, then pixels; those that leave least of a program empty come first."""
    assert window.reduce is not None
    axes = next(s for s in kernel.body if isinstance(s, Store)).axes
    reduce = tuple(Loop(a, 1, "tile") for a in window.reduce.axes)
    packs = tuple(p for x in loads_of(window.value) if (p := _pack(kernel, x, axes[-1])) is not None)
    found: dict[Schedule, float] = {}
    for channels, lanes in combinations(_CHANNELS, _LANES):
        sizes, room = {}, lanes
        for n, axis in enumerate(reversed(axes)):
            # A size of a run (the images) may be 1: it is dealt out to programs alone.
            length = extent(kernel, axis) if kernel.extent(axis).is_constant else 1
            sizes[axis] = min(channels if n == 0 else room, lanes_of(length), room)
            room //= sizes[axis]
        taken = math.prod(sizes.values())
        padded = math.prod(-(-length // n) * n / length for a, n in sizes.items() for length in (extent(kernel, a),))
        warps = min(8, max(1, lanes_of(taken // _LANES_PER_WARP)))
        extra = (("num_warps", warps), ("num_stages", 1), ("unroll", True))
        schedule = Schedule(tuple(Loop(a, sizes[a], "block") for a in axes), reduce, packs=packs, extra=extra)
        found.setdefault(schedule, padded)
    yield from sorted(found, key=found.__getitem__)


def _slides(load: Load, reduced: tuple[str, ...]) -> bool:
    used = set().union(*(i.symbols for i in load.index[:-1] if isinstance(i, Expr)))
    return used.issuperset(reduced)


def _pack(kernel: Kernel, load: Load, last: str) -> Pack | None:
    """The layout of a filter with the channels together."""
    p = kernel.param(load.tensor)
    known = {a.name for a in kernel.axes}
    axes = [str(i) if isinstance(i, Expr) else "" for i in load.index]
    if p.role != "const" or load.fill is not None or not all(e.is_constant for e in p.shape):
        return None
    if any(a not in known and e != 1 for a, e in zip(axes, p.shape, strict=True)) or axes.count(last) != 1:
        return None
    order = sorted(range(len(axes)), key=lambda n: axes[n] == last)
    if order == list(range(len(axes))):
        return None
    return Pack(p.name, tuple(symbol(f"d{n}") for n in order), tuple(constant(p.shape[n].value) for n in order))
