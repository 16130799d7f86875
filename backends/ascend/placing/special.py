"""Functions of f32 that take several vector instructions, with the error of each formula.

Errors are those of the formula in f32, its ``exp``, ``ln``, ``sqrt`` and ``div`` taken as correctly rounded; a unit is
2^-24 relative to the result. Polynomials are least-maximum fits (Chebyshev nodes, mpmath), so their coefficients come
from no table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.ir.types import DType
from tilewright.kernel.expr import Const, Value

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.arithmetic import Arithmetic
    from tilewright.backends.ascend.placing.strips import Piece

#: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error at most 1.5e-7.
_ERF_P = 0.3275911
_ERF_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def _erf(vector: Arithmetic, x: Piece) -> Piece:
    """``sign(x) (1 - t (a1 + t (a2 + …)) exp(-x²))`` with ``t = 1 / (1 + p |x|)``."""
    size = vector.apply("abs", vector.lend(x))
    square = vector.apply("mul", vector.lend(size), vector.lend(size))
    decay = vector.apply("exp", vector.apply("mul", square, Scalar(-1.0)))
    below = vector.apply("add", vector.apply("mul", size, Scalar(_ERF_P)), Scalar(1.0))
    t = vector.apply("div", Scalar(1.0), below)
    total = vector.apply("mul", vector.lend(t), Scalar(_ERF_A[0]))
    for a in _ERF_A[1:-1]:
        total = vector.apply("mul", vector.apply("add", total, Scalar(a)), vector.lend(t))
    total = vector.apply("mul", vector.apply("add", total, Scalar(_ERF_A[-1])), t)
    total = vector.apply("mul", total, decay)
    positive = vector.apply("add", vector.apply("mul", total, Scalar(-1.0)), Scalar(1.0))
    negative = vector.apply("mul", vector.lend(positive), Scalar(-1.0))
    return vector.choose("ge", (x, Scalar(0.0)), (positive, negative), DType.F32)


def _sigmoid(vector: Arithmetic, x: Piece) -> Piece:
    """``1 / (1 + exp(-x))``; exact to the error of the device's ``exp``."""
    below = vector.apply("add", vector.apply("exp", vector.apply("mul", x, Scalar(-1.0))), Scalar(1.0))
    return vector.apply("div", Scalar(1.0), below)


def _tanh(vector: Arithmetic, x: Piece) -> Piece:
    """``1 - 2 / (exp(2 x) + 1)``; relative error grows near 0, where it is at most 1.2e-7 absolute."""
    below = vector.apply("add", vector.apply("exp", vector.apply("mul", x, Scalar(2.0))), Scalar(1.0))
    part = vector.apply("mul", vector.apply("div", Scalar(2.0), below), Scalar(-1.0))
    return vector.apply("add", part, Scalar(1.0))


def _sign(vector: Arithmetic, x: Piece) -> Piece:
    """-1, 0 or 1; 0 and NaN stay what they are."""
    up = vector.choose("gt", (vector.lend(x), Scalar(0.0)), (Scalar(1.0), vector.lend(x)), DType.F32)
    return vector.choose("lt", (x, Scalar(0.0)), (Scalar(-1.0), up), DType.F32)


def polynomial(vector: Arithmetic, x: Piece, coefficients: Sequence[float]) -> Piece:
    """By Horner's rule, highest coefficient first; leaves ``x`` intact."""
    total = vector.apply("mul", vector.lend(x), Scalar(coefficients[0]))
    for c in coefficients[1:-1]:
        total = vector.apply("mul", vector.apply("add", total, Scalar(c)), vector.lend(x))
    return vector.apply("add", total, Scalar(coefficients[-1]))


#: Whole exponents that are computed by multiplication.
_POWERS = 8


def power(vector: Arithmetic, a: Value, b: Value) -> Piece:
    """``a`` to a constant exponent: a whole one of at most 8, a half, or their reciprocals; each multiplication rounds
    once. Raises :class:`UnsupportedError` for any other exponent."""
    if not isinstance(b, Const):
        raise vector.unsupported("a power whose exponent is not constant")
    exponent = float(b.value)
    size = abs(exponent)
    whole = math.floor(size)
    if size > _POWERS or size - whole not in (0.0, 0.5) or size == 0.5 + whole > 1.0:
        raise vector.unsupported(f"a power with exponent {exponent}")
    x = vector.strip(vector.operand(a, DType.F32), (), DType.F32)
    if size == 0.5:
        made = vector.apply("sqrt", vector.apply("add", x, Scalar(0.0)))
    elif whole == 0:
        return vector.strip(Scalar(1.0), x.axes, DType.F32)
    else:
        made = _whole_power(vector, x, whole)
    return vector.apply("div", Scalar(1.0), made) if exponent < 0 else made


def _whole_power(vector: Arithmetic, x: Piece, n: int) -> Piece:
    if n == 1:
        return x
    half = _whole_power(vector, vector.lend(x), n // 2)
    square = vector.apply("mul", vector.lend(half), half)
    return vector.apply("mul", square, vector.lend(x)) if n % 2 else square


SPECIAL: dict[str, Callable[[Arithmetic, Piece], Piece]] = {
    "erf": _erf,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "sign": _sign,
}
