"""Ranges against brute force over all values: what histograms keep is enough, in any order and any number of parts."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.passes.quantize.base import Settings
from tilewright.passes.quantize.calibrators import CALIBRATORS, divergence, entropy, mse, observe, percentile
from tilewright.passes.quantize.encoding import CLIPS, Encoding, Range, encode_columns
from tilewright.passes.quantize.histogram import BINS, Histogram

Array = NDArray[Any]
INT8 = Settings("int8")


def samples(seed: int, count: int = 4000) -> Array:
    """Numbers with heavy tails, of some size, on one or both sides of zero."""
    random = np.random.default_rng(seed)
    values = random.standard_t(3, count) * 10.0 ** random.integers(-6, 6)
    return (np.abs(values) if seed % 3 == 0 else values + (seed % 3 == 1)).astype(np.float32)


def histogram(*parts: Array) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part)
    return found


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(numbers, max_size=20), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_histogram_of_any_finite_numbers(parts: list[list[float]]) -> None:
    """The same counts as binning everything at once at the last width, whatever the order; nothing is lost."""
    arrays = [np.array(p, np.float32) for p in parts]
    whole = np.concatenate(arrays).astype(np.float64)
    forwards, backwards = histogram(*arrays), histogram(*arrays[::-1])
    assert forwards.total == whole.size == forwards.counts.sum()
    if not whole.size:
        return
    assert (forwards.low, forwards.high) == (whole.min(), whole.max())
    assert np.array_equal(forwards.counts, backwards.counts)
    largest = np.abs(whole).max()
    if largest > 0:
        assert BINS // 2 * forwards.width <= largest < BINS * forwards.width
    bins = np.floor(whole / forwards.width).astype(int) + BINS
    assert np.array_equal(np.bincount(bins, minlength=2 * BINS), forwards.counts)


@pytest.mark.parametrize("seed", range(6))
def test_minmax(seed: int) -> None:
    x = samples(seed)
    assert CALIBRATORS["minmax"](histogram(x), INT8, "u8") == Range(min(float(x.min()), 0), max(float(x.max()), 0))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [50.0, 99.0, 99.9, 100.0])
def test_percentile(seed: int, share: float) -> None:
    """Within a bin of the order statistic."""
    x = samples(seed)
    seen = histogram(*np.split(x, 4))
    found = percentile(seen, Settings("int8", percentile=share), "u8")
    limit = float(np.sort(np.abs(x))[math.ceil(share / 100 * x.size) - 1])
    assert found.low == pytest.approx(max(float(x.min()), -limit) if x.min() < 0 else 0, abs=seen.width)
    assert found.high == pytest.approx(min(float(x.max()), limit), abs=seen.width)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("element", "symmetric"), [("u8", False), ("i8", False), ("i8", True), ("u8", True)])
def test_mse(seed: int, element: str, symmetric: bool) -> None:
    """No range of a fine grid loses a hundredth less than the one found, on the values themselves."""
    x = samples(seed, 1500).astype(np.float64)
    found = mse(histogram(x), Settings("int8", symmetric=symmetric), element)

    def lost(reach: Range) -> float:
        return float(np.square(Encoding.of(reach, element, symmetric).round_trip(x) - x).sum())

    shares = 2.0 ** (-np.arange(0, 48) / 8)
    low, high = min(x.min(), 0), max(x.max(), 0)
    grid = [Range(low * a, high * b) for a, b in product(shares if low < 0 else [1.0], shares)]
    assert lost(found) <= 1.01 * min(map(lost, grid))


@pytest.mark.parametrize("seed", range(3))
def test_entropy(seed: int) -> None:
    """The least divergence of all cuts, each computed from its definition."""
    x = np.abs(samples(seed, 3000))
    seen = histogram(x)
    counts = seen.counts[BINS:].reshape(2048, 2).sum(1)
    used = int(np.flatnonzero(counts)[-1]) + 1
    cuts = range(256, used + 1, 37)
    by_definition = [_divergence(counts, cut, 256) for cut in cuts]
    assert [divergence(counts, cut, 256) for cut in cuts] == pytest.approx(by_definition, rel=1e-9)
    found = entropy(seen, INT8, "u8")
    cut = round(found.high / (2 * seen.width)) if found.high < seen.high else used
    assert divergence(counts, cut, 256) <= min(by_definition) + 1e-12


def _divergence(counts: Array, cut: int, levels: int) -> float:
    """Kullback–Leibler divergence of a clipped distribution from its ``levels`` merged levels, bin by bin."""
    true = [float(c) for c in counts[:cut]]
    true[-1] += float(counts[cut:].sum())
    merged: dict[int, list[int]] = {}
    for i in range(cut):
        merged.setdefault(i * levels // cut, []).append(i)
    spread = [0.0] * cut
    for members in merged.values():
        filled = [i for i in members if counts[i] > 0]
        for i in filled:
            spread[i] = sum(float(counts[j]) for j in members) / len(filled)
    total, mass = sum(true), sum(spread)
    if not mass:
        return math.inf
    pairs = [(p / total, q / mass) for p, q in zip(true, spread, strict=True) if p > 0]
    return math.inf if any(q == 0 for _, q in pairs) else sum(p * math.log(p / q) for p, q in pairs)


@given(numbers, numbers, st.sampled_from(["u8", "i8"]), st.booleans())
@settings(max_examples=500, deadline=None)
def test_encoding(low: float, high: float, element: str, symmetric: bool) -> None:
    """Zero is exact, the ends are within half a step, and scale and zero point are numbers of their types."""
    reach = Range.around(min(low, high), max(low, high))
    encoding = Encoding.of(reach, element, symmetric)
    assert np.float32(encoding.scale) == encoding.scale > 0 and math.isfinite(encoding.scale)
    assert encoding.zero == np.array(encoding.zero, encoding.numpy)
    ends = np.array([reach.low, 0.0, reach.high])
    found = encoding.round_trip(ends)
    assert found[1] == 0
    step = encoding.scale * (1 + 1e-6)
    assert np.abs(found - ends).max() <= step, "an end is off by more than a step"


@pytest.mark.parametrize("constant", [0.0, 3.7, -2.5])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize(("element", "symmetric"), [("u8", False), ("u8", True), ("i8", False), ("i8", True)])
def test_constant_tensors(constant: float, calibrator: str, element: str, symmetric: bool) -> None:
    """A tensor that is the same number everywhere is exact up to rounding of its scale, or of a bin's width."""
    x = np.full(100, constant, np.float32)
    seen = histogram(x)
    reach = CALIBRATORS[calibrator](seen, Settings("int8", symmetric=symmetric), element)  # type: ignore[index]
    found = Encoding.of(reach, element, symmetric).round_trip(x)
    assert np.abs(found - x).max() <= 1e-6 * abs(constant)


@pytest.mark.parametrize("clip", [False, True])
def test_columns(clip: bool) -> None:
    """One scale a channel; clipping loses no more than the largest weight would, by brute force over the shares."""
    weight = samples(1, 600).reshape(20, 30)
    weight[:, 3] = 0
    for axis in (0, 1):
        columns = encode_columns(weight, axis, clip)
        assert columns.integers.dtype == np.int8 and np.abs(columns.integers.astype(int)).max() <= 127
        assert columns.scales.dtype == np.float32 and columns.scales.shape == (weight.shape[axis],)
        for i in range(weight.shape[axis]):
            row = np.take(weight, i, axis).astype(np.float64)
            lost = np.square(np.take(columns.real, i, axis) - row).sum()
            largest = np.abs(row).max()
            best = min(_lost(row, largest * share / 127) for share in (CLIPS if clip else (1.0,)))
            assert lost == pytest.approx(best, rel=1e-3, abs=1e-30)
    assert encode_columns(weight, 1).scales[3] == 1


def _lost(row: Array, scale: float) -> float:
    if scale == 0:
        return float(np.square(row).sum())
    return float(np.square(np.clip(np.rint(row / scale), -127, 127) * scale - row).sum())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad: float) -> None:
    with pytest.raises(UsageError, match=r"'x', calibration sample 1: 1 of 3 .*\[calibration-not-finite\]"):
        observe([{"x": np.ones(3)}, {"x": np.array([1, bad, 2])}], ["x"])
