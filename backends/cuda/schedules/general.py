"""Schedules for kernels that no other fits: what varies along an axis in pieces is computed again at each use."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cuda.schedules.extents import extent, lanes_of
from tilewright.kernel.apply import defines
from tilewright.kernel.schedule import INLINE, Loop, LoopKind, Schedule
from tilewright.kernel.tile import Kernel, Scan, Store

#: Lanes of one program, over all its axes, and most lanes of an axis that is taken in pieces.
_LANES, _PIECE = 256, 16


def general_schedules(kernel: Kernel) -> Iterator[Schedule]:
    """First blocks over the axes of the outputs that nothing reduces; then one program for everything, which is what
    remains where a reduction is needed by outputs over different axes. Neither is fast."""
    scans = [s for s in kernel.body if isinstance(s, Scan)]
    kept = {tile for s in scans for pair in s.yields for tile in pair}
    inner = [s.axis for s in scans] + [a for d in defines(kernel) if d.reduce is not None for a in d.reduce.axes]
    stored = list(dict.fromkeys(a for s in kernel.body if isinstance(s, Store) for a in s.axes))
    room, reduce = _LANES, list[Loop]()
    for axis in reversed(list(dict.fromkeys(inner))):
        lanes = lanes_of(extent(kernel, axis))
        if lanes > room:
            lanes = min(room, _PIECE)
            reduce.insert(0, Loop(axis, lanes, "pipeline"))
        room //= lanes
    cut = {loop.axis for loop in reduce}
    again = [d for d in defines(kernel) if d.reduce is None and d.tile not in kept and not cut.isdisjoint(d.axes)]
    inline = tuple((d.tile, INLINE) for d in again)
    kinds: tuple[LoopKind, LoopKind] = ("block", "tile")
    for kind in kinds:
        left, loops = room, list[Loop]()
        for axis in reversed([a for a in stored if a not in inner]):
            size = min(left, lanes_of(extent(kernel, axis)))
            left //= size
            loops.insert(0, Loop(axis, size, kind))
        loops += [Loop(a, _PIECE, "tile") for a in stored if a in cut]
        yield Schedule(tuple(loops), tuple(reduce), spaces=inline, extra=(("num_warps", 4), ("num_stages", 1)))
