"""The template of everything without a product: reductions, normalization, elementwise chains, movement."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cpu.templates.axes import most, stored_axes
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Define, Kernel, Store

#: Elements of one block of an elementwise kernel: 64 KB a tensor, about 5 microseconds of work.
BLOCK_ELEMENTS = 16384


def rows(kernel: Kernel) -> Iterator[Schedule]:
    """Blocks of whole rows, about :data:`BLOCK_ELEMENTS` elements each."""
    free = stored_axes(kernel)
    axes = {a for s in kernel.body if isinstance(s, Store) for a in s.axes}
    axes |= {a for d in kernel.body if isinstance(d, Define) for a in (*d.axes, *used_symbols(d.value))}
    room = BLOCK_ELEMENTS
    for axis in (a.name for a in kernel.axes):
        if axis in axes and axis not in free:
            room = max(1, room // max(1, most(kernel, axis)))
    loops: list[Loop] = []
    for axis in reversed(free):
        longest = max(1, most(kernel, axis))
        if longest > room:
            loops.append(Loop(axis, max(1, room), "block"))
        room = max(1, room // longest)
    yield Schedule(loops=tuple(reversed(loops)))
