"""What the cube unit and its way out compute, as the page of instructions says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.backends.ascend.simulator.elementwise import relu
from tilewright.backends.ascend.simulator.number import F16, F32, F64, FLOATS, Array, narrowed, one_nan, to_integer

#: Bytes of the reduced axis that the cube unit takes in one step.
STEP_BYTES = 32
#: Products of i8 that sum up exactly in f32: each at most 2^14, all below 2^24.
_EXACT_I8 = 1024


def mmad(a: Array, b: Array, start: Array | None) -> Array:
    """``start + a @ b``: in steps of 32 bytes for floats, exact for i8. ``start`` is f32 or i32, ``None`` for zero."""
    if a.dtype == np.int8:
        return _integers(a, b, start)
    depth = STEP_BYTES // a.dtype.itemsize
    total = np.zeros((a.shape[0], b.shape[1]), F32) if start is None else start.astype(F32)
    left, right = a.astype(F64), b.astype(F64)
    with np.errstate(all="ignore"):
        exact = _is_exact(left, right, a.dtype, depth)
        for at in range(0, a.shape[1], depth):
            x, y = left[:, at : at + depth], right[at : at + depth]
            total = (total + (x @ y if exact else _in_order(x, y))).astype(F32)
    return one_nan(total)


def _in_order(x: Array, y: Array) -> Array:
    """A product whose sums are taken for rising k, in f64."""
    total = np.zeros((x.shape[0], y.shape[1]), F64)
    part = np.empty_like(total)
    for k in range(x.shape[1]):
        np.multiply(x[:, k, None], y[k], out=part)
        total += part
    return total


def _is_exact(x: Array, y: Array, dtype: np.dtype[Any], depth: int) -> bool:
    """Whether every sum of ``depth`` products is exact in f64, so that its order does not matter."""
    bits = {2: 11 if dtype == F16 else 8, 4: 24}[dtype.itemsize]
    floor = -24 if dtype == F16 else -1074
    span = 0
    for m in (np.abs(x), np.abs(y)):
        if not np.isfinite(m).all():
            return False
        high = float(m.max(initial=0.0))
        low = float(np.min(m, initial=high, where=m > 0))
        if high > 0:
            span += int(np.frexp(high)[1]) - max(int(np.frexp(low)[1]) - bits, floor)
    return span + (depth - 1).bit_length() <= 53


def _integers(a: Array, b: Array, start: Array | None) -> Array:
    total = np.zeros((a.shape[0], b.shape[1]), np.int64) if start is None else start.astype(np.int64)
    left, right = a.astype(F32), b.astype(F32)
    for at in range(0, a.shape[1], _EXACT_I8):
        total = total + (left[:, at : at + _EXACT_I8] @ right[at : at + _EXACT_I8]).astype(np.int64)
    return total.astype(np.int32)


@dataclass(frozen=True, slots=True)
class Quantization:
    """What ``fixpipe`` multiplies by: ``scale`` (f32, one or one a column) and the whole numbers ``offset``."""

    scale: Array
    offset: Array | int = 0


def kept_scale(scale: Array) -> Array:
    """The 19 bits of an f32 scale that the unit keeps."""
    return (np.ascontiguousarray(scale, dtype=F32).view(np.uint32) & np.uint32(0xFFFFE000)).view(F32)


def of_words(words: Array) -> Quantization:
    """The scales and offsets in 64-bit words of the fixpipe buffer."""
    scale = kept_scale((words & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(F32))
    offset = ((words >> np.uint64(37)) & np.uint64(0x1FF)).astype(np.int64)
    return Quantization(scale, np.where(offset >= 256, offset - 512, offset))


def fixpipe(sums: Array, dtype: np.dtype[Any], rectify: bool, by: Quantization | None) -> Array:
    """The way out of L0C: scales, relu, then the destination's type."""
    with np.errstate(all="ignore"):
        if by is None:
            values = relu(sums) if rectify else sums
            return narrowed(values, dtype) if dtype in FLOATS else values.astype(dtype)
        values = one_nan(sums.astype(F32) * by.scale)
        values = relu(values) if rectify else values
        if dtype in FLOATS:
            return narrowed(values, dtype)
        rounded = np.rint(values.astype(F64)) + by.offset
        return to_integer(rounded, dtype, "rint")


def columns_of_image(
    image: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
    *,
    block: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    value: float = 0,
) -> Array:
    """Windows of an image (height, width, channels) as rows of a matrix; ``rows``, ``columns``: (first, count).

    ``value`` is what stands outside."""
    height, width, _ = image.shape
    top, left, _, right = pads
    wide = (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    pixel = rows[0] + np.arange(rows[1])
    column = columns[0] + np.arange(columns[1])
    tap, c0 = np.divmod(column, block)
    c1, tap = np.divmod(tap, kernel[0] * kernel[1])
    ky, kx = np.divmod(tap, kernel[1])
    y = (pixel // wide * stride[0])[:, None] + ky * dilation[0] - top
    x = (pixel % wide * stride[1])[:, None] + kx * dilation[1] - left
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    picked = image[np.where(inside, y, 0), np.where(inside, x, 0), (c1 * block + c0)[None, :]]
    return np.where(inside, picked, np.asarray(value, image.dtype))
