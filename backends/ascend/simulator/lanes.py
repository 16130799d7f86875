"""Lanes in and out of bytes: views and fractals as strided arrays, without an index for each element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import Geometry, Touch, covered, elements
from tilewright.backends.ascend.placed.layout import fractal_columns, padded_shape

Array = np.ndarray[Any, Any]


def load(data: Array, t: Touch, g: Geometry, dtype: np.dtype[Any]) -> Array:
    """A copy of the lanes of an access: its counts, or the rows and columns of a block.

    ``data`` are the bytes of the memory, or one byte an element where ``dtype`` has one byte.
    """
    if t.block is not None and g.layout != "ND":
        row, column = t.block
        rows, columns = covered(t, g)
        fractals, up, left = _fractals(data, g, dtype, _start(t, g), (row, column, rows, columns))
        high, wide = fractals.shape[0] * fractals.shape[1], fractals.shape[2] * fractals.shape[3]
        return fractals.reshape(high, wide)[up : up + rows, left : left + columns]
    if t.block is not None or any(s < 0 for s in t.strides):
        return data.view(dtype)[_start(t, g) + elements(t, g)]
    return _view(data, t, g, dtype).copy()


def store(data: Array, t: Touch, g: Geometry, dtype: np.dtype[Any], values: Array) -> None:
    """Write ``values`` into the lanes of an access."""
    if t.block is None and not any(s < 0 for s in t.strides):
        _view(data, t, g, dtype)[...] = values
        return
    if t.block is not None and g.layout != "ND":
        rows, columns = covered(t, g)
        done = 0
        for column, count in _pieces(t.block[1], columns, fractal_columns(g.layout, g.element_bytes, g.scope)[1]):
            piece = values[:, done : done + count]
            fractals, up, left = _fractals(data, g, dtype, _start(t, g), (t.block[0], column, rows, count))
            if up == 0 and rows == fractals.shape[0] * fractals.shape[1]:
                shaped = piece.reshape(fractals.shape[0], fractals.shape[1], fractals.shape[2], -1)
                fractals[..., left : left + shaped.shape[3]] = shaped
            else:
                break
            done += count
        else:
            return
    data.view(dtype)[_start(t, g) + elements(t, g)] = values


def _start(t: Touch, g: Geometry) -> int:
    """The first element of the slot, counted from the beginning of the memory."""
    return (g.base + t.slot * g.slot_bytes) // g.element_bytes


def _view(data: Array, t: Touch, g: Geometry, dtype: np.dtype[Any]) -> Array:
    size = dtype.itemsize
    at = (_start(t, g) + t.offset) * size
    strides = tuple(s * size for s in t.strides)
    if not t.cycle:
        return np.ndarray(t.counts, dtype, data, at, strides)
    lanes = t.counts[-1]
    block = np.ndarray((*t.counts[:-1], min(t.cycle, lanes)), dtype, data, at, (*strides[:-1], size))
    return block[..., np.arange(lanes) % t.cycle]


def _pieces(column: int, columns: int, width: int) -> Iterator[tuple[int, int]]:
    """Columns cut where fractals begin: what is in front of the first whole one, the whole ones, the rest."""
    end = column + columns
    head = min(end, -(-column // width) * width)
    tail = max(head, end // width * width)
    for low, high in ((column, head), (head, tail), (tail, end)):
        if high > low:
            yield low, high - low


def _fractals(
    data: Array, g: Geometry, dtype: np.dtype[Any], start: int, block: tuple[int, int, int, int]
) -> tuple[Array, int, int]:
    """The fractals over a block as (rows of fractals, rows, columns of fractals, columns), and the block's corner."""
    row, column, rows, columns = block
    fr, fc = fractal_columns(g.layout, g.element_bytes, g.scope)
    high, wide = padded_shape(g.layout, g.element_bytes, g.scope, g.shape[0], g.shape[1])
    size = dtype.itemsize
    left, across = column // fc, -(-(column + columns) // fc) - column // fc
    if g.layout in ("NZ", "NC1HWC0"):
        at = (start + (left * high + row) * fc) * size
        shape, strides = (1, rows, across, fc), (0, fc * size, high * fc * size, size)
        return np.ndarray(shape, dtype, data, at, strides), 0, column % fc
    top, down = row // fr, -(-(row + rows) // fr) - row // fr
    at = (start + (top * (wide // fc) + left) * fr * fc) * size
    inner = (fc * size, size) if g.layout == "zZ" else (size, fr * size)
    strides = (wide * fr * size, inner[0], fr * fc * size, inner[1])
    return np.ndarray((down, fr, across, fc), dtype, data, at, strides), row % fr, column % fc
