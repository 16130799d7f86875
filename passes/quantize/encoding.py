"""How numbers become 8-bit integers: scale and zero point of a range, and of the columns of a weight.

Rounding is that of QuantizeLinear: to the nearest, halves to even. Zero is always exact: padding and ReLU make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Scales are normal numbers: dividing by a subnormal one is slow or, where subnormals are flushed, a division by zero.
SMALLEST_SCALE = float(np.finfo(np.float32).smallest_normal)
LARGEST_SCALE = float(np.finfo(np.float32).max)
#: Element types of activations: least and largest integer.
LEVELS = {"u8": (0, 255), "i8": (-128, 127)}
NUMPY = {"u8": np.dtype(np.uint8), "i8": np.dtype(np.int8)}
#: Shares of the largest weight that clipping tries: 8 bits lose little by rounding, so little clipping pays.
CLIPS = tuple(1 - 0.02 * i for i in range(16))


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that are told apart, from ``low`` to ``high``; those outside are clipped. Zero is among them."""

    low: float
    high: float

    @staticmethod
    def around(low: float, high: float) -> Range:
        """The smallest range that holds both and zero."""
        return Range(min(low, 0.0), max(high, 0.0))

    def union(self, other: Range) -> Range:
        """The range of either."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Encoding:
    """``real = (integer - zero) * scale``, in one element type. ``scale`` is a number of f32."""

    element: str
    scale: float
    zero: int

    @staticmethod
    def of(reach: Range, element: str, symmetric: bool = False) -> Encoding:
        """The finest encoding of a range; of the range to both sides of zero where it is to be ``symmetric``.

        What is nowhere below zero needs no zero point: u8 then has all its levels above. An empty range is encoded
        exactly, with any scale.
        """
        least, largest = LEVELS[element]
        if reach.low == reach.high:
            return Encoding(element, 1.0, 0 if least < 0 or not symmetric else 128)
        if symmetric and (least < 0 or reach.low < 0):
            centre = 0 if least < 0 else 128
            return Encoding(element, _scale(max(-reach.low, reach.high) / 127), centre)
        scale = _scale(reach.high / (largest - least) - reach.low / (largest - least))
        zero = least + round(-reach.low / scale)
        return Encoding(element, scale, min(max(zero, least), largest))

    @property
    def numpy(self) -> np.dtype[Any]:
        """The element type."""
        return NUMPY[self.element]

    def round_trip(self, x: Array) -> Array:
        """``x`` after QuantizeLinear and DequantizeLinear, computed in its own type."""
        least, largest = LEVELS[self.element]
        scale = x.dtype.type(self.scale)
        integers = np.clip(np.rint(x / scale), least - self.zero, largest - self.zero)
        return np.asarray(integers * scale, x.dtype)


def _scale(exact: float) -> float:
    return float(np.float32(min(max(exact, SMALLEST_SCALE), LARGEST_SCALE)))


@dataclass(frozen=True, slots=True)
class Columns:
    """A weight as i8, symmetric, ±127, with a scale for each output channel: ``real = integers * scales``."""

    integers: Array
    scales: Array
    axis: int

    @property
    def real(self) -> Array:
        """What DequantizeLinear makes of it."""
        return np.asarray(self.integers.astype(np.float32) * _along(self.scales, self.integers.ndim, self.axis))


def encode_columns(weight: Array, axis: int, clip: bool = False, most: int = 127) -> Columns:
    """A finite f32 weight as integers of magnitude ``most``, one scale for each position of ``axis``.

    With ``clip`` each scale is that of :data:`CLIPS` with the least squared error. A channel of zeros has the scale 1.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float64)
    best, least = _columns(weight, largest, axis, most), None
    for share in CLIPS if clip else ():
        tried = _columns(weight, largest * share, axis, most)
        error = np.square(tried.real - weight, dtype=np.float64).sum(axis=others)
        if least is None:
            best, least = tried, error
            continue
        better = error < least
        chosen = _along(better, weight.ndim, axis)
        integers = np.where(chosen, tried.integers, best.integers)
        best = Columns(integers, np.where(better, tried.scales, best.scales), axis)
        least = np.minimum(error, least)
    return best


def _columns(weight: Array, largest: Array, axis: int, most: int) -> Columns:
    scales = np.where(largest == 0, 1.0, np.maximum(largest / most, SMALLEST_SCALE)).astype(np.float32)
    integers = np.clip(np.rint(weight / _along(scales, weight.ndim, axis)), -most, most).astype(np.int8)
    return Columns(integers, scales, axis)


def _along(vector: Array, rank: int, axis: int) -> Array:
    """A vector in a shape that broadcasts along ``axis``."""
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])
