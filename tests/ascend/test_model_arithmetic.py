"""The header model's functions and roundings on edge values, against mpmath and ml_dtypes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import pytest
from tilewright.ir.types import DType

from tests.ascend.modelled import Modelled, build
from tests.ascend.single import Single, Source, vector

Array = np.ndarray[Any, Any]
F32, F16, BF16 = DType.F32, DType.F16, DType.BF16
HIGH = (1, 96)
EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 1e-45, -1e-40, 1.1754944e-38, 6e-8, 5.9604645e-08, 2.98e-8, 6.1e-5, 1e-7]
EDGES += [65504.0, 65519.996, 65520.0, -65520.0, 3.4028235e38, -3.4028235e38, 88.72283, 88.72284, -87.33655, -103.97208]
EDGES += [-104.0, 11.09, 11.0898, -17.4, 1.0009766, 1.0004883, 1.0014648, 2049.0, 2051.0, 1.00390625, 1.01171875, 0.1]
EDGES += [float("inf"), float("-inf"), float("nan"), 3.1415927, 1e10, 1e-10, 0.33333334, 7.0, 1e30, 1.9999999]

FUNCTIONS = {"exp": mpmath.exp, "ln": mpmath.log, "sqrt": mpmath.sqrt}


@lru_cache(maxsize=1)
def programs() -> dict[str, Single]:
    made = [vector(f"{op}_{t}", op, t, [Source(t)], HIGH) for op in FUNCTIONS for t in (F32, F16)]
    made += [vector(f"div_{t}", "div", t, [Source(t), Source(t)], HIGH) for t in (F32, F16)]
    made += [vector(f"cast_{t}", "cast", t, [Source(F32)], HIGH) for t in (F16, BF16)]
    return {s.placed.kernel.name: s for s in made}


@lru_cache(maxsize=1)
def library() -> Modelled:
    return build([s.placed for s in programs().values()], level="-O0")


def run(name: str, *operands: Array) -> Array:
    inputs = {f"X{i}": x.reshape(1, -1) for i, x in enumerate(operands)}
    dims = {"R": 1, "C": operands[0].size}
    outputs, _ = library().run(programs()[name].placed, inputs, dims, groups=1)
    return outputs["Y"].ravel()


def edges(dtype: DType) -> Array:
    with np.errstate(over="ignore"):
        return np.array(EDGES, np.float64).astype(dtype.numpy)


def nearest(exact: Any, dtype: DType) -> Any:
    """``exact`` (an mpf) rounded once to nearest even: the best of three neighbours, by their exact distances."""
    kind = dtype.numpy
    with np.errstate(over="ignore"):
        first = np.float64(exact).astype(kind)
    if np.isinf(first):
        # Half a unit beyond the largest number is where infinity begins.
        top = np.finfo(kind).max
        unit = mpmath.mpf(float(top)) - mpmath.mpf(float(np.nextafter(top, kind.type(0))))
        limit = mpmath.mpf(float(top)) + unit / 2
        return first if abs(exact) >= limit else np.copysign(top, first)
    near = [first, np.nextafter(first, kind.type(np.inf)), np.nextafter(first, kind.type(-np.inf))]
    words = f"u{kind.itemsize}"
    finite = [x for x in near if np.isfinite(x)]
    return min(finite, key=lambda x: (abs(mpmath.mpf(float(x)) - exact), int(np.asarray(x).view(words)) & 1))


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_are_correctly_rounded(op: str, dtype: DType) -> None:
    x = edges(dtype)
    got = run(f"{op}_{dtype}", x)
    with mpmath.workprec(300):
        for value, result in zip(x, got, strict=True):
            number = float(value)
            if np.isnan(number) or (number < 0 and op != "exp"):
                assert np.isnan(result), (op, number)
            elif np.isinf(number) or number == 0:
                with np.errstate(divide="ignore"):
                    special = {"exp": np.exp, "ln": np.log, "sqrt": np.sqrt}[op](np.float64(number))
                assert float(result) == float(special), (op, number)
            else:
                want = nearest(FUNCTIONS[op](mpmath.mpf(number)), dtype)
                assert result.tobytes() == np.asarray(want, dtype.numpy).tobytes(), (op, number, result, want)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_quotients_are_correctly_rounded(dtype: DType) -> None:
    a, b = edges(dtype), np.roll(edges(dtype), 7)
    got = run(f"div_{dtype}", a, b)
    with mpmath.workprec(300):
        for x, y, result in zip(a.astype(float), b.astype(float), got, strict=True):
            if not (np.isfinite(x) and np.isfinite(y)) or y == 0 or x == 0:
                with np.errstate(divide="ignore", invalid="ignore"):
                    special = np.float64(x) / np.float64(y)
                assert np.isnan(special) == np.isnan(result) and (np.isnan(special) or float(result) == special)
            else:
                want = nearest(mpmath.mpf(x) / mpmath.mpf(y), dtype)
                assert result.tobytes() == np.asarray(want, dtype.numpy).tobytes(), (x, y, result, want)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_narrowing_is_that_of_ml_dtypes(dtype: DType) -> None:
    random = np.random.default_rng(1)
    bits = random.integers(0, 1 << 32, 46, dtype=np.uint32)
    x = np.concatenate([edges(F32), bits.view(np.float32)])
    # Values half way between two neighbours, and a little to each side.
    step = np.array([0x3F801000, 0x3F803000, 0x3F801001, 0x3F800FFF, 0x3F808000, 0x3F818000], np.uint32).view(
        np.float32
    )
    x = np.concatenate([x, step])[: HIGH[1]]
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(dtype.numpy)
    got = run(f"cast_{dtype}", x)
    numbers = ~np.isnan(x)
    assert got[numbers].tobytes() == want[numbers].tobytes()
    assert np.isnan(got[~numbers].astype(np.float32)).all()
