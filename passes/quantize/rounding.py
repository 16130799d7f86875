"""Real numbers on a grid of integers: scales chosen for the least squared error, and rounding to nearest.

A matrix is ``[K, N]``: ``K`` inputs that a product sums over, ``N`` columns. Blocks of ``group`` inputs of a column
share a scale; the last block may be short, group 0 is one block a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: What the largest magnitude of a block is shrunk by: outliers are clipped where that lowers the error of the rest.
#: Below 0.5 nothing gains: a four-bit grid of a Gaussian block of 32 is best near 0.85, of 128 near 0.75.
SHRINKS = {4: tuple(np.linspace(1.0, 0.5, 21)), 8: (1.0, 0.975, 0.95, 0.925, 0.9, 0.85)}

#: Elements that a search holds at once: temporaries stay in a few tens of megabytes.
_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Grid:
    """Integers that stand for real numbers.

    Attributes:
        dtype: NumPy's type of them.
        bits: 4 or 8.
        low, high: the least and the largest that are used. Eight-bit grids leave -128 out: |w| ≤ 127 lets kernels add
            pairs of products of u8 and i8 in 16 bits after halving, and costs 1 part in 255.
    """

    dtype: np.dtype[Any]
    bits: int
    low: int
    high: int

    @property
    def symmetric(self) -> bool:
        """Without zero points."""
        return self.low < 0


I8 = Grid(np.dtype(np.int8), 8, -127, 127)
I4 = Grid(np.dtype(ml_dtypes.int4), 4, -8, 7)
U4 = Grid(np.dtype(ml_dtypes.uint4), 4, 0, 15)


@dataclass(frozen=True, slots=True)
class Scales:
    """How integers of a matrix become real numbers: ``(integer - zero) · scale``.

    Attributes:
        scale: ``[ceil(K / group), N]``, not 0. Below 0 where the largest magnitude of a block of a symmetric grid is a
            positive number: then that is -8 of -8 … 7, and the grid a seventh finer.
        zero: of the same shape, whole numbers; ``None`` for symmetric grids.
        group: inputs of a block.
    """

    scale: Array
    zero: Array | None
    group: int

    def rows(self, first: int, last: int) -> tuple[Array, Array | float]:
        """Scale and zero point of each element of the rows ``first … last - 1``."""
        block = np.arange(first, last) // self.group
        return self.scale[block], 0.0 if self.zero is None else self.zero[block]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix on a grid: whole numbers ``[K, N]`` and what they stand for."""

    integers: Array
    scales: Scales
    grid: Grid

    def real(self) -> Array:
        """The matrix that the integers stand for, in f32."""
        scale, zero = self.scales.rows(0, len(self.integers))
        return np.asarray((self.integers.astype(np.float32) - zero) * scale, np.float32)


def nearest(matrix: Array, scale: Array, zero: Array | float, grid: Grid) -> Array:
    """The grid's whole numbers nearest to ``matrix``, as f32; ties go to even, as in QuantizeLinear."""
    whole = np.rint(matrix / scale)
    whole += zero
    return np.clip(whole, grid.low, grid.high, out=whole)


def round_to_nearest(
    matrix: Array,
    grid: Grid,
    group: int,
    weight: Array | None = None,
    store: Any = None,
    shrinks: Sequence[float] | None = None,
) -> Rounded:
    """``matrix`` on ``grid`` with the scales of :func:`fit_scales` (same arguments), each element to the nearest."""
    scales = fit_scales(matrix, grid, group, weight, store, shrinks)
    scale, zero = scales.rows(0, len(matrix))
    return Rounded(nearest(np.asarray(matrix, np.float32), scale, zero, grid).astype(grid.dtype), scales, grid)


def fit_scales(
    matrix: Array,
    grid: Grid,
    group: int,
    weight: Array | None = None,
    store: Any = None,
    shrinks: Sequence[float] | None = None,
) -> Scales:
    """Scales (and zero points) of the least squared error, found among shrunk ranges.

    Args:
        matrix: ``[K, N]``, finite.
        grid: the integers.
        group: inputs of a block; 0: all of a column.
        weight: ``[K]``, what the squared error of each input counts; by default 1.
        store: NumPy's float type that scales are stored in; errors are those of scales that it can hold.
        shrinks: what ranges are shrunk by, by default :data:`SHRINKS`.
    """
    k, n = matrix.shape
    group = min(group or k, k)
    blocks = -(-k // group)
    padded = np.zeros((blocks * group, n), np.float32)
    padded[:k] = matrix
    counts = np.zeros(blocks * group, np.float32)
    counts[:k] = 1.0 if weight is None else weight
    cube, counts = padded.reshape(blocks, group, n), counts.reshape(blocks, group, 1)
    scale = np.empty((blocks, n), np.float32)
    zero = None if grid.symmetric else np.empty((blocks, n), np.float32)
    step = max(1, _AT_ONCE // (blocks * group))
    for start in range(0, n, step):
        part = slice(start, start + step)
        taken = np.ascontiguousarray(cube[:, :, part])
        sign = np.ones_like(scale[:, part])
        if grid.symmetric and -grid.low > grid.high:
            sign = np.where(taken.max(1) > -taken.min(1), np.float32(-1), np.float32(1))
            taken *= sign[:, None]
        # Blocks are brought near 1 by powers of two, so that no square overflows or vanishes.
        unit = np.ldexp(np.float32(1), np.clip(np.frexp(np.abs(taken).max(1))[1], -100, 120)).astype(np.float32)
        found, offset = _search(taken / unit[:, None], grid, counts, _Store(unit, store), shrinks or SHRINKS[grid.bits])
        scale[:, part] = found * unit * sign
        if zero is not None:
            zero[:, part] = offset
    return Scales(scale, zero, group)


@dataclass(frozen=True, slots=True)
class _Store:
    """What scales can be: those of a block are stored times its ``unit``, in the type ``dtype`` (``None``: f32)."""

    unit: Array
    dtype: Any

    def usable(self, scale: Array) -> Array:
        """Scales as they are stored. One that would be 0 is 1, by which such small numbers are rounded to 0."""
        dtype = np.float32 if self.dtype is None else self.dtype
        info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        stored = np.minimum(scale * self.unit, np.float32(info.max)).astype(dtype).astype(np.float32)
        return np.where(stored >= np.float32(info.tiny), stored, np.float32(1.0)) / self.unit


def _search(cube: Array, grid: Grid, counts: Array, store: _Store, shrinks: Sequence[float]) -> tuple[Array, Array]:
    """Best scale and zero point of each block of ``cube``, ``[blocks, group, columns]``."""
    low, high = cube.min(1), cube.max(1)
    if not grid.symmetric:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    best = np.full(low.shape, np.inf, np.float32)
    scale, zero = np.ones_like(best), np.zeros_like(best)
    for shrink in shrinks:
        if grid.symmetric:
            tried, offset = store.usable(np.maximum(-low, high) * np.float32(shrink / -grid.low)), np.zeros_like(low)
        else:
            tried = store.usable((high - low) * np.float32(shrink / grid.high))
            offset = np.clip(np.rint(-low * np.float32(shrink) / tried), grid.low, grid.high)
        error, whole = _error(cube, tried, offset, grid, counts)
        _keep(best, scale, zero, error, tried, offset)
        # The least squares scale of the integers that were found: Σ w·q / Σ q².
        above = np.einsum("bgn,bgn,bgo->bn", cube, whole, counts)
        below = np.einsum("bgn,bgn,bgo->bn", whole, whole, counts)
        better = store.usable(np.where((below > 0) & (above > 0), above / np.maximum(below, 1e-30), tried))
        _keep(best, scale, zero, _error(cube, better, offset, grid, counts)[0], better, offset)
    return scale, zero


def _error(cube: Array, scale: Array, zero: Array, grid: Grid, counts: Array) -> tuple[Array, Array]:
    """Squared error of each block, and the whole numbers less their zero points."""
    whole = nearest(cube, scale[:, None], zero[:, None], grid) - zero[:, None]
    gap = whole * scale[:, None]
    gap -= cube
    return np.einsum("bgn,bgn,bgo->bn", gap, gap, counts), whole


def _keep(best: Array, scale: Array, zero: Array, error: Array, tried: Array, offset: Array) -> None:
    better = error < best
    best[better], scale[better], zero[better] = error[better], tried[better], offset[better]
