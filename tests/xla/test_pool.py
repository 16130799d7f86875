"""Pools against the reference, with padding around the images."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from tests.xla.reference import agree, normal

POOLS = [
    ("MaxPool", ""),
    ("MaxPool", "ceil_mode=1,strides=[2,2]"),
    ("MaxPool", "dilations=[2,2]"),
    ("MaxPool", "pads=[1,1,1,1],strides=[2,2]"),
    ("MaxPool", 'auto_pad="SAME_UPPER",strides=[2,2]'),
    ("AveragePool", "pads=[1,1,0,1],strides=[2,2]"),
    ("AveragePool", "pads=[1,1,0,1],strides=[2,2],count_include_pad=1,ceil_mode=1"),
    ("AveragePool", "ceil_mode=1,strides=[2,2]"),
    ("AveragePool", "dilations=[2,2]"),
    ("AveragePool", 'auto_pad="SAME_LOWER",strides=[2,2]'),
    ("LpPool", "p=3"),
]
OPEN, FILLED = {"x": ("N=1..3", 2, "H=5..11", "W=5..12")}, {"N": (3,), "H": (11,), "W": (12,)}


@pytest.mark.parametrize("operator, attributes", POOLS)
def test_windows(operator: str, attributes: str) -> None:
    more = f",{attributes}" if attributes else ""
    text = f"g (float[N,2,H,W] x) => (float[?,?,?,?] z) {{ z = {operator}<kernel_shape=[3,3]{more}>(x) }}"
    feeds = {"x": normal(2, 2, 7, 8)}
    agree(text, feeds, {"x": (2, 2, 7, 8)})
    if "SAME" not in attributes:
        agree(text, feeds, OPEN, FILLED)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_whole_images(operator: str) -> None:
    text = f"g (float[N,2,H,W] x) => (float[?,?,?,?] z) {{ z = {operator}(x) }}"
    agree(text, {"x": normal(2, 2, 7, 8)}, OPEN, FILLED)


def test_global_lp_pool() -> None:
    x = normal(2, 2, 7, 8)
    want = (np.abs(x.astype(np.float64)) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    text = "g (float[N,2,H,W] x) => (float[?,?,?,?] z) { z = GlobalLpPool<p=3>(x) }"
    agree(text, {"x": x}, OPEN, FILLED, want=[want.astype(np.float32)])


@pytest.mark.parametrize("sizes", [(2, 2, 7, 8), (2, 2, "H=5..11", "W=5..12")], ids=["static", "padded"])
@pytest.mark.parametrize("order", [0, 1])
def test_positions_of_the_largest(sizes: tuple[int | str, ...], order: int) -> None:
    x = np.random.default_rng(0).integers(0, 5, (2, 2, 7, 8)).astype(np.float32)  # with equal elements
    height, width = np.arange(0, 5, 2), np.arange(0, 7, 2)
    want = np.zeros((2, 2, 3, 4), np.int64)
    for n, c, i, j in np.ndindex(*want.shape):
        window = x[n, c, height[i] : height[i] + 2, width[j] : width[j] + 2]
        places = [(height[i] + a, width[j] + b) for a, b in np.ndindex(2, 2) if window[a, b] == window.max()]
        flat = [(p[1] * 7 + p[0] if order else p[0] * 8 + p[1]) for p in places]
        want[n, c, i, j] = min(flat) + (n * 2 + c) * 56
    agree(
        f"g (float[2,2,H,W] x) => (float[?,?,?,?] z, int64[?,?,?,?] i) "
        f"{{ z, i = MaxPool<kernel_shape=[2,2],strides=[2,2],storage_order={order}>(x) }}",
        {"x": x},
        {"x": sizes},
        {"H": (11,), "W": (12,)} if isinstance(sizes[2], str) else None,
        want=[x[:, :, :6].reshape(2, 2, 3, 2, 4, 2).max((3, 5)), want],
    )


def test_max_unpool() -> None:
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2)
    places = np.array([[[[5, 7], [13, 15]], [[16, 18], [24, 26]]]], np.int64)
    want = np.zeros((1, 2, 4, 4), np.float32)
    want.reshape(-1)[places.ravel()] = x.ravel()
    agree(
        "g (float[1,2,2,2] x, int64[1,2,2,2] i) => (float[?,?,?,?] z) "
        "{ z = MaxUnpool<kernel_shape=[2,2],strides=[2,2]>(x, i) }",
        {"x": x, "i": places},
        want=[want],
    )
