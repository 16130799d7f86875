"""Schedules of reductions and elementwise kernels: rows and elements dealt out to programs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilewright.backends.cuda.schedules.extents import extent, lanes_of
from tilewright.kernel.apply import defines
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel, Store

#: Lanes of one program where nothing is reduced by a matrix unit, and lanes for one warp of it: 8 a thread.
_POINTWISE, _LANES_PER_WARP = 1024, 256
#: Reduced axes that together may have more lanes than the first are taken in pieces of the second.
_WHOLE, _PIECE = 8192, 32


def row_schedules(kernel: Kernel) -> Iterator[Schedule]:
    """Reduced axes whole, or in pieces where they may be too long for that and no output needs them whole; the other
    axes of the outputs in blocks, filled from the last axis on."""
    stores = [s.axes for s in kernel.body if isinstance(s, Store)]
    stored = list(dict.fromkeys(a for axes in stores for a in axes))
    reduced = list(dict.fromkeys(a for d in defines(kernel) if d.reduce is not None for a in d.reduce.axes))
    taken = math.prod(lanes_of(extent(kernel, a)) for a in reduced if a in stored)
    pieces: tuple[Loop, ...] = ()
    for axis in reversed([a for a in reduced if a not in stored]):
        lanes = lanes_of(extent(kernel, axis))
        if taken * lanes > _WHOLE:
            lanes = _PIECE if taken * _PIECE <= _WHOLE else 1
            pieces = (Loop(axis, lanes, "pipeline"), *pieces)
        taken *= lanes
    for target_lanes in (_POINTWISE, 4 * _POINTWISE, _POINTWISE // 4):
        sizes: dict[str, int] = {}
        lanes = taken
        for axes in stores:  # each output has a nest of its own, of the axes that those before it do not have
            room = max(1, target_lanes // taken)
            for axis in reversed([a for a in axes if a not in reduced and a not in sizes]):
                sizes[axis] = min(room, lanes_of(extent(kernel, axis)))
                room //= sizes[axis]
            lanes = max(lanes, taken * math.prod(sizes[a] for a in axes if a in sizes))
        loops = tuple(Loop(a, sizes[a], "block") for a in stored if a in sizes)
        warps = min(16, max(1, lanes_of(lanes // _LANES_PER_WARP)))
        extra = (("num_warps", warps), ("num_stages", 3 if pieces else 1))
        yield Schedule(loops, pieces, extra=extra)
