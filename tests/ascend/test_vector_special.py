"""Functions that take several vector instructions: their error against mpmath, in units of 2^-24 of the result."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from tilewright.backends.ascend.placing.angles import LARGEST, pieces_of_right_angle
from tilewright.backends.ascend.simulator.machine import check

from tests.ascend.vector import made

KERNEL = """def k(X: f32[N], Y: out[f32[N]]):
    where(1 <= N <= 4000)
    n: N
    Y[n] = {value}"""

#: Function, the largest error in units, the largest argument, the function of mpmath.
FUNCTIONS = {
    "erf": (5, 6.0, mpmath.erf),
    "sigmoid": (3, 80.0, lambda x: 1 / (1 + mpmath.exp(-x))),
    "tanh": (5, 20.0, mpmath.tanh),
    "rsqrt": (3, 1e6, lambda x: 1 / mpmath.sqrt(x) if x > 0 else None),
    "log2": (3, 1e6, lambda x: mpmath.log(x, 2) if x > 0 else None),
    "exp2": (4, 126.0, lambda x: mpmath.power(2, x)),
    "sinh": (6, 88.9, mpmath.sinh),
    "cosh": (6, 88.9, mpmath.cosh),
    "asinh": (7, 1e12, mpmath.asinh),
    "acosh": (7, 1e12, lambda x: mpmath.acosh(x) if x >= 1 else None),
    "atanh": (7, 1.0, lambda x: mpmath.atanh(x) if abs(x) < 1 else None),
    "sin": (3, 100000.0, mpmath.sin),
    "cos": (3, 100000.0, mpmath.cos),
    "tan": (5, 100000.0, mpmath.tan),
    "atan": (4, 1e9, mpmath.atan),
    "asin": (6, 1.0, lambda x: mpmath.asin(x) if abs(x) <= 1 else None),
    "acos": (6, 1.0, lambda x: mpmath.acos(x) if abs(x) <= 1 else None),
}


def arguments(largest: float) -> np.ndarray:
    """Of every size up to ``largest``, both signs, and what stands out."""
    random = np.random.default_rng(0)
    sizes = np.exp(random.uniform(math.log(1e-6), math.log(largest), 500))
    even = random.uniform(0, min(largest, 10.0), 300)
    x = np.concatenate([sizes, even, [1.0, 0.875, 0.625, 0.41421357, 0.5, 1.5707964, 3.1415927]])
    return np.concatenate([x, -x])[np.concatenate([x, x]) <= largest].astype(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(name: str) -> None:
    units, largest, exact = FUNCTIONS[name]
    x = arguments(largest)
    _, program = made(KERNEL.format(value=f"{name}(X[n])"))
    got = check(program, {"X": x}, {"N": len(x)}).outputs["Y"]
    worst = 0.0
    with mpmath.workdps(40):
        for a, b in zip(x.tolist(), got.tolist(), strict=True):
            want = exact(mpmath.mpf(a))
            if want is None:
                continue
            scale = max(abs(want), mpmath.mpf(2) ** -100)
            worst = max(worst, float(abs(b - want) / scale * 2**24))
    assert worst <= units, f"{worst:.2f} units"


EDGES = {
    "erf": [(0.0, 0.0), (math.inf, 1.0), (-math.inf, -1.0), (math.nan, math.nan)],
    "tanh": [(0.0, 0.0), (math.inf, 1.0), (-math.inf, -1.0), (math.nan, math.nan)],
    "sigmoid": [(math.inf, 1.0), (-math.inf, 0.0), (math.nan, math.nan)],
    "exp2": [(math.inf, math.inf), (-math.inf, 0.0), (0.0, 1.0), (3.0, 8.0), (math.nan, math.nan), (129.0, math.inf)],
    "sin": [(0.0, 0.0), (math.inf, math.nan), (2 * LARGEST, math.nan), (math.nan, math.nan)],
    "atan": [(math.inf, math.pi / 2), (-math.inf, -math.pi / 2), (0.0, 0.0)],
    "acos": [(1.0, 0.0), (-1.0, math.pi), (1.5, math.nan)],
    "asin": [(1.0, math.pi / 2), (-1.0, -math.pi / 2), (1.5, math.nan)],
    "asinh": [(math.inf, math.inf), (-math.inf, -math.inf), (0.0, 0.0)],
    "acosh": [(1.0, 0.0), (0.5, math.nan), (math.inf, math.inf)],
    "atanh": [(1.0, math.inf), (-1.0, -math.inf), (1.5, math.nan)],
    "sinh": [(math.inf, math.inf), (-math.inf, -math.inf)],
    "cosh": [(math.inf, math.inf), (-math.inf, math.inf)],
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    x = np.array([a for a, _ in EDGES[name]], np.float32)
    want = np.array([b for _, b in EDGES[name]], np.float32)
    _, program = made(KERNEL.format(value=f"{name}(X[n])"))
    got = check(program, {"X": x}, {"N": len(x)}).outputs["Y"]
    np.testing.assert_allclose(got, want, rtol=3e-7)


@pytest.mark.parametrize("exponent", [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 7.0, -1.0, -0.5, -2.0])
def test_powers(exponent: float) -> None:
    x = np.array([0.0, 0.5, 1.0, 2.5, 3.0, 1e4, math.inf] + ([-2.0] if exponent.is_integer() else []), np.float32)
    _, program = made(KERNEL.format(value=f"X[n] ** f32({exponent})"))
    got = check(program, {"X": x}, {"N": len(x)}).outputs["Y"]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(got, x.astype(np.float64) ** exponent, rtol=6e-7)


def test_pieces_of_a_right_angle_have_eight_bits() -> None:
    pieces = pieces_of_right_angle()
    for piece in pieces[:-1]:
        mantissa, _ = math.frexp(piece)
        assert (mantissa * 256).is_integer()
    with mpmath.workdps(40):
        assert abs(mpmath.fsum(pieces) - mpmath.pi / 2) < 1e-24
