"""What is kept of a tensor's values over all samples: extremes and counts in bins whose range grows as need be.

Bins are powers of two wide and begin at multiples of their width, so that two of them are one of twice the width: when
a larger value comes, pairs are merged. The counts are those of binning everything at the last width, in any order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Bins on each side of zero. The range is less than twice the largest value, so at least half of them are in use.
BINS = 4096


class Histogram:
    """Values seen so far.

    Attributes:
        low, high: the least and the largest value; zero before the first.
        total: how many there were.
        counts: of the bins; bin ``i`` holds values from ``(i - BINS) * width``.
    """

    def __init__(self) -> None:
        self.low, self.high, self.total = 0.0, 0.0, 0
        self.counts = np.zeros(2 * BINS, np.int64)
        self._exponent: int | None = None  # values lie between ± 2 ** exponent

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0 / BINS, self._exponent or 0)

    @property
    def centres(self) -> Array:
        """The middle of each bin, f64."""
        return (np.arange(-BINS, BINS) + 0.5) * self.width

    def add(self, values: Array) -> None:
        """Take in an array of finite numbers of any shape."""
        if not values.size:
            return
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self.total else (low, high)
        self.total += flat.size
        largest = max(-low, high)
        if largest > 0:
            self._widen(math.frexp(largest)[1])
        if self._exponent is None:  # zeros alone, which are in this bin at any width
            self.counts[BINS] += flat.size
            return
        bins = np.floor(flat.astype(np.float64) / self.width).astype(np.int64)
        self.counts += np.bincount(bins + BINS, minlength=2 * BINS)

    def _widen(self, exponent: int) -> None:
        """Let the bins reach to ``2 ** exponent``."""
        steps = exponent - self._exponent if self._exponent is not None else 0
        self._exponent = exponent if self._exponent is None else max(exponent, self._exponent)
        for _ in range(min(steps, 2 * BINS)):
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[BINS // 2 : BINS + BINS // 2] = merged
