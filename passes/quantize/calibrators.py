"""How the range of an activation is chosen from what was seen of it: min-max, percentile, entropy, squared error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.passes.quantize.base import Calibration, Calibrator, Runner, Settings
from tilewright.passes.quantize.encoding import Encoding, Range
from tilewright.passes.quantize.histogram import BINS, Histogram

Array = NDArray[Any]

#: Bins and levels of TensorRT's entropy calibrator (Migacz, "8-bit inference with TensorRT", GTC 2017).
ENTROPY_BINS, ENTROPY_LEVELS = 2048, 128
#: Shares of a side of the range that the search for the least error begins with: down to a thirty-second of it.
SHARES = tuple(2.0 ** (-i / 4) for i in range(21))


def calibrate(
    model: ir.Model, values: Sequence[str], settings: Settings, calibration: Calibration, runner: Runner, element: str
) -> dict[str, Range]:
    """The range of each of ``values``, over all samples.

    Raises :class:`UsageError`: ``calibration-not-finite`` where a value is infinite or no number on a sample,
    ``calibration-empty`` where no sample has an element of it.
    """
    seen = observe(runner(model, calibration.feeds, values), values)
    choose = CALIBRATORS[settings.calibrator]
    ranges = {}
    for name, histogram in seen.items():
        if not histogram.total:
            cause, fix = "it has no element on any sample", "give samples of the sizes that the model is used with"
            raise UsageError("calibration-empty", where=f"value {name!r}", cause=cause, fix=fix)
        ranges[name] = choose(histogram, settings, element)
    return ranges


def observe(results: Iterable[Mapping[str, Array]], values: Sequence[str]) -> dict[str, Histogram]:
    """The histogram of each of ``values``. Raises :class:`UsageError` (``calibration-not-finite``)."""
    seen = {name: Histogram() for name in values}
    for number, found in enumerate(results):
        for name, histogram in seen.items():
            require_finite(found[name], name, number)
            histogram.add(found[name])
    return seen


def require_finite(array: Array, name: str, sample: int) -> None:
    """Raise :class:`UsageError` (``calibration-not-finite``) for infinities and NaN in a value of a sample."""
    if not np.isfinite(array).all():
        raise UsageError(
            "calibration-not-finite",
            where=f"value {name!r}, calibration sample {sample}",
            cause=f"{int((~np.isfinite(array)).sum())} of {array.size} elements are infinite or not numbers",
            fix="look for the first such value with tilewright bisect, leave the sample out, or mend the data",
        )


# -- one function a calibrator -------------------------------------------------------------------------------------


def minmax(histogram: Histogram, settings: Settings, element: str) -> Range:
    """All that was seen."""
    return Range.around(histogram.low, histogram.high)


def percentile(histogram: Histogram, settings: Settings, element: str) -> Range:
    """What ``settings.percentile`` of the absolute values lie in, rounded up to a bin."""
    folded = _folded(histogram)
    needed = min(max(settings.percentile, 0.0), 100.0) / 100 * histogram.total
    bins = int(np.searchsorted(np.cumsum(folded), needed)) + 1
    return _clipped(histogram, bins * histogram.width)


def entropy(histogram: Histogram, settings: Settings, element: str) -> Range:
    """The range whose quantized distribution of absolute values tells least apart from the true one: least
    Kullback–Leibler divergence, as TensorRT's calibrator finds it.

    The levels are those of one side of zero: 128, or 256 of u8 where nothing is below zero.
    """
    folded = _folded(histogram).reshape(ENTROPY_BINS, -1).sum(1)
    width = histogram.width * (BINS // ENTROPY_BINS)
    levels = ENTROPY_LEVELS * (2 if element == "u8" and histogram.low >= 0 else 1)
    used = int(np.flatnonzero(folded)[-1]) + 1
    best, least = used, np.inf
    for bins in range(levels, used + 1):
        found = divergence(folded, bins, levels)
        if found < least:
            best, least = bins, found
    return _clipped(histogram, best * width)


def divergence(counts: Array, bins: int, levels: int) -> float:
    """Of the first ``bins`` of ``counts`` (the rest clipped into the last) from their ``levels`` merged ones.

    A merged level is spread evenly over those of its bins that hold something.
    """
    inside = counts[:bins].astype(np.float64)
    true = inside.copy()
    true[-1] += counts[bins:].sum()
    level = np.arange(bins) * levels // bins
    filled = inside > 0
    share = np.bincount(level, inside, levels) / np.maximum(np.bincount(level, filled, levels), 1)
    spread = np.where(filled, share[level], 0.0)
    if not spread.any():
        return float("inf")
    true, spread = true / true.sum(), spread / spread.sum()
    occupied = true > 0
    if (spread[occupied] == 0).any():
        return float("inf")
    return float((true[occupied] * np.log(true[occupied] / spread[occupied])).sum())


def mse(histogram: Histogram, settings: Settings, element: str) -> Range:
    """The range with the least squared error of rounding and clipping, each side of zero by itself.

    A coarse grid of both sides first, then ever smaller steps from the best of it.
    """
    filled = np.flatnonzero(histogram.counts)
    centres, counts = histogram.centres[filled], histogram.counts[filled]
    full = Range.around(histogram.low, histogram.high)

    def error(low: float, high: float) -> float:
        encoding = Encoding.of(Range(full.low * low, full.high * high), element, settings.symmetric)
        return float(counts @ np.square(encoding.round_trip(centres) - centres))

    below = SHARES if full.low < 0 else (1.0,)
    above = SHARES if full.high > 0 else (1.0,)
    least, best = min((error(a, b), (-a, -b)) for a, b in product(below, above))
    low, high = -best[0], -best[1]
    for step in (2.0 ** (1 / 8), 2.0 ** (1 / 16), 2.0 ** (1 / 32), 2.0 ** (1 / 64)):
        around = [(low * a, high * b) for a, b in product((step, 1.0, 1 / step), repeat=2)]
        near = [(min(a, 1.0), min(b, 1.0)) for a, b in around]
        found, at = min((error(a, b), (-a, -b)) for a, b in near)
        if found < least:
            least, (low, high) = found, (-at[0], -at[1])
    return Range(full.low * low, full.high * high)


CALIBRATORS: Mapping[Calibrator, Callable[[Histogram, Settings, str], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def _folded(histogram: Histogram) -> Array:
    """Counts of absolute values."""
    return histogram.counts[BINS:] + histogram.counts[:BINS][::-1]


def _clipped(histogram: Histogram, limit: float) -> Range:
    """What was seen, no further than ``limit`` from zero."""
    return Range.around(max(histogram.low, -limit), min(histogram.high, limit))
