"""Which pixels of an image each pixel of a resized one is made of, along one dimension of known sizes, as arrays.

Semantics: ONNX operator reference, Resize. Along a dimension whose scale is a simple fraction positions are exact;
otherwise they are computed in the order and width that ONNX Runtime computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Fractions of terms up to this are taken as exact.
_SIMPLE = 64

Floats = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Resized:
    """One dimension and how it is resized.

    Attributes:
        size, out: pixels of the input and of the output.
        ratio: the scale, as a fraction.
        length: the size of the output before it is rounded, of which the scale's width is lost.
        region: start and end, for ``tf_crop_and_resize``.
    """

    size: int
    out: int
    ratio: Fraction
    length: float
    region: tuple[float, float] | None = None

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes along it, whatever the mode."""
        return self.ratio == 1 and self.size == self.out and self.region is None


def positions(mode: str, d: Resized, dtype: np.dtype[Any]) -> list[Fraction] | Floats:
    """Where each pixel of the output lies in the input."""
    exact = _exact(mode, d)
    if exact is not None and max(d.ratio.numerator, d.ratio.denominator) <= _SIMPLE:
        return [exact(i) for i in range(d.out)]
    return _computed(mode, d, dtype)


def _exact(mode: str, d: Resized) -> Callable[[int], Fraction] | None:
    half = Fraction(1, 2)
    whole = (d.size * d.ratio).denominator == 1
    if mode == "asymmetric":
        return lambda i: i / d.ratio
    if mode == "half_pixel" or (mode == "half_pixel_symmetric" and whole) or (mode[0] == "p" and d.out > 1):
        return lambda i: (i + half) / d.ratio - half
    if mode == "tf_half_pixel_for_nn":
        return lambda i: (i + half) / d.ratio
    if mode == "align_corners" and whole:
        return lambda i: Fraction(i * (d.size - 1), max(1, d.out - 1))
    return (lambda i: Fraction(0)) if mode == "pytorch_half_pixel" else None


def _computed(mode: str, d: Resized, dtype: np.dtype[Any]) -> Floats:
    kind = dtype.type
    at: Floats = np.arange(d.out).astype(dtype)
    scale, length, half, last = (kind(n) for n in (float(d.ratio), d.length, 0.5, d.size - 1))
    steps = kind(1) if length == 1 else length - kind(1)
    found: Floats = (at + half) / scale - half
    if mode == "asymmetric":
        found = at / scale
    elif mode == "tf_half_pixel_for_nn":
        found = (at + half) / scale
    elif mode == "align_corners":
        found = at * kind(0) if length == 1 else at * last / steps
    elif mode == "tf_crop_and_resize":
        assert d.region is not None
        start, end = map(kind, d.region)
        middle = (start + end) * half * last
        found = at * kind(0) + middle if length == 1 else start * last + at * (end - start) * last / steps
    elif mode == "pytorch_half_pixel" and d.out <= 1:
        found = at * kind(0)
    elif mode == "half_pixel_symmetric":
        found = kind(d.size) / kind(2) * (kind(1) - kind(d.out) / length) + found
    return found


def nearest(mode: str, places: Sequence[Any] | Floats, size: int) -> NDArray[np.int64]:
    """The pixel nearest to each position."""
    half = Fraction(1, 2)
    rounds: dict[str, Callable[[Any], int]] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda p: math.ceil(p - half),
        "round_prefer_ceil": lambda p: math.floor(p + half),
    }
    whole = [rounds[mode](p if isinstance(p, Fraction) else Fraction(float(p))) for p in places]
    return np.clip(np.array(whole, np.int64), 0, size - 1)


def weights(
    mode: str, places: Sequence[Any] | Floats, d: Resized, coefficient: float, exclude: bool, antialias: bool
) -> Floats:
    """``[out, size]``: the share of each pixel of the input, by ``linear`` or ``cubic`` interpolation; f64.

    Pixels outside repeat those at the edge, or are left out with ``exclude``. With ``antialias`` the kernel is as wide
    as the distance of the output's pixels.
    """
    squeeze = min(1.0, float(d.ratio)) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / squeeze)
    found = np.zeros((d.out, d.size))
    for i, place in enumerate(places):
        start = math.floor(place)
        near = np.arange(start - reach, start + reach + 2)
        shares = kernel(mode, np.array([float(n - place) for n in near]) * squeeze, coefficient)
        if exclude:
            shares = np.where((near >= 0) & (near < d.size), shares, 0.0)
        if antialias or exclude:
            shares = shares / shares.sum()
        np.add.at(found[i], np.clip(near, 0, d.size - 1), shares)
    return found


def kernel(mode: str, distance: Floats, a: float) -> Floats:
    """The linear kernel, or the cubic one (R. G. Keys, Cubic convolution interpolation, 1981), at a distance."""
    x = np.abs(distance)
    if mode == "linear":
        triangle: Floats = np.maximum(1 - x, 0)
        return triangle
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    found: Floats = np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
    return found
