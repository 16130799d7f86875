"""Schedules of kernels without products: blocks for the vector cores, of many sizes.

What such kernels cost is transfers, so tiles go along memory: the axis that most accesses are contiguous along comes
first, then what is reduced, then the other axes of the outputs. Rows too long for the buffer are taken in pieces, and
what varies along them is computed again for each use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.schedules.estimate import usual_dims
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.kernel.analysis import loads_of, used_symbols
from tilewright.kernel.apply import defines
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import INLINE, Loop, LoopKind, Schedule
from tilewright.kernel.tile import Kernel, Scan, Store
from tilewright.target import Target

#: Elements of a tile: 4096 of f32 are one transfer of 16 KB, from where on they run at full speed.
_GOALS = (16384, 12288, 8192, 4096, 2048, 1024, 256)
#: In how many turns a core may do its part, all cores having as much to do: tiles are as large as that makes them, too.
_ROUNDS = (1, 2, 3, 4, 6)
#: Elements of a piece of a row that does not fit whole.
_PIECES = (4096, 1024, 128)
#: The longest rows that are tried whole.
_WHOLE = 32768
#: Lanes of each of two axes that both have neighbours in memory.
_SQUARE = 64
#: Elements that one turn of a scan reads of each tensor, and steps of the scan that it takes.
_TURN = 16384
_TURNS = (128, 96, 64, 48, 32, 16)
#: Lanes of another axis that a turn takes where a scan has only one.
_LANES = (8, 4, 2, 1)
#: Elements of 16 bits in 32 bytes.
_GRANULE = 16
#: Bits in as many bytes.
_BLOCK_BITS = 256
#: Elements below which a tile is not divided for the sake of more cores: a transfer of 2 KB.
_LEAST = 512


def vector_schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Candidates, those with the largest tiles first."""
    shape = _Shape(kernel)
    scanned = [s.axis for s in kernel.body if isinstance(s, Scan)]
    turns = list(dict.fromkeys(_scanned(shape, scanned)))
    yield from turns
    whole = math.prod(shape.extent(a) for a in (shape.reduced & shape.stored) | set(scanned))
    seen: set[Schedule] = set()
    if whole <= _WHOLE and not turns:
        cores = int(target.extra["vector_cores"])
        for goal in sorted({*_GOALS, *_even(shape, cores)}, reverse=True):
            schedule = _whole_rows(shape, goal, target)
            if schedule not in seen:
                seen.add(schedule)
                yield schedule
    if "copy_pad" not in target.features:
        yield from _whole_stores(shape)
    for piece in _PIECES:
        schedule = _in_pieces(shape, piece)
        if schedule not in seen:
            seen.add(schedule)
            yield schedule


@dataclass(frozen=True)
class _Shape:
    """What the axes of a kernel are for."""

    kernel: Kernel

    def extent(self, axis: str) -> int:
        """The largest extent of ``axis``."""
        return max(1, bounds(self.kernel.extent(axis), dict(self.kernel.facts))[1])

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """Elements over all axes, for each of the sizes that open dimensions are taken to have."""
        extents = [self.kernel.extent(a) for a in sorted(self.names)]
        return tuple(math.prod(max(1, e.evaluate(dims)) for e in extents) for dims in usual_dims(self.kernel))

    @cached_property
    def stores(self) -> list[Store]:
        return [s for s in self.kernel.body if isinstance(s, Store)]

    @cached_property
    def granule(self) -> int:
        """Rows, or elements, of any number of which the outputs have whole blocks of 32 bytes."""
        narrow = min((max(8, self.kernel.param(s.tensor).dtype.bits) for s in self.stores), default=16)
        return max(_GRANULE, _BLOCK_BITS // narrow)

    @cached_property
    def stored(self) -> frozenset[str]:
        return frozenset(a for s in self.stores for a in s.axes)

    @cached_property
    def reduced(self) -> frozenset[str]:
        inner = [a for d in defines(self.kernel) if d.reduce is not None for a in d.reduce.axes]
        return frozenset([*inner, *(s.axis for s in self.kernel.body if isinstance(s, Scan))])

    @cached_property
    def accesses(self) -> list[Load]:
        """Every read, and every store as if it were one."""
        values = [*(d.value for d in defines(self.kernel)), *(s.value for s in self.stores)]
        reads = [x for v in values for x in loads_of(v)]
        made = [Load(s.tensor, s.index, self.kernel.param(s.tensor).dtype) for s in self.stores]
        return [*made, *reads]

    @cached_property
    def near(self) -> tuple[str, ...]:
        """Axes along which accesses step from one element to the next, those of most elements first."""
        votes: dict[str, int] = {}
        for access in self.accesses:
            axis = self.along(access)
            if axis is not None:
                size = math.prod(self.extent(a) for a in _axes_of(access) & self.names)
                votes[axis] = votes.get(axis, 0) + size
        most = max(votes.values(), default=0)
        found = [a for a in votes if 8 * votes[a] >= most]
        return tuple(sorted(found, key=lambda a: (-votes[a], a)))

    def along(self, access: Load) -> str | None:
        """The axis along which an access steps from one element to the next."""
        index = tuple(i if isinstance(i, Expr) else Expr(()) for i in access.index)
        flat = flat_index(self.kernel, access.tensor, index)
        for axis in self.kernel.axes:
            if axis.name in flat.symbols and self.extent(axis.name) > 1 and axis.name not in self.narrow:
                try:
                    if flat.coefficient(axis.name) == 1:
                        return axis.name
                except ValueError:
                    continue
        return None

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(a.name for a in self.kernel.axes)

    @cached_property
    def narrow(self) -> frozenset[str]:
        """Axes that have to be taken one lane at a time: accesses do not go along them in equal steps, or they share a
        bounded index with another axis."""
        found: set[str] = set()
        for access in self.accesses:
            for i in access.index:
                if not isinstance(i, Expr):
                    continue
                here = [a for a in sorted(i.symbols & self.names) if self.extent(a) > 1]
                found |= {a for a in here if not _linear(i, a)}
                if access.fill is not None and len(here) > 1:
                    kept = next((a for a in here if a not in self.reduced), here[-1])
                    found |= {a for a in here if a != kept}
        return frozenset(found)


def _scanned(shape: _Shape, scanned: list[str]) -> Iterator[Schedule]:
    """Pieces of the axis of a scan whose rows are taken whole: those that each turn reads, and, where it is short, of
    several lanes of what has no neighbours in memory."""
    if len(scanned) != 1 or scanned[0] in shape.near:
        return
    (axis,) = scanned
    rows = {a: shape.extent(a) for a in shape.near if a not in shape.narrow}
    room = _TURN // max(rows.values(), default=1)
    others = [a.name for a in shape.kernel.axes if a.name in shape.stored - rows.keys() - shape.narrow]
    for piece in _TURNS:
        if not 0 < piece <= room:
            continue
        for lanes in _LANES if piece >= shape.extent(axis) and others else (1,):
            if lanes * min(piece, shape.extent(axis)) > room:
                continue
            sizes = dict.fromkeys(shape.names, 1) | rows | {axis: min(piece, shape.extent(axis))}
            if others:
                sizes[others[-1]] = min(lanes, shape.extent(others[-1]))
            yield Schedule(_blocks(shape, sizes), _reduce(shape, sizes, frozenset()))


def _axes_of(access: Load) -> frozenset[str]:
    return used_symbols(access)


def _linear(index: Expr, axis: str) -> bool:
    try:
        return index.coefficient(axis).is_constant
    except ValueError:
        return False


def _whole_rows(shape: _Shape, goal: int, target: Target) -> Schedule:
    """Reduced axes whole where they are stored too, else as far as ``goal`` elements go; the rest in blocks. Where
    whole blocks of 32 bytes leave, a core takes rows by the block, so that what it stores begins at one."""
    kernel, cores = shape.kernel, int(target.extra["vector_cores"])
    granule = 1 if "copy_pad" in target.features else shape.granule
    both = shape.reduced & shape.stored
    goal = min(goal, max(_LEAST, -(-max(shape.totals) // cores)))
    sizes: dict[str, int] = {a: shape.extent(a) for a in both}
    room = max(1, goal // math.prod(sizes.values()))
    free = [a for a in shape.near if a not in both and a not in shape.narrow]
    square = len([a for a in shape.near if a not in shape.narrow]) > 1 and not shape.reduced
    for axis in free:
        most = max(_SQUARE, math.isqrt(goal) // _SQUARE * _SQUARE) if square else room
        sizes[axis] = _rounded(min(shape.extent(axis), most, max(room, _GRANULE)))
        if granule > 1:  # and no piece of a row is less than 32 bytes where it need not be cut
            whole = shape.extent(axis) <= most and axis == free[0]
            sizes[axis] = shape.extent(axis) if whole else min(shape.extent(axis), _up(sizes[axis], granule))
        room = max(1, room // sizes[axis])
    inner = [a.name for a in reversed(kernel.axes)]
    for axis in [a for a in inner if a in shape.reduced] + [a for a in inner if a not in shape.reduced]:
        if axis in sizes:
            continue
        lanes = _up(room, granule) if room > 1 and axis not in shape.reduced else room
        sizes[axis] = 1 if axis in shape.narrow else min(shape.extent(axis), lanes)
        room = max(1, room // sizes[axis])
    return Schedule(_blocks(shape, sizes), _reduce(shape, sizes, both))


def _whole_stores(shape: _Shape) -> Iterator[Schedule]:
    """Rows of the outputs whole, and no more of anything else than makes whole blocks of 32 bytes."""
    along = {shape.along(access) for access in shape.accesses[: len(shape.stores)]}
    last = along.pop()
    if shape.reduced or along or last is None:
        return
    sizes = dict.fromkeys(shape.names, 1)
    sizes[last] = shape.extent(last)
    for axis in [a for a in shape.near if a != last][:1]:
        sizes[axis] = min(shape.extent(axis), shape.granule)
    if sizes[last] <= _GOALS[0] // shape.granule:
        yield Schedule(_blocks(shape, sizes))


def _up(lanes: int, granule: int) -> int:
    return -(-lanes // granule) * granule


def _even(shape: _Shape, cores: int) -> Iterator[int]:
    """Elements of tiles of whole rows that are dealt out to cores evenly."""
    row = math.prod(shape.extent(a) for a in shape.reduced & shape.stored or shape.near[:1])
    for total in shape.totals:
        rows = total // row
        yield from (row * -(-rows // (cores * rounds)) for rounds in _ROUNDS if rows >= cores * rounds)


def _rounded(lanes: int) -> int:
    """Lanes in whole repeats of f32 where there are more than one."""
    return lanes // _SQUARE * _SQUARE if lanes > _SQUARE else lanes


def _blocks(shape: _Shape, sizes: Mapping[str, int]) -> tuple[Loop, ...]:
    order: list[str] = []
    for store in sorted(shape.stores, key=lambda s: len(s.axes)):
        order += [a for a in store.axes if a not in order]
    order = [a for a in order if a not in shape.reduced]
    shared = {a: sum(a in s.axes for s in shape.stores) for a in order}
    order.sort(key=lambda a: -shared[a])
    return tuple(Loop(a, sizes[a], "block") for a in order if sizes[a] < shape.extent(a) or _is_open(shape, a))


def _is_open(shape: _Shape, axis: str) -> bool:
    return not shape.kernel.extent(axis).is_constant


def _reduce(shape: _Shape, sizes: Mapping[str, int], both: frozenset[str]) -> tuple[Loop, ...]:
    axes = [a.name for a in shape.kernel.axes if a.name in shape.reduced and a.name not in both]
    return tuple(Loop(a, sizes[a], "pipeline") for a in axes if sizes[a] < shape.extent(a))


def _in_pieces(shape: _Shape, piece: int) -> Schedule:
    """Every reduced axis in pieces; what varies along one is computed again at each use."""
    kernel = shape.kernel
    scans = [s for s in kernel.body if isinstance(s, Scan)]
    kept = {tile for s in scans for pair in s.yields for tile in pair}
    sizes: dict[str, int] = {}
    room = piece
    last = [a for a in shape.near if a not in shape.narrow][:1]
    inner = [a.name for a in reversed(kernel.axes)]
    for axis in dict.fromkeys([*last, *(a for a in inner if a in shape.reduced), *inner]):
        sizes[axis] = 1 if axis in shape.narrow else _rounded(min(shape.extent(axis), room))
        room = max(1, room // sizes[axis])
    cut = {a for a in shape.reduced if sizes[a] < shape.extent(a)}
    again = [d for d in defines(kernel) if d.reduce is None and d.tile not in kept and not cut.isdisjoint(d.axes)]
    kind: LoopKind = "tile"
    loops = _blocks(shape, sizes)
    loops += tuple(Loop(a, sizes[a], kind) for a in dict.fromkeys(a for s in shape.stores for a in s.axes) if a in cut)
    reduce = tuple(Loop(a.name, sizes[a.name], "pipeline") for a in kernel.axes if a.name in cut)
    return Schedule(loops, reduce, spaces=tuple((d.tile, INLINE) for d in again))
