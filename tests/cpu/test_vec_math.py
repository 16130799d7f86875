"""Error bounds of the vector functions, over all exponents, on each level this machine can run."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tilewright.backends.cpu import machine
from tilewright.codegen.toolchain import default_toolchain
from tilewright.target import Target


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x.tolist()])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


#: name → (double-precision reference, bound in ulp)
FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (np.exp, 2),
    "exp2": (np.exp2, 2),
    "log": (np.log, 2),
    "log2": (np.log2, 3),
    "tanh": (np.tanh, 3),
    "erf": (_erf, 2),
    "sigmoid": (_sigmoid, 3),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2),
    "sqrt": (np.sqrt, 0.5),
    "reciprocal": (lambda x: 1 / x, 0.5),
    "floor": (np.floor, 0),
    "ceil": (np.ceil, 0),
    "round": (np.round, 0),
    "sign": (np.sign, 0),
}


@pytest.fixture(scope="module", params=[t.spelling for t in machine.runnable()])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target: Target = machine.targets()[request.param]
    tools = default_toolchain().bare
    text = f"#define TW_LANES {machine.lanes(target)}\n" + '#include "vec_math.h"\n'
    for name in FUNCTIONS:
        text += (
            f'__attribute__((visibility("default"))) void run_{name}(const float *x, float *y, int64_t n) {{\n'
            f"    for (int64_t i = 0; i < n; i += TW_LANES)\n"
            f"        store_part_f32(y + i, {name}_f32(load_part_f32(x + i, n - i)), n - i);\n}}\n"
        )
    headers = machine.headers()
    flags = machine.flags(target, tools)
    path: Path = tmp_path_factory.mktemp("vec") / "math.so"
    path.write_bytes(tools.link({"m": tools.compile(text, flags, headers=headers)}, flags))
    return ctypes.CDLL(str(path))


def _run(library: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, 77)
    pointer = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)]
    getattr(library, f"run_{name}")(*pointer, ctypes.c_int64(x.size))
    return y


def _samples() -> np.ndarray:
    """Every exponent with 200 significands, both signs, and a dense set where the functions do something."""
    rng = np.random.default_rng(7)
    bits = (np.arange(255, dtype=np.uint32) << 23)[:, None] | rng.integers(0, 1 << 23, (255, 200), dtype=np.uint32)
    wide = bits.ravel().view(np.float32)
    dense = rng.uniform(-20, 20, 200_000).astype(np.float32)
    near_one = (1 + rng.uniform(-0.3, 0.3, 20_000)).astype(np.float32)
    exponential = rng.uniform(-160, 140, 50_000).astype(np.float32)
    return np.concatenate([wide, -wide, dense, near_one, exponential])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_ulp(library: ctypes.CDLL, name: str) -> None:
    reference, bound = FUNCTIONS[name]
    x = _samples()
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
        rounded = exact.astype(np.float32)
        got = _run(library, name, x)
        special = ~np.isfinite(rounded)
        finite_error = np.abs(got.astype(np.float64) - exact) / np.spacing(
            np.maximum(np.abs(rounded), np.float32(2**-126))
        )
    # At the border to infinity both the largest number and infinity are within the bound.
    border = special & (np.abs(exact) < 3.4028235677973366e38 * (1 + 2**-22))
    np.testing.assert_array_equal(got[special & ~border], rounded[special & ~border])
    worst = int(np.argmax(np.where(special, 0, finite_error)))
    assert finite_error[worst] <= bound, (x[worst], got[worst], exact[worst])


@pytest.mark.parametrize(
    "name, x, expected",
    [
        ("exp", [-np.inf, np.inf, np.nan, 0.0, 89.0, -104.0], [0, np.inf, np.nan, 1, np.inf, 0]),
        ("log", [0.0, -1.0, np.inf, np.nan, 1.0], [-np.inf, np.nan, np.inf, np.nan, 0]),
        ("log2", [0.0, -1.0, np.inf, np.nan, 8.0], [-np.inf, np.nan, np.inf, np.nan, 3]),
        ("erf", [-np.inf, np.inf, np.nan, 0.0], [-1, 1, np.nan, 0]),
        ("tanh", [-np.inf, np.inf, np.nan, 0.0], [-1, 1, np.nan, 0]),
        ("sigmoid", [-np.inf, np.inf, np.nan, 0.0], [0, 1, np.nan, 0.5]),
        ("sign", [-np.inf, np.inf, np.nan, 0.0], [-1, 1, np.nan, 0]),
        ("round", [0.5, 1.5, -0.5, 2.5, np.nan], [0, 2, -0.0, 2, np.nan]),
    ],
)
def test_special_values(library: ctypes.CDLL, name: str, x: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(_run(library, name, np.array(x, np.float32)), np.array(expected, np.float32))


@pytest.mark.parametrize("n", [1, 3, 7, 8, 15, 16, 17, 33])
def test_partial_vectors_touch_nothing_else(library: ctypes.CDLL, n: int) -> None:
    x, y = np.full(64, 4.0, np.float32), np.full(64, 77.0, np.float32)
    library.run_sqrt(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))
    assert (y[:n] == 2).all() and (y[n:] == 77).all()
