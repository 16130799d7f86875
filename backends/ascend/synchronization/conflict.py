"""Whether two accesses may touch one byte, for all values of the symbols: sound, not complete."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from tilewright.backends.ascend.placed.form import Access, Block, Buffer, View
from tilewright.backends.ascend.placed.layout import fractal_columns
from tilewright.backends.ascend.synchronization.exclusive import exclusive
from tilewright.backends.ascend.synchronization.facts import Facts
from tilewright.ir.ranges import POSITIVE_INFINITY, divisor
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol

#: An access of a slot with numbers for sizes: first element, then (count, stride) from the outermost.
Lanes = tuple[int, tuple[tuple[int, int], ...]]

#: Views of more elements than this are compared by their ends only.
_EXACT = 1 << 16


def memories_meet(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers of one memory share bytes."""
    if a.name == b.name:
        return True
    if a.scope == "gm" or b.scope == "gm":
        return False
    return a.scope == b.scope and a.address < b.end and b.address < a.end


def slot_distances(a: Buffer, b: Buffer) -> set[int]:
    """``i - j`` modulo the slots, for slots ``i`` of ``a`` and ``j`` of ``b`` that share bytes; both have as many."""
    starts = [[o.address + n * o.slot_bytes for n in range(o.slots)] for o in (a, b)]
    return {
        (i - j) % a.slots
        for i, p in enumerate(starts[0])
        for j, q in enumerate(starts[1])
        if p < q + b.slot_bytes and q < p + a.slot_bytes
    }


def may_meet(x: Access, y: Access, buffer: Buffer, facts: Facts, shared: frozenset[str]) -> bool:
    """Whether two accesses to one slot of ``buffer`` may touch one byte.

    ``shared`` symbols have one value in both; all others may differ.
    """
    if exclusive(x, y, facts, shared):
        return False
    if isinstance(x, View) and isinstance(y, View):
        return _views_meet(x, y, facts, shared)
    if isinstance(x, Block) and isinstance(y, Block):
        return _blocks_meet(x, y, buffer, facts, shared)
    return True


def bytes_meet(x: Access, y: Access, buffers: tuple[Buffer, Buffer], facts: Facts, shared: frozenset[str]) -> bool:
    """Whether accesses to two buffers that share bytes may touch one byte; ``shared`` as of :func:`may_meet`."""
    if exclusive(x, y, facts, shared):
        return False
    if not isinstance(x, View) or not isinstance(y, View):
        return True
    unit = min(b.element_bytes for b in buffers)
    return _views_meet(_in_units(x, buffers[0], unit), _in_units(y, buffers[1], unit), facts, shared)


def _in_units(v: View, buffer: Buffer, unit: int) -> View:
    """``v`` in units of ``unit`` bytes from the beginning of the memory, in every slot that it may take."""
    size = buffer.element_bytes // unit
    slots = ((constant(buffer.slots), constant(buffer.slot_bytes // unit)),) if buffer.slots > 1 else ()
    dims = tuple((count, stride * size) for count, stride in v.dims)
    inner = ((constant(size), constant(1)),) if size > 1 else ()
    return View(v.buffer, v.offset * size + buffer.address // unit, (*slots, *dims, *inner))


def apart_in_turn(
    x: Access, y: Access, buffer: Buffer, loop: tuple[str, int], facts: Facts, shared: frozenset[str]
) -> bool:
    """Whether two accesses never meet in different iterations of one run of ``loop`` (its variable and step).

    ``shared`` symbols have one value in both, the loop's variable has two different ones.
    """
    if isinstance(x, View) and isinstance(y, View):
        dims = [_sizes(v, facts) for v in (x, y)]
        if dims[0] is None or dims[1] is None:
            return False
        return _steps_apart((x.offset, _reach(dims[0])), (y.offset, _reach(dims[1])), loop, facts, shared)
    if isinstance(x, Block) and isinstance(y, Block):
        steps = fractal_columns(buffer.layout, buffer.element_bytes, buffer.scope)
        sides = (((x.row, x.rows), (y.row, y.rows)), ((x.column, x.columns), (y.column, y.columns)))
        for step, ends in zip(steps, sides, strict=True):
            spans = [_span(at, n, step if w else 1, facts) for (at, n), w in zip(ends, (x.whole, y.whole), strict=True)]
            if None not in spans and _steps_apart(spans[0], spans[1], loop, facts, shared):  # type: ignore[arg-type]
                return True
    return False


def _span(first: Expr, count: Expr, step: int, facts: Facts) -> tuple[Expr, int] | None:
    """Where a block begins along an axis and how far it reaches in whole fractals of ``step``; ``None`` where it may
    begin inside of one."""
    if divisor(first, facts.ranges) % step:
        return None
    return first, -(-facts.bounds(count)[1] // step) * step - 1


def _steps_apart(
    x: tuple[Expr, int], y: tuple[Expr, int], loop: tuple[str, int], facts: Facts, shared: frozenset[str]
) -> bool:
    """The same for ``first .. first + reach`` along one axis: each iteration moves on by at least what it takes."""
    var, step = loop
    try:
        moves = [first.coefficient(var) for first, _ in (x, y)]
    except ValueError:
        return False
    if moves[0] != moves[1] or not moves[0].is_constant:
        return False
    move = abs(moves[0].value) * step
    rest = [first - moves[0] * symbol(var) for first, _ in (x, y)]
    if rest[0].symbols | rest[1].symbols <= shared:
        low, high = facts.bounds(rest[1] - rest[0])
    else:
        a, b = facts.bounds(rest[0]), facts.bounds(rest[1])
        low, high = b[0] - a[1], b[1] - a[0]
    return move + low > x[1] and move - high > y[1]


def _views_meet(x: View, y: View, facts: Facts, shared: frozenset[str]) -> bool:
    return _reaches_meet(x, y, facts, shared) and not _columns_apart(x, y, facts, shared)


def _reaches_meet(x: View, y: View, facts: Facts, shared: frozenset[str]) -> bool:
    dims = [_sizes(v, facts) for v in (x, y)]
    if any(d is None for d in dims):
        return True
    first, second = (d for d in dims if d is not None)
    if 0 in (c for c, _ in (*first, *second)):
        return False
    distance = y.offset - x.offset
    if _behind(x, y, facts, shared):
        return False
    if distance.is_constant and (x.offset.is_constant or x.offset.symbols | y.offset.symbols <= shared):
        return _lanes_meet((0, first), (distance.value, second))
    if x.offset.symbols | y.offset.symbols <= shared:
        low, high = facts.bounds(distance)
    else:
        # What both say of shared symbols cancels; the others may differ.
        (alike, a), (same, b) = (_parted(v.offset, shared) for v in (x, y))
        between, (least, most), (low, high) = facts.bounds(same - alike), facts.bounds(a), facts.bounds(b)
        low, high = between[0] + low - most, between[1] + high - least
    return not (low > _reach(first) or -high > _reach(second))


def _parted(e: Expr, shared: frozenset[str]) -> tuple[Expr, Expr]:
    """The terms of ``e`` over shared symbols alone, and the others."""
    inside = [t for t in e.terms if Expr([t]).symbols <= shared]
    return Expr(inside), Expr([t for t in e.terms if t not in inside])


def _behind(x: View, y: View, facts: Facts, shared: frozenset[str]) -> bool:
    """Whether one of two runs of elements ends where the other begins, or before, whatever the sizes are."""
    if any(len(v.dims) != 1 or v.dims[0][1] != 1 for v in (x, y)):
        return False
    if any(not e.symbols <= shared for v in (x, y) for e in (v.offset, v.dims[0][0])):
        return False
    gaps = (y.offset - x.offset - x.dims[0][0], x.offset - y.offset - y.dims[0][0])
    return any(facts.bounds(gap)[0] >= 0 for gap in gaps)


def _columns_apart(x: View, y: View, facts: Facts, shared: frozenset[str]) -> bool:
    """Whether two views of rows of one pitch have columns of their own: those of one begin where the other's end, or
    behind, and end within the pitch, so that no row of one reaches any row of the other, however many there are."""
    if x.offset == y.offset or any(not s.is_constant or s.value < 0 for v in (x, y) for _, s in v.dims):
        return False
    for pitch in dict.fromkeys(s for _, s in x.dims if any(s == t for _, t in y.dims)):
        if any(not e.symbols <= shared for v in (x, y) for e in (v.offset, *(c for c, s in v.dims if s != pitch))):
            continue
        (first, end), (second, last) = _columns(x, pitch), _columns(y, pitch)
        if _never_negative(second - end, facts) and _never_negative(first + pitch - last, facts):
            return True
        if _never_negative(first - last, facts) and _never_negative(second + pitch - end, facts):
            return True
    return False


def _columns(v: View, pitch: Expr) -> tuple[Expr, Expr]:
    """The first element of the first row of ``v``, and the one behind its last, if rows are ``pitch`` apart and none is
    empty: an empty view meets nothing."""
    return v.offset, v.offset + sum(((c - 1) * s for c, s in v.dims if s != pitch), ZERO) + 1


def _never_negative(e: Expr, facts: Facts) -> bool:
    if facts.bounds(e)[0] >= 0:
        return True
    least = facts.least(e)
    return least is not None and least >= 0


def _sizes(v: View, facts: Facts) -> tuple[tuple[int, int], ...] | None:
    sizes = []
    for count, stride in v.dims:
        high = count.value if count.is_constant else facts.bounds(count)[1]
        if not stride.is_constant or stride.value < 0 or high >= POSITIVE_INFINITY:
            return None
        sizes.append((max(0, high), stride.value))
    return tuple(sizes)


def _reach(dims: tuple[tuple[int, int], ...]) -> int:
    return sum((c - 1) * s for c, s in dims)


@lru_cache(maxsize=4096)
def _lanes_meet(x: Lanes, y: Lanes) -> bool:
    if y[0] - x[0] > _reach(x[1]) or x[0] - y[0] > _reach(y[1]):
        return False
    if max(int(np.prod([c for c, s in d if s])) for _, d in (x, y)) > _EXACT:
        return True
    return bool(np.intersect1d(_elements(x), _elements(y)).size)


def _elements(lanes: Lanes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    index = np.asarray([lanes[0]], np.int64)
    for count, stride in lanes[1]:
        if stride:
            index = (index[:, None] + np.arange(count, dtype=np.int64) * stride).ravel()
    return np.unique(index)


def _blocks_meet(x: Block, y: Block, buffer: Buffer, facts: Facts, shared: frozenset[str]) -> bool:
    rows, columns = fractal_columns(buffer.layout, buffer.element_bytes, buffer.scope)
    whole = (x.whole, y.whole)
    return _ranges_meet((x.row, x.rows), (y.row, y.rows), whole, rows, facts, shared) and _ranges_meet(
        (x.column, x.columns), (y.column, y.columns), whole, columns, facts, shared
    )


def _ranges_meet(
    x: tuple[Expr, Expr],
    y: tuple[Expr, Expr],
    whole: tuple[bool, bool],
    step: int,
    facts: Facts,
    shared: frozenset[str],
) -> bool:
    """Whether ``first .. first + count - 1`` of both may have an element in common; ``whole`` ones take whole steps."""
    if not any(whole) and x[0].symbols | y[0].symbols | x[1].symbols | y[1].symbols <= shared:
        return facts.bounds(x[0] + x[1] - y[0])[1] > 0 and facts.bounds(y[0] + y[1] - x[0])[1] > 0
    ends = []
    for (first, count), w in zip((x, y), whole, strict=True):
        low, high = facts.bounds(first)[0], facts.bounds(first + count)[1]
        ends.append((low // step * step, -(-high // step) * step) if w else (low, high))
    return ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1]
