"""Schedules of reductions, elementwise kernels and movement: rows and elements dealt out to programs.

What they cost is memory, so the lanes of a tile follow it: axes whose neighbours are neighbours in memory, of what is
read and of what is written, come first. Where these are two axes (a transpose) the tile is square, and each access
is wide along its own; the layouts are exchanged in shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from tilewright.backends.cuda.schedules.extents import extent, lanes_of
from tilewright.ir.symbolic import Expr
from tilewright.kernel.analysis import index_symbols, loads_of, offset_of, refs_of
from tilewright.kernel.apply import defines
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Lanes of one program, best guess first, and those for one warp of it: 8 a thread, of 16 bits one access.
_GOALS, _LANES_PER_WARP = (1024, 4096, 256), 256
#: Reduced axes that together may have more lanes than the first are taken in pieces of the second.
_WHOLE, _PIECE = 8192, 2048
#: Lanes of each of two axes that both have neighbours in memory: of 16 bits, a line of 128 bytes.
_SQUARE = 64
#: The longest axis that is kept whole because it is reduced and then written: 128 registers of each of 512 threads.
_LONGEST = 65536
#: Programs for each multiprocessor that a split aims at, most parts of a sum, and turns that are worth a program.
_WAVES, _MOST_PARTS, _LEAST_TURNS = 2, 32, 2


@dataclass(frozen=True, slots=True)
class _Nest:
    """What one store computes: ``rows`` are axes that its reductions keep, ``free`` ones that they do not know, and
    ``near`` those with neighbours in memory, of the largest tensors first."""

    rows: tuple[str, ...]
    free: tuple[str, ...]
    whole: tuple[str, ...]
    reduced: tuple[str, ...]
    near: tuple[str, ...]


def row_schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Reduced axes whole, or in pieces where they may be too long for that; the other axes of the outputs in blocks."""
    stores = [s for s in kernel.body if isinstance(s, Store)]
    reduced = {a for d in defines(kernel) if d.reduce is not None for a in d.reduce.axes}
    nests = [_nest(kernel, s, reduced) for s in stores]
    whole = {a for n in nests for a in n.whole}
    axes = [a for s in stores for a in s.axes]
    if any(math.prod(lanes_of(extent(kernel, a)) for a in n.whole) > _LONGEST for n in nests):
        return
    for goal in _GOALS:
        loops: dict[str, int] = {}
        pieces: dict[str, int] = {}
        most = 1
        for nest in nests:
            sizes, cut = _sizes(kernel, nest, whole, goal)
            for axis, size in sizes.items():
                loops[axis] = min(size, loops.get(axis, size))
            pieces |= cut
            inside = [cut.get(a) or lanes_of(extent(kernel, a)) for a in {*nest.reduced, *nest.whole}]
            kept = math.prod(sizes[a] for a in nest.rows)
            most = max(most, kept * math.prod(inside), kept * math.prod(sizes[a] for a in nest.free))
        extra: list[tuple[str, int | str | bool]] = [("num_warps", min(16, max(1, lanes_of(most // _LANES_PER_WARP))))]
        extra.append(("num_stages", 3 if pieces else 1))
        if pieces and not any(n.free or n.whole for n in nests):
            first = next(iter(pieces))
            extra += [(f"split:{first}", _MOST_PARTS), ("programs", _WAVES * target.units), ("least", _LEAST_TURNS)]
        # Stores over different axes are nests of their own: what not all have is outside.
        order = sorted(loops, key=lambda a: (sum(a in s.axes for s in stores), axes.index(a)))
        blocks = tuple(Loop(a, loops[a], "block") for a in order)
        yield Schedule(blocks, tuple(Loop(a, n, "pipeline") for a, n in pieces.items()), extra=tuple(extra))


def _nest(kernel: Kernel, store: Store, held: Container[str]) -> _Nest:
    """``held`` are the axes that any nest reduces: none of them is cut."""
    cone = _cone(kernel, store)
    reductions = [d for d in cone if d.reduce is not None]
    reduced = tuple(dict.fromkeys(a for d in reductions if d.reduce for a in d.reduce.axes))
    kept = {a for d in reductions for a in d.axes}
    others = [a for a in store.axes if a not in held]
    return _Nest(
        rows=tuple(a for a in others if a in kept or not reductions),
        free=tuple(a for a in others if reductions and a not in kept),
        whole=tuple(a for a in store.axes if a in held),
        reduced=reduced,
        near=_near(kernel, store, cone),
    )


def _cone(kernel: Kernel, store: Store) -> list[Define]:
    """The definitions that ``store`` needs."""
    values = [store.value, *(i for i in store.index if not isinstance(i, Expr))]
    wanted = {r.tile for v in values for r in refs_of(v)}
    found = []
    for d in reversed(defines(kernel)):
        if d.tile in wanted:
            found.append(d)
            wanted |= {r.tile for r in refs_of(d.value)}
    return found


def _near(kernel: Kernel, store: Store, cone: Sequence[Define]) -> tuple[str, ...]:
    """Axes along which an access moves from one element to the next: the store's, then those of the largest reads."""
    target = kernel.param(store.tensor)
    found = [_step_axis(kernel, Load(target.name, store.index, target.dtype))]
    loads = {x for v in (store.value, *(d.value for d in cone)) for x in loads_of(v)}
    axes = {a.name for a in kernel.axes}
    spans = {x: math.prod(extent(kernel, a) for a in index_symbols(x.index) & axes) for x in loads}
    written = math.prod(extent(kernel, a) for a in store.axes)
    for load in sorted(loads, key=lambda x: (-spans[x], str(x))):
        if 4 * spans[load] >= written:  # smaller ones are found in a cache
            found.append(_step_axis(kernel, load))
    return tuple(dict.fromkeys(a for a in found if a is not None))


def _step_axis(kernel: Kernel, load: Load) -> str | None:
    if not all(isinstance(i, Expr) for i in load.index):
        last = load.index[-1]
        return str(last) if isinstance(last, Expr) and str(last) in {a.name for a in kernel.axes} else None
    offset = offset_of(kernel.param(load.tensor), tuple(i for i in load.index if isinstance(i, Expr)))
    for axis in kernel.axes:
        if axis.name in offset.symbols and extent(kernel, axis.name) > 1:
            try:
                if offset.coefficient(axis.name) in (1, -1):
                    return axis.name
            except ValueError:
                continue
    return None


def _sizes(kernel: Kernel, nest: _Nest, whole: Container[str], goal: int) -> tuple[dict[str, int], dict[str, int]]:
    """Lanes of the axes of a store's blocks, and of the reduced axes that are taken in pieces; ``whole`` are never."""
    inside = tuple(dict.fromkeys((*nest.reduced, *nest.whole)))
    lanes = {a: lanes_of(extent(kernel, a)) for a in (*nest.rows, *nest.free, *inside)}
    near = [a for a in nest.near if a in nest.rows]
    pieces: dict[str, int] = {}
    sizes: dict[str, int] = {}
    cuttable = bool(nest.reduced) and not any(a in whole for a in nest.reduced)
    across = cuttable and bool(near) and not set(nest.near) & set(nest.reduced)
    if across:  # columns are summed: neighbours in memory are columns, and some rows of them are taken at a time
        sizes[near[0]] = min(lanes[near[0]], _SQUARE)
        room = max(1, goal // sizes[near[0]])
        for axis in reversed(nest.reduced):
            if lanes[axis] > room:
                pieces[axis] = room
            room = max(1, room // lanes[axis])
    else:
        together = math.prod(lanes[a] for a in inside if a in whole)
        for axis in reversed([a for a in nest.reduced if a not in whole]):
            if together * lanes[axis] > _WHOLE:
                pieces[axis] = max(1, min(lanes[axis], _PIECE // together))
            together *= pieces.get(axis, lanes[axis])
    taken = math.prod([*(pieces.get(a, lanes[a]) for a in inside), *sizes.values()])
    room = max(1, goal // taken)
    if len(near) > 1 and not nest.reduced and not nest.whole:
        room = max(room, _SQUARE * _SQUARE)
    for axis in near:
        if axis not in sizes:
            sizes[axis] = min(room, lanes[axis], *([_SQUARE] if len(near) > 1 else []))
            room //= sizes[axis]
    for axis in reversed([a for a in nest.rows if a not in sizes]):
        sizes[axis] = min(room, lanes[axis])
        room //= sizes[axis]
    # What reductions do not know is taken whole, lest each block reduces again.
    sizes |= {a: min(lanes[a], _PIECE if lanes[a] > _WHOLE else lanes[a]) for a in nest.free}
    return sizes, {a: pieces[a] for a in nest.reduced if a in pieces}
