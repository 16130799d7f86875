"""What products of f32 lose on matrix units, in a model of their arithmetic. No GPU ran any of this.

The model is of the code that Triton 3.9 makes of ``tl.dot(…, input_precision=…)``: operands round to tf32 (11 bits,
ties away), products are exact, a matrix instruction adds eight of them at a time to its accumulator and drops bits
beyond f32 (the sum is cut, not rounded), and with "tf32x3" each step's sums begin at the cross terms and are then added
to the accumulator in f32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.options import Options, Precision
from tilewright.selection import resolve_targets

from tests.kernel import trial_kernels

Array = np.ndarray[Any, np.dtype[Any]]
STEP, INSTRUCTION = 32, 8


def tf32(x: Array) -> Array:
    """Rounded to 11 bits of significand, ties away from zero (``cvt.rna.tf32.f32``)."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x1000) & 0xFFFFE000).astype(np.uint32)
    return np.where(np.isfinite(x), rounded, bits).astype(np.uint32).view(np.float32)


def cut(x: Array) -> Array:
    """An f64 cut to f32 towards zero."""
    near = x.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(x)
    return np.where(beyond & np.isfinite(near), np.nextafter(near, np.float32(0)), near)


def instructions(a: Array, b: Array, acc: Array) -> Array:
    for k in range(0, a.shape[1], INSTRUCTION):
        products = a[:, k : k + INSTRUCTION].astype(np.float64) @ b[k : k + INSTRUCTION].astype(np.float64)
        acc = cut(acc.astype(np.float64) + products)
    return acc


def product(a: Array, b: Array, precision: str) -> Array:
    acc = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(0, a.shape[1], STEP):
        x, y = a[:, k : k + STEP], b[k : k + STEP]
        high_x, high_y = tf32(x), tf32(y)
        if precision == "tf32":
            acc = instructions(high_x, high_y, acc)
            continue
        cross = instructions(tf32(x - high_x), high_y, np.zeros_like(acc))
        cross = instructions(high_x, tf32(y - high_y), cross)
        acc = acc + instructions(high_x, high_y, np.where(np.isnan(cross), np.float32(0), cross))
    return acc


def error(got: Array, a: Array, b: Array) -> float:
    """Largest error over the largest sum."""
    want = a.astype(np.float64) @ b.astype(np.float64)
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("positive", [False, True], ids=["any sign", "positive"])
@pytest.mark.parametrize("depth", [64, 768, 3072])
def test_three_products_of_tf32_are_as_good_as_f32(depth: int, positive: bool) -> None:
    """Within 1e-6 of the exact sums, a hundredth of what is promised of f32 models; plain tf32 is not."""
    random = np.random.default_rng(depth)
    a, b = (random.standard_normal(s, dtype=np.float32) for s in ((24, depth), (depth, 40)))
    a, b = (np.abs(a), np.abs(b)) if positive else (a, b)
    assert error(product(a, b, "tf32x3"), a, b) < 1e-6
    assert 1e-5 < error(product(a, b, "tf32"), a, b) < 2e-3


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_infinities_and_not_a_number_come_out() -> None:
    a, b = np.ones((4, 64), np.float32), np.full((64, 3), 0.1, np.float32)
    a[1, 5], a[2, 7], a[3, 9] = np.inf, -np.inf, np.nan
    b[40, 2] = np.inf
    want = a @ b
    got = product(a, b, "tf32x3")
    assert np.array_equal(np.isnan(got), np.isnan(want))
    infinite = np.isinf(want)
    assert np.array_equal(got[infinite], want[infinite])
    assert np.allclose(got[np.isfinite(want)], want[np.isfinite(want)], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_what_is_lost_next_to_the_largest_numbers() -> None:
    """The very largest f32 round to an infinity, of which the remainder is another: the sum is no number."""
    small = np.full((8, 1), 1e-3, np.float32)
    assert product(np.full((1, 8), 3.4e38, np.float32), small, "tf32x3")[0, 0] == pytest.approx(2.72e36, rel=1e-6)
    assert np.isnan(product(np.full((1, 8), np.finfo(np.float32).max, np.float32), small, "tf32x3")[0, 0])


@pytest.mark.parametrize(("asked", "products"), [(None, "tf32x3"), ("fp32", "tf32x3"), ("tf32", "tf32")])
def test_one_product_of_tf32_is_for_those_who_ask(asked: str | None, products: str) -> None:
    options = Options(targets=("cuda:sm_80",), precision=Precision(asked) if asked else None)
    ((backend, target),) = resolve_targets(options, build=False)
    assert isinstance(backend, CudaBackend)
    kernel = trial_kernels.matmul_bias_gelu("f32")
    assert next(iter(backend.schedules(kernel, target))).option("precision", "") == products
