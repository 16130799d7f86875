"""The template of everything without a product: reductions, normalization, elementwise chains, movement."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cpu.templates.axes import cut, most, stored_axes
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.schedule import Loop, LoopKind, Schedule
from tilewright.kernel.tile import Define, Kernel, Store

#: Elements of a row tile between the steps of a normalization: 8 KB, so that a few of them and their rows stay in L1.
TILE_ELEMENTS = 2048
#: Elements of one block of an elementwise kernel: 64 KB a tensor, about 5 microseconds of work.
BLOCK_ELEMENTS = 16384


def rows(kernel: Kernel) -> Iterator[Schedule]:
    """Blocks of whole rows, about :data:`BLOCK_ELEMENTS` elements each; within one, as many rows at a time as stay near
    when a row is gone through more than once."""
    blocks = tuple(_pieces(kernel, BLOCK_ELEMENTS, "block"))
    size = {loop.axis: loop.size for loop in blocks}
    tiles = _pieces(kernel, TILE_ELEMENTS, "tile") if _returns(kernel) else ()
    yield Schedule(loops=(*blocks, *(t for t in tiles if t.size < size.get(t.axis, most(kernel, t.axis)))))


def _returns(kernel: Kernel) -> bool:
    """Whether a kernel reduces a row and then reads it again."""
    return any(isinstance(d, Define) and d.reduce is None for d in kernel.body) and any(
        isinstance(d, Define) and d.reduce is not None for d in kernel.body
    )


def _pieces(kernel: Kernel, room: int, kind: LoopKind) -> list[Loop]:
    """Loops over the axes that may be cut, outermost first, for about ``room`` elements inside them all."""
    free = _outer(kernel, stored_axes(kernel))
    axes = {a for s in kernel.body if isinstance(s, Store) for a in s.axes}
    axes |= {a for d in kernel.body if isinstance(d, Define) for a in (*d.axes, *used_symbols(d.value))}
    for axis in (a.name for a in kernel.axes):
        if axis in axes and axis not in free:
            room = max(1, room // max(1, most(kernel, axis)))
    return cut(kernel, free, room, kind)


def _outer(kernel: Kernel, free: tuple[str, ...]) -> tuple[str, ...]:
    """``free`` without what lies inside an axis that only some stores have: pieces of one tensor are stored whole rows
    at a time, as they lie in memory."""
    for store in (s for s in kernel.body if isinstance(s, Store)):
        partial = next((n for n, a in enumerate(store.axes) if a not in free), None)
        if partial is not None and not all(set(s.axes) == set(store.axes) for s in kernel.body if isinstance(s, Store)):
            free = tuple(a for a in free if a in store.axes[:partial])
    return free
