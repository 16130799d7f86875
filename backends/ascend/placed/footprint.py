"""Which bytes of which memory an access touches, once its expressions have values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.form import Access, Block, Buffer
from tilewright.backends.ascend.placed.layout import element_offsets, fractal_columns, padded_shape, round_up
from tilewright.ir.symbolic import Expr

Index = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The numbers of a buffer that addressing needs; ``shape`` is evaluated for global tensors."""

    scope: str
    layout: str
    element_bytes: int
    base: int
    slot_bytes: int
    slots: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Touch:
    """An access in numbers: either ``counts``/``strides`` from ``offset``, or a matrix block in ``block``.

    ``cycle``: the last dimension takes that many neighbours over and over (a block of 32 bytes a row).
    """

    buffer: str
    slot: int
    offset: int
    counts: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, int] | None = None
    whole: bool = False
    cycle: int = 0

    @property
    def empty(self) -> bool:
        return 0 in self.counts


def geometry(buffer: Buffer, dims: Mapping[str, int]) -> Geometry:
    """Addressing numbers of a buffer for values of the dimension symbols."""
    shape = tuple(s.evaluate(dims) for s in buffer.shape)
    if buffer.layout == "ND":
        size = buffer.element_bytes * int(np.prod(shape, dtype=np.int64))
    else:
        size = buffer.slot_bytes
    base = buffer.address if buffer.scope != "gm" else 0
    return Geometry(buffer.scope, buffer.layout, buffer.element_bytes, base, size, buffer.slots, shape)


def touch(access: Access, slots: int, env: Mapping[str, int]) -> Touch:
    """``access`` under ``env``; negative counts are zero."""
    slot = value_of(access.slot, env) % slots
    if isinstance(access, Block):
        size = (max(0, value_of(access.rows, env)), max(0, value_of(access.columns, env)))
        corner = (value_of(access.row, env), value_of(access.column, env))
        return Touch(access.buffer, slot, 0, size, (), corner, access.whole)
    counts = tuple(max(0, value_of(c, env)) for c, _ in access.dims)
    strides = tuple(value_of(s, env) for _, s in access.dims)
    return Touch(access.buffer, slot, value_of(access.offset, env), counts, strides)


def value_of(e: Expr, env: Mapping[str, int]) -> int:
    """``e`` under ``env``."""
    return e.value if e.is_constant else e.evaluate(env)


def covered(t: Touch, g: Geometry) -> tuple[int, int]:
    """Rows and columns of a block, whole fractals where it is ``whole``."""
    rows, columns = t.counts
    if t.whole and t.block is not None:
        high, wide = padded_shape(g.layout, g.element_bytes, g.scope, g.shape[0], g.shape[1])
        step = max(fractal_columns(g.layout, g.element_bytes, g.scope))
        return min(round_up(rows, step), high - t.block[0]), min(round_up(columns, step), wide - t.block[1])
    return rows, columns


def _spans(t: Touch) -> tuple[tuple[int, int], ...]:
    """Counts and strides, the last dimension of a cycle as often as it differs."""
    dims = tuple(zip(t.counts, t.strides, strict=True))
    if t.cycle:
        return (*dims[:-1], (min(t.cycle, dims[-1][0]), 1))
    return dims


@lru_cache(maxsize=1024)
def elements(t: Touch, g: Geometry) -> Index:
    """Element indices within the slot, in the shape of the access."""
    if t.block is None:
        index: Index = np.asarray(t.offset, dtype=np.int64)
        for n, stride in zip(t.counts[:-1], t.strides[:-1], strict=True):
            index = index[..., None] + np.arange(n, dtype=np.int64) * stride
        if t.counts:
            last = np.arange(t.counts[-1], dtype=np.int64)
            index = index[..., None] + (last % t.cycle if t.cycle else last * t.strides[-1])
        return index
    row, column = t.block
    rows, columns = covered(t, g)
    r, c = np.arange(row, row + rows), np.arange(column, column + columns)
    return element_offsets(g.layout, g.element_bytes, g.scope, (g.shape[0], g.shape[1]), rows=r, columns=c)


@lru_cache(maxsize=4096)
def runs(t: Touch, g: Geometry) -> tuple[Index, int]:
    """The first bytes of the runs that the access consists of, sorted and apart, and how long each of them is."""
    base = g.base + t.slot * g.slot_bytes
    if t.block is not None:
        return _block_runs(t, g)
    dims = [(n, s) for n, s in _spans(t) if n > 1 and s != 0]
    if any(s < 0 for _, s in dims):
        return _scattered(t, g)
    dims.sort(key=lambda d: d[1])
    length = 1
    rest: list[tuple[int, int]] = []
    for n, s in dims:
        if not rest and s <= length:
            length = (n - 1) * s + length
        else:
            rest.append((n, s))
    starts: Index = np.asarray([t.offset], dtype=np.int64)
    for n, s in rest:
        starts = (starts[:, None] + np.arange(n, dtype=np.int64) * s).ravel()
    size = g.element_bytes
    if len(rest) > 1:
        starts = np.unique(starts)
    if len(starts) > 1 and int(np.diff(starts).min()) < length:
        return _scattered(t, g)
    return starts * size + base, length * size


def _block_runs(t: Touch, g: Geometry) -> tuple[Index, int]:
    """A block of a matrix in fractals: rows of fractals, or columns of them, lie one behind the other."""
    assert t.block is not None
    (row, column), (rows, columns) = t.block, covered(t, g)
    fr, fc = fractal_columns(g.layout, g.element_bytes, g.scope) if g.layout != "ND" else (1, 1)
    high, wide = padded_shape(g.layout, g.element_bytes, g.scope, g.shape[0], g.shape[1])
    base, size = g.base + t.slot * g.slot_bytes, g.element_bytes
    across = np.arange(column // fc, -(-(column + columns) // fc), dtype=np.int64)
    if column % fc == 0 and columns % fc == 0:
        if g.layout in ("NZ", "NC1HWC0"):
            starts, length = (across * high + row) * fc * size + base, rows * fc * size
            return (starts[:1], length * len(starts)) if rows == high else (starts, length)
        if row % fr == 0 and rows % fr == 0 and g.layout in ("zZ", "nZ"):
            down = np.arange(row // fr, (row + rows) // fr, dtype=np.int64)
            starts = (down * (wide // fc) + column // fc) * fr * fc * size + base
            length = columns * fr * size
            return (starts[:1], length * len(starts)) if columns == wide else (starts, length)
    return _scattered(t, g)


def _scattered(t: Touch, g: Geometry) -> tuple[Index, int]:
    start = np.unique(elements(t, g).ravel()) * g.element_bytes + (g.base + t.slot * g.slot_bytes)
    gaps = np.flatnonzero(np.diff(start) != g.element_bytes)
    if not len(gaps):
        return start[:1], len(start) * g.element_bytes
    return start, g.element_bytes


@lru_cache(maxsize=4096)
def units(t: Touch, g: Geometry, unit: int) -> Index | slice:
    """Sorted distinct units of ``unit`` bytes that the access touches, counted from byte 0 of the memory.

    A slice where they are consecutive. ``unit`` is a power of two; a unit of the size of a memory block (32 bytes) is
    as exact as the hardware's own granularity.
    """
    starts, length = runs(t, g)
    low, high = starts // unit, -(-(starts + length) // unit)
    if len(starts) == 1 or bool((low[1:] <= high[:-1]).all()):
        return slice(int(low[0]), int(high[-1]))
    longest = int((high - low).max())
    index = low[:, None] + np.arange(longest)
    if longest == 1:
        return np.unique(index)
    return np.unique(index[index < high[:, None]])


@lru_cache(maxsize=4096)
def parts(t: Touch, g: Geometry, unit: int) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    """Which bytes of each unit of :func:`units` are touched, bit by bit; ``None`` where all are. ``unit`` <= 32."""
    starts, length = runs(t, g)
    if length % unit == 0 and not (starts % unit).any():
        return None
    where = units(t, g, unit)
    first, count = (where.start, where.stop - where.start) if isinstance(where, slice) else (0, len(where))
    mask = np.zeros((count, unit), bool)
    at = (starts[:, None] + np.arange(length)).ravel()
    rows = at // unit - first if isinstance(where, slice) else np.searchsorted(where, at // unit)
    mask[rows, at % unit] = True
    bits = np.packbits(mask, axis=1, bitorder="little").astype(np.uint32)
    shifted = bits << (8 * np.arange(bits.shape[1], dtype=np.uint32))
    return np.asarray(shifted.sum(axis=1), np.uint32)


def byte_index(t: Touch, g: Geometry) -> Index:
    """First byte of each element, in the shape of the access."""
    return elements(t, g) * g.element_bytes + (g.base + t.slot * g.slot_bytes)


def first_element(t: Touch, g: Geometry) -> int:
    """Index of the first element of the access within the slot."""
    if t.block is None:
        return t.offset
    at = element_offsets(
        g.layout, g.element_bytes, g.scope, (g.shape[0], g.shape[1]), rows=[t.block[0]], columns=[t.block[1]]
    )
    return int(at[0, 0])


def last_byte(t: Touch, g: Geometry) -> tuple[int, int]:
    """Lowest and highest element index within the slot."""
    if t.block is not None:
        index = elements(t, g)
        return int(index.min()), int(index.max())
    spans = [(n - 1) * s for n, s in _spans(t)]
    return t.offset + sum(s for s in spans if s < 0), t.offset + sum(s for s in spans if s > 0)
