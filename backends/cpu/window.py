"""What a reduction down the lanes offers: taps that a border cuts off, outputs that share what they read.

A window over an image, a sum over rows, a product without a register tile: the lanes lie along an axis of the result,
and every lane reduces for itself. Nothing here knows of convolution or pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tilewright.backends.cpu.lanes import Vectorized
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.values import is_inside
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.kernel.analysis import identity, loads_of, offset_of, refs_of
from tilewright.kernel.expr import Binary, Cast, Load, Value
from tilewright.kernel.schedule import Compute
from tilewright.kernel.scope import Scope
from tilewright.kernel.tile import Param

#: Accumulators of one block of outputs: two multiply-adds a cycle that each take four keep eight in flight (Zen 3,
#: Skylake), and 8 + the taps of a row of a window + 1 input fit into 16 registers.
ACCUMULATORS = 8
#: Taps of one axis that are written out, so that neighbours may share what they read.
UNROLLED_TAPS = 12


@dataclass(frozen=True, slots=True)
class Trim:
    """Where ``index`` (linear in ``tap``, with a positive factor) is outside ``0 … size - 1``, entry ``tap`` of the
    window changes nothing and may be left out."""

    tap: str
    factor: int
    index: Expr
    size: Expr

    def limits(self, at: dict[str, Expr]) -> tuple[Expr, Expr]:
        """First tap inside, and the first one beyond, at a position; either may lie outside the window."""
        rest = self.index.substitute({self.tap: 0}).substitute(at)
        return (self.factor - 1 - rest) // self.factor, (self.size - rest + self.factor - 1) // self.factor


@dataclass(frozen=True, slots=True)
class Window:
    """How one reduction is laid out in registers.

    Attributes:
        row: the axis of which several outputs are computed together; ``None`` without one.
        rows: how many of them.
        tap: the reduced axis that is written out, ``taps`` entries.
        stride, dilation: how far the input position moves with ``row`` and with ``tap``.
        vectors: vectors of lanes computed together.
        trims: taps that need no guard but a shorter loop.
    """

    row: str | None
    rows: int
    tap: str | None
    taps: int
    stride: int
    dilation: int
    vectors: int
    trims: tuple[Trim, ...]

    @property
    def row_trims(self) -> tuple[Trim, ...]:
        """Those that depend on which output of the row it is."""
        return tuple(t for t in self.trims if self.row is not None and self.row in t.index.symbols)


def plan_window(place: Place, s: Compute, axes: tuple[str, ...], vector: str | None) -> Window:
    """The layout of ``s`` with loops over ``axes`` and lanes along ``vector``."""
    assert s.reduce is not None
    trims = tuple(_trims(place, s, vector))
    row = None if _irregular(place, s, vector) else _shared_row(place, s, axes, vector)
    pair = None if row is None else _pair(place, s, row)
    if row is not None and not all(_follows(t, row, pair) for t in trims):
        row = pair = None  # outputs side by side would need different loops
    tap, taps, stride, dilation = pair or (None, 1, 1, 1)
    rows = 1 if row is None else _rows(place.count(row), min(_budget(s), max(2, 14 - taps)))
    vectors = 1 if _irregular(place, s, vector) else _vectors(place, vector, max(1, _budget(s) // rows))
    return Window(row, rows, tap, taps, stride, dilation, vectors, trims)


def _follows(t: Trim, row: str, pair: tuple[str, int, int, int] | None) -> bool:
    """Whether the loop of ``t`` is the same for all outputs of a row, or written out."""
    if row not in t.index.symbols:
        return True
    return pair is not None and (t.tap, t.factor, _factor(t.index, row)) == (pair[0], pair[3], pair[2])


def vanishes(v: Value, load: Load, op: str) -> bool:
    """Whether ``v`` is the identity of ``op`` wherever ``load`` reads its fill.

    A product with a zero is taken to be zero: what padding is multiplied with belongs to no element of the input, and
    is left out rather than multiplied.
    """
    if v == load:
        return load.fill == identity(op, load.dtype).value
    if isinstance(v, Cast):
        return (op == "sum" or (v.dtype.is_float and v.x.dtype.is_float)) and vanishes(v.x, load, op)
    if isinstance(v, Binary) and v.op == "mul" and op == "sum":
        return vanishes(v.a, load, op) or vanishes(v.b, load, op)
    return False


def lane_axis(s: Compute, params: Mapping[str, Param], scope: Scope, lanes: int) -> str | None:
    """The axis of the result along which all that ``s`` reads from memory lies in order, if there is one."""
    loads = loads_of(s.value)
    for axis in s.axes:
        lane = Vectorized(axis, scope.facts, lanes).aligned(scope.ranges[axis].start, lanes)
        steps = [_step(x, params[x.tensor], lane, _extents(scope)) for x in loads]
        if any(step == 1 for step in steps) and all(step is not None and step in (0, 1) for step in steps):
            return axis
    return None


def _step(load: Load, param: Param, lane: Vectorized, extents: Mapping[str, Expr]) -> Expr | None:
    """By how much the address grows from lane to lane; ``None`` where reads are gathered or need a guard a lane."""
    index = tuple(i for i in load.index if isinstance(i, Expr))
    if len(index) < len(load.index):
        return None
    for i, size in zip(index, param.shape, strict=True):
        if load.fill is not None and lane.axis in i.symbols and not is_inside(i, size, extents, lane.facts):
            return None
    return lane.stride(offset_of(param, index))


def _extents(scope: Scope) -> Mapping[str, Expr]:
    return {a.name: a.extent for a in scope.kernel.axes}


def _budget(s: Compute) -> int:
    return max(1, ACCUMULATORS * 32 // max(32, s.value.dtype.bits))


def _rows(count: int | None, most: int) -> int:
    """Outputs in pieces of equal length, at most ``most``."""
    if count is None:
        return most
    return -(-count // -(-count // most))


def _vectors(place: Place, vector: str | None, most: int) -> int:
    """Vectors at a time; of a constant number one that leaves few over."""
    if vector is None:
        return 1
    count = place.count(vector)
    if count is None:
        return most
    whole = max(1, count // place.lanes)
    return min(range(1, min(most, whole) + 1), key=lambda n: (-(-whole // n) + whole % n, -n))


def _irregular(place: Place, s: Compute, vector: str | None) -> bool:
    lane = place.vectorized(vector)
    return any(
        _step(load, place.params[load.tensor], lane, _extents(place.scope)) is None for load in loads_of(s.value)
    )


def _trims(place: Place, s: Compute, vector: str | None) -> Iterator[Trim]:
    assert s.reduce is not None
    for load in loads_of(s.value):
        if load.fill is None or not vanishes(s.value, load, s.reduce.op):
            continue
        for index, size in zip(load.index, place.params[load.tensor].shape, strict=True):
            if not isinstance(index, Expr) or vector in index.symbols:
                continue
            if is_inside(index, size, _extents(place.scope), place.scope.facts):
                continue
            taps = [a for a in s.reduce.axes if a in index.symbols]
            factor = _factor(index, taps[0]) if len(taps) == 1 else None
            if factor is not None and factor > 0:
                yield Trim(taps[0], factor, index, size)


def _factor(index: Expr, axis: str) -> int | None:
    """By how much ``index`` grows with ``axis``; ``None`` where that is no constant."""
    try:
        c = index.coefficient(axis)
    except ValueError:
        return None
    return c.value if c.is_constant else None


def _shared_row(place: Place, s: Compute, axes: tuple[str, ...], vector: str | None) -> str | None:
    """The axis along which neighbouring outputs read the same: through a window first, then the nearest in memory."""
    best: tuple[bool, int, str] | None = None
    for axis in axes:
        if place.count(axis) == 1:
            continue
        lane = place.vectorized(axis, 1)
        steps = [lane.stride(offset_of(place.params[x.tensor], x.index)) for x in loads_of(s.value)]  # type: ignore[arg-type]
        pair = _pair(place, s, axis)
        same = any(step == 0 and _moves(x, vector) for x, step in zip(loads_of(s.value), steps, strict=True))
        same |= any(axis not in r.axes and vector in r.axes for r in refs_of(s.value))
        if pair is None and not same:
            continue
        far = max((bounds(step, place.scope.facts)[1] for step in steps if step is not None), default=0)
        if best is None or (pair is None, far, axis) < best:
            best = (pair is None, far, axis)
    return None if best is None else best[2]


def _moves(load: Load, axis: str | None) -> bool:
    return any(isinstance(i, Expr) and axis in i.symbols for i in load.index)


def _pair(place: Place, s: Compute, row: str) -> tuple[str, int, int, int] | None:
    """The reduced axis that moves with ``row`` in one index and can be written out: its name, entries, and the factors
    of both."""
    assert s.reduce is not None
    for load in loads_of(s.value):
        for index in load.index:
            if not isinstance(index, Expr) or row not in index.symbols:
                continue
            taps = [a for a in s.reduce.axes if a in index.symbols]
            if len(taps) != 1 or place.start(taps[0]) != 0:
                continue
            count, stride, dilation = place.count(taps[0]), _factor(index, row), _factor(index, taps[0])
            if count is not None and count <= UNROLLED_TAPS and stride and dilation and min(stride, dilation) > 0:
                return taps[0], count, stride, dilation
    return None
