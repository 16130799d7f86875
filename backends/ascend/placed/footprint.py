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
    """An access in numbers: either ``counts``/``strides`` from ``offset``, or a matrix block in ``block``."""

    buffer: str
    slot: int
    offset: int
    counts: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, int] | None = None
    whole: bool = False

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


@lru_cache(maxsize=1024)
def elements(t: Touch, g: Geometry) -> Index:
    """Element indices within the slot, in the shape of the access."""
    if t.block is None:
        index: Index = np.asarray(t.offset, dtype=np.int64)
        for n, stride in zip(t.counts, t.strides, strict=True):
            index = index[..., None] + np.arange(n, dtype=np.int64) * stride
        return index
    (row, column), rows, columns = t.block, t.counts[0], t.counts[1]
    matrix = g.shape[0], g.shape[1]
    if t.whole:
        high, wide = padded_shape(g.layout, g.element_bytes, g.scope, *matrix)
        step = max(fractal_columns(g.layout, g.element_bytes, g.scope))
        rows, columns = min(round_up(rows, step), high - row), min(round_up(columns, step), wide - column)
    r, c = np.arange(row, row + rows), np.arange(column, column + columns)
    return element_offsets(g.layout, g.element_bytes, g.scope, matrix, rows=r, columns=c)


@lru_cache(maxsize=512)
def units(t: Touch, g: Geometry, unit: int) -> Index | slice:
    """Sorted distinct units of ``unit`` bytes that the access touches, counted from byte 0 of the memory.

    A slice where they are consecutive. ``unit`` is a power of two; a unit of the size of a memory block (32 bytes) is
    as exact as the hardware's own granularity.
    """
    start = elements(t, g).ravel() * g.element_bytes + (g.base + t.slot * g.slot_bytes)
    if unit <= g.element_bytes:
        per = g.element_bytes // unit
        index = (start[:, None] // unit + np.arange(per)).ravel()
    else:
        index = np.concatenate([start // unit, (start + g.element_bytes - 1) // unit])
    index = np.unique(index)
    if index.size and index[-1] - index[0] + 1 == index.size:
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def byte_index(t: Touch, g: Geometry) -> Index:
    """First byte of each element, in the shape of the access."""
    return elements(t, g) * g.element_bytes + (g.base + t.slot * g.slot_bytes)


def last_byte(t: Touch, g: Geometry) -> tuple[int, int]:
    """Lowest and highest element index within the slot."""
    index = elements(t, g)
    return int(index.min()), int(index.max())
