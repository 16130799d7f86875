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
#: A reduced axis that may be longer than the first is taken in pieces of the second.
_WHOLE, _PIECE = 8192, 32


def row_schedules(kernel: Kernel) -> Iterator[Schedule]:
    """Reduced axes whole, or in pieces where they may be too long for that and no output needs them whole; the other
    axes of the outputs in blocks, filled from the last axis on."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    reduced = list(dict.fromkeys(a for d in defines(kernel) if d.reduce is not None for a in d.reduce.axes))
    long = [a for a in reduced if a not in store.axes and extent(kernel, a) > _WHOLE]
    pieces = tuple(Loop(a, _PIECE, "pipeline") for a in long)
    taken = math.prod(_PIECE if a in long else lanes_of(extent(kernel, a)) for a in reduced)
    for target_lanes in (_POINTWISE, 4 * _POINTWISE, _POINTWISE // 4):
        room, loops = max(1, target_lanes // taken), []
        for axis in reversed([a for a in store.axes if a not in reduced]):
            size = min(room, lanes_of(extent(kernel, axis)))
            room //= size
            loops.append(Loop(axis, size, "block"))
        lanes = taken * math.prod(loop.size for loop in loops)
        warps = min(16, max(1, lanes_of(lanes // _LANES_PER_WARP)))
        extra = (("num_warps", warps), ("num_stages", 3 if pieces else 1))
        yield Schedule(tuple(reversed(loops)), pieces, extra=extra)
