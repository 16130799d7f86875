"""Quantization on vector cores, exact to the bit: to and from integers by tensor and by channel, sums of integers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ascend.vector import assert_right, made, values

QUANTIZE = """def quantize(X: f32[M, N], S: const[f32[{of}]], Z: const[{dtype}[{of}]], Y: out[{dtype}[M, N]]):
    where(1 <= M <= 100, 1 <= N <= 300)
    m: M
    n: N
    q[m, n] = round(X[m, n] / S[{at}]) + f32(Z[{at}])
    Y[m, n] = {dtype}(min(max(q[m, n], f32({low}.0)), f32({high}.0)))"""
DEQUANTIZE = """def dequantize(X: {dtype}[M, N], S: const[f32[{of}]], Z: const[{dtype}[{of}]], Y: out[f32[M, N]]):
    where(1 <= M <= 100, 1 <= N <= 300)
    m: M
    n: N
    Y[m, n] = (f32(X[m, n]) - f32(Z[{at}])) * S[{at}]"""
REQUANTIZE = """def requantize(X: i32[M, N], S: const[f32[N]], B: const[i32[N]], Y: out[i8[M, N]]):
    where(1 <= M <= 100, 1 <= N <= 300)
    m: M
    n: N
    q[m, n] = round(f32(X[m, n] + B[n]) * S[n])
    Y[m, n] = i8(min(max(q[m, n], f32(-128.0)), f32(127.0)))"""
DYNAMIC = """def dynamic(X: f32[M, N], Y: out[i8[M, N]], S: out[f32[M]]):
    where(1 <= M <= 100, 1 <= N <= 300)
    m: M
    n: N
    t[m] = max(n, abs(X[m, n]))
    s[m] = max(t[m] / f32(127.0), f32(0.000001))
    Y[m, n] = i8(min(max(round(X[m, n] / s[m]), f32(-128.0)), f32(127.0)))
    S[m] = s[m]"""
FIELDS = {"tensor": {"of": "1", "at": "0"}, "channel": {"of": "N", "at": "n"}, "row": {"of": "M", "at": "m"}}
SIZES = ({"M": 1, "N": 1}, {"M": 21, "N": 70})


def scaled(text: str, dims: dict[str, int]) -> dict[str, np.ndarray]:
    """Values with positive scales, and with quotients that are ties."""
    kernel, _ = made(text)
    inputs = values(kernel, dims, seed=3, high=30)
    inputs["S"] = (0.25 + np.abs(inputs["S"])).astype(np.float32)
    if "X" in inputs and inputs["X"].dtype == np.float32:
        flat = inputs["X"].reshape(-1)
        flat *= 40
        inputs["S"].reshape(-1)[:1] = 0.5
        ties = np.array([0.25, 0.75, -0.25, -1.25, 63.25, 1e9, -1e9], np.float32)[: flat.size]
        flat[: ties.size] = ties
    return inputs


@pytest.mark.parametrize("dtype", ["i8", "u8"])
@pytest.mark.parametrize("by", FIELDS)
def test_to_integers(dtype: str, by: str) -> None:
    low, high = (-128, 127) if dtype == "i8" else (0, 255)
    text = QUANTIZE.format(dtype=dtype, low=low, high=high, **FIELDS[by])
    for dims in SIZES:
        assert_right(text, dims, scaled(text, dims), exact=True)


@pytest.mark.parametrize("dtype", ["i8", "u8", "i32"])
@pytest.mark.parametrize("by", FIELDS)
def test_from_integers(dtype: str, by: str) -> None:
    text = DEQUANTIZE.format(dtype=dtype, **FIELDS[by])
    for dims in SIZES:
        assert_right(text, dims, scaled(text, dims), exact=True)


def test_sums_of_integers() -> None:
    for dims in SIZES:
        inputs = scaled(REQUANTIZE, dims)
        inputs["X"] = (inputs["X"] * 70001).astype(np.int32)
        inputs["S"] = (inputs["S"] * 1e-4).astype(np.float32)
        assert_right(REQUANTIZE, dims, inputs, exact=True)


def test_scales_that_a_run_finds() -> None:
    for dims in SIZES:
        assert_right(DYNAMIC, dims, exact=True)
