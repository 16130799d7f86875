"""Fractal layouts and target data against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.backends.ascend.placed.layout import element_offsets, padded_shape

from tests.ascend.trials import targets


@pytest.mark.parametrize(("layout", "scope"), [("NZ", "l1"), ("zZ", "l0a"), ("nZ", "l0b"), ("NZ", "l0c"), ("ND", "ub")])
@pytest.mark.parametrize("element_bytes", [1, 2, 4])
def test_each_element_has_a_place_of_its_own(layout: str, scope: str, element_bytes: int) -> None:
    shape = (40, 70)
    rows, columns = padded_shape(layout, element_bytes, scope, *shape)
    at = element_offsets(layout, element_bytes, scope, shape, rows=np.arange(rows), columns=np.arange(columns))
    assert sorted(at.ravel()) == list(range(rows * columns))


@pytest.mark.parametrize(
    ("memory", "element_bytes", "place", "want"),
    [
        # 32 × 32 halves: 16 × 16 fractals of 256 elements.
        (("NZ", "l1"), 2, (1, 0), 16),
        (("NZ", "l1"), 2, (16, 0), 256),  # fractals go down the columns
        (("NZ", "l1"), 2, (0, 16), 512),
        (("zZ", "l0a"), 2, (0, 16), 256),  # fractals go along the rows
        (("zZ", "l0a"), 2, (16, 0), 512),
        (("nZ", "l0b"), 2, (1, 0), 1),  # inside a fractal, columns lie one behind the other
        (("nZ", "l0b"), 2, (0, 1), 16),
        (("nZ", "l0b"), 2, (0, 16), 256),
        (("nZ", "l0b"), 2, (16, 0), 512),
        # 32 × 32 bytes: fractals of 16 × 32.
        (("NZ", "l1"), 1, (1, 0), 32),
        (("nZ", "l0b"), 1, (0, 16), 512),
        # 32-bit sums keep 16 columns a fractal.
        (("NZ", "l0c"), 4, (0, 16), 512),
        (("NZ", "l1"), 4, (0, 8), 256),
    ],
)
def test_known_places(memory: tuple[str, str], element_bytes: int, place: tuple[int, int], want: int) -> None:
    layout, scope = memory
    row, column = place
    at = element_offsets(layout, element_bytes, scope, (32, 32), rows=np.array([row]), columns=np.array([column]))
    assert at.item() == want


@pytest.mark.parametrize(("name", "tera"), [("910b1", 364), ("910b3", 295), ("910b4", 246), ("310p3", 69)])
def test_published_peak_rates(name: str, tera: int) -> None:
    target = targets()[f"ascend:{name}"]
    assert int(target.peak["f16"] / 1e12) in (tera - 1, tera)
    assert target.peak["i8"] == pytest.approx(2 * target.peak["f16"], rel=1e-3)
    computed = target.extra["cube_cores"] * 4096 * 2 * target.extra["clock_mhz"] * 1e6
    assert target.peak["f16"] == pytest.approx(computed, rel=1e-3)
