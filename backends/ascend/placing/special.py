"""Functions of f32 that take several vector instructions, with the error of each formula.

Errors are relative, in units of 2^-24, of the formula in f32 with its ``exp``, ``ln``, ``sqrt`` and ``div`` taken as
correctly rounded; ``tests/ascend/test_vector_special.py`` measures them against mpmath. Polynomials are Chebyshev fits
(mpmath ``chebyfit``) of ``f(x) / x`` in ``x²``, or of ``f(x)`` in ``x²`` for even functions, rounded to f32.
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

Function = Callable[["Arithmetic", "Piece"], "Piece"]

#: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error at most 1.5e-7.
_ERF_P = 0.3275911
_ERF_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
#: ``erf(x) / x`` for ``|x| < 0.875``, to 8.9e-9.
_ERF_NEAR = (-0.0006214585, 0.0050343708, -0.026792947, 0.11282497, -0.37612554, 1.1283791)
#: ``tanh(x) / x`` for ``|x| < 0.625``, to 3.9e-9.
_TANH_NEAR = (-0.005657135, 0.020588191, -0.053720109, 0.13331114, -0.3333326, 1.0)
#: ``sinh(x) / x`` for ``|x| < 1``, to 5e-11.
_SINH_NEAR = (2.819019e-06, 0.00019835714, 0.0083333533, 0.16666666, 1.0)
#: Beyond this ``ln(2 x)`` is ``asinh`` and ``acosh`` to the last place.
_FAR = 1e9


def polynomial(vector: Arithmetic, x: Piece, coefficients: Sequence[float]) -> Piece:
    """By Horner's rule, highest coefficient first; leaves ``x`` intact."""
    total = vector.apply("mul", vector.lend(x), Scalar(coefficients[0]))
    for c in coefficients[1:-1]:
        total = vector.apply("mul", vector.apply("add", total, Scalar(c)), vector.lend(x))
    return vector.apply("add", total, Scalar(coefficients[-1]))


def odd(vector: Arithmetic, x: Piece, coefficients: Sequence[float]) -> Piece:
    """``x`` times a polynomial in ``x²``; leaves ``x`` intact."""
    square = vector.apply("mul", vector.lend(x), vector.lend(x))
    total = polynomial(vector, square, coefficients)
    vector.recycle(square)
    return vector.apply("mul", total, vector.lend(x))


def signed(vector: Arithmetic, x: Piece, size: Piece) -> Piece:
    """``size`` with the sign of ``x``; uses both up."""
    negative = vector.apply("mul", vector.lend(size), Scalar(-1.0))
    return vector.choose("lt", (x, Scalar(0.0)), (negative, size), DType.F32)


def log1p(vector: Arithmetic, y: Piece) -> Piece:
    """``ln(1 + y)`` for ``y >= 0``: ``ln(u) y / (u - 1)`` with ``u = 1 + y``, which makes good what ``u`` lost; 4."""
    u = vector.apply("add", vector.lend(y), Scalar(1.0))
    log = vector.apply("log", vector.lend(u))
    below = vector.apply("add", vector.lend(u), Scalar(-1.0))
    ratio = vector.apply("div", vector.apply("mul", vector.lend(log), vector.lend(y)), below)
    ratio = vector.choose("eq", (u, Scalar(1.0)), (vector.lend(y), ratio), DType.F32)
    return vector.choose("gt", (y, Scalar(_FAR)), (log, ratio), DType.F32)


def _erf(vector: Arithmetic, x: Piece) -> Piece:
    """A polynomial near 0, else ``sign(x) (1 - t (a1 + t (a2 + …)) exp(-x²))`` with ``t = 1 / (1 + p |x|)``; 5."""
    size = vector.apply("abs", vector.lend(x))
    near = odd(vector, size, _ERF_NEAR)
    square = vector.apply("mul", vector.lend(size), vector.lend(size))
    decay = vector.apply("exp", vector.apply("mul", square, Scalar(-1.0)))
    below = vector.apply("add", vector.apply("mul", vector.lend(size), Scalar(_ERF_P)), Scalar(1.0))
    t = vector.apply("div", Scalar(1.0), below)
    total = vector.apply("mul", vector.lend(t), Scalar(_ERF_A[0]))
    for a in _ERF_A[1:-1]:
        total = vector.apply("mul", vector.apply("add", total, Scalar(a)), vector.lend(t))
    total = vector.apply("mul", vector.apply("add", total, Scalar(_ERF_A[-1])), t)
    total = vector.apply("mul", total, decay)
    far = vector.apply("add", vector.apply("mul", total, Scalar(-1.0)), Scalar(1.0))
    return signed(vector, x, vector.choose("lt", (size, Scalar(0.875)), (near, far), DType.F32))


def _sigmoid(vector: Arithmetic, x: Piece) -> Piece:
    """``1 / (1 + exp(-x))``; 3."""
    below = vector.apply("add", vector.apply("exp", vector.apply("mul", x, Scalar(-1.0))), Scalar(1.0))
    return vector.apply("div", Scalar(1.0), below)


def _tanh(vector: Arithmetic, x: Piece) -> Piece:
    """A polynomial near 0, else ``1 - 2 / (exp(2 x) + 1)``; 5."""
    near = odd(vector, x, _TANH_NEAR)
    below = vector.apply("add", vector.apply("exp", vector.apply("mul", vector.lend(x), Scalar(2.0))), Scalar(1.0))
    part = vector.apply("mul", vector.apply("div", Scalar(2.0), below), Scalar(-1.0))
    far = vector.apply("add", part, Scalar(1.0))
    return vector.choose("lt", (vector.apply("abs", x), Scalar(0.625)), (near, far), DType.F32)


def _sign(vector: Arithmetic, x: Piece) -> Piece:
    """-1, 0 or 1; 0 and NaN stay what they are. Exact."""
    up = vector.choose("gt", (vector.lend(x), Scalar(0.0)), (Scalar(1.0), vector.lend(x)), DType.F32)
    return vector.choose("lt", (x, Scalar(0.0)), (Scalar(-1.0), up), DType.F32)


def _log2(vector: Arithmetic, x: Piece) -> Piece:
    """``ln(x) / ln(2)``; 3."""
    return vector.apply("mul", vector.apply("log", x), Scalar(1 / math.log(2)))


def _exp2(vector: Arithmetic, x: Piece) -> Piece:
    """``p + p r`` with ``p = exp(y)``, ``y = x ln 2`` rounded and ``r`` what that lost, from halves of 12 bits of both
    factors (Dekker 1971); 4."""
    log = math.log(2)
    high = round(log * 4096) / 4096
    x = vector.apply("min", vector.apply("max", x, Scalar(-200.0)), Scalar(200.0))
    y = vector.apply("mul", vector.lend(x), Scalar(log))
    wide = vector.apply("mul", vector.lend(x), Scalar(4097.0))
    rest = vector.apply("sub", vector.lend(wide), vector.lend(x))
    x_high = vector.apply("sub", wide, rest)
    x_low = vector.apply("sub", x, vector.lend(x_high))
    lost = vector.apply("sub", vector.apply("mul", vector.lend(x_high), Scalar(high)), vector.lend(y))
    lost = vector.apply("add", lost, vector.apply("mul", x_high, Scalar(log - high)))
    lost = vector.apply("add", lost, vector.apply("mul", vector.lend(x_low), Scalar(high)))
    lost = vector.apply("add", lost, vector.apply("mul", x_low, Scalar(log - high)))
    p = vector.apply("exp", y)
    product = vector.apply("mul", lost, vector.lend(p))
    exact = vector.apply("add", vector.lend(p), product)
    return vector.choose("lt", (vector.lend(p), Scalar(math.inf)), (exact, p), DType.F32)


def _sinh(vector: Arithmetic, x: Piece) -> Piece:
    """A polynomial near 0, else ``(h h - 1 / (h h)) / 2`` with ``h = exp(|x| / 2)``, which overflows late; 6."""
    near = odd(vector, x, _SINH_NEAR)
    up, down = _halves(vector, x)
    far = signed(vector, vector.lend(x), vector.apply("sub", up, down))
    return vector.choose("lt", (vector.apply("abs", x), Scalar(1.0)), (near, far), DType.F32)


def _cosh(vector: Arithmetic, x: Piece) -> Piece:
    """``(h h + 1 / (h h)) / 2`` with ``h = exp(|x| / 2)``; 6."""
    up, down = _halves(vector, x)
    vector.recycle(x)
    return vector.apply("add", up, down)


def _halves(vector: Arithmetic, x: Piece) -> tuple[Piece, Piece]:
    """``exp(|x|) / 2`` and ``exp(-|x|) / 2``; leaves ``x`` intact."""
    h = vector.apply("exp", vector.apply("mul", vector.apply("abs", vector.lend(x)), Scalar(0.5)))
    up = vector.apply("mul", vector.apply("mul", vector.lend(h), Scalar(0.5)), vector.lend(h))
    down = vector.apply("div", vector.apply("div", Scalar(0.5), vector.lend(h)), h)
    return up, down


def _asinh(vector: Arithmetic, x: Piece) -> Piece:
    """``sign(x) log1p(a + a² / (1 + sqrt(a² + 1)))`` with ``a = |x|``; 7."""
    a = vector.apply("abs", vector.lend(x))
    square = vector.apply("mul", vector.lend(a), vector.lend(a))
    root = vector.apply("sqrt", vector.apply("add", vector.lend(square), Scalar(1.0)))
    part = vector.apply("div", square, vector.apply("add", root, Scalar(1.0)))
    near = log1p(vector, vector.apply("add", part, vector.lend(a)))
    far = vector.apply("add", vector.apply("log", vector.lend(a)), Scalar(math.log(2)))
    return signed(vector, x, vector.choose("gt", (a, Scalar(_FAR)), (far, near), DType.F32))


def _acosh(vector: Arithmetic, x: Piece) -> Piece:
    """``log1p(t + sqrt(2 t + t²))`` with ``t = x - 1``; NaN below 1; 7."""
    t = vector.apply("add", vector.lend(x), Scalar(-1.0))
    inner = vector.apply("mul", vector.apply("add", vector.lend(t), Scalar(2.0)), vector.lend(t))
    near = log1p(vector, vector.apply("add", vector.apply("sqrt", inner), t))
    far = vector.apply("add", vector.apply("log", vector.lend(x)), Scalar(math.log(2)))
    return vector.choose("gt", (x, Scalar(_FAR)), (far, near), DType.F32)


def _atanh(vector: Arithmetic, x: Piece) -> Piece:
    """``sign(x) log1p(2 a / (1 - a)) / 2`` with ``a = |x|``; NaN beyond 1; 7."""
    a = vector.apply("abs", vector.lend(x))
    below = vector.apply("add", vector.apply("mul", vector.lend(a), Scalar(-1.0)), Scalar(1.0))
    inner = vector.apply("div", vector.apply("mul", vector.lend(a), Scalar(2.0)), below)
    made = vector.apply("mul", log1p(vector, inner), Scalar(0.5))
    inside = vector.choose("gt", (a, Scalar(1.0)), (Scalar(math.nan), made), DType.F32)
    return signed(vector, x, inside)


#: Whole exponents that are computed by multiplication.
_POWERS = 8


def power(vector: Arithmetic, a: Value, b: Value) -> Piece:
    """``a`` to a constant exponent: a whole one of at most 8, a half, a quarter, or their reciprocals; each operation
    rounds once. Raises :class:`UnsupportedError` for any other exponent."""
    if not isinstance(b, Const):
        raise vector.unsupported("a power whose exponent is not constant")
    exponent = float(b.value)
    size = abs(exponent)
    if size not in (0.25, 0.5) and (size > _POWERS or not size.is_integer()):
        raise vector.unsupported(f"a power with exponent {exponent}")
    x: Piece = vector.strip(vector.operand(a, DType.F32), (), DType.F32)
    if size in (0.25, 0.5):
        # An infinite number to the power of a half is infinite whatever its sign, -0 gives +0.
        infinite = vector.apply("abs", vector.lend(x))
        root = vector.apply("sqrt", vector.apply("add", vector.lend(x), Scalar(0.0)))
        made = vector.choose("eq", (x, Scalar(-math.inf)), (infinite, root), DType.F32)
        made = vector.apply("sqrt", made) if size == 0.25 else made
    elif size == 0:
        return vector.strip(Scalar(1.0), vector.joined(x), DType.F32)
    else:
        made = _whole_power(vector, x, int(size))
    return vector.apply("div", Scalar(1.0), made) if exponent < 0 else made


def _whole_power(vector: Arithmetic, x: Piece, n: int) -> Piece:
    if n == 1:
        return x
    half = _whole_power(vector, vector.lend(x), n // 2)
    square = vector.apply("mul", vector.lend(half), half)
    return vector.apply("mul", square, vector.lend(x)) if n % 2 else square


SPECIAL: dict[str, Function] = {
    "erf": _erf,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "sign": _sign,
    "log2": _log2,
    "exp2": _exp2,
    "sinh": _sinh,
    "cosh": _cosh,
    "asinh": _asinh,
    "acosh": _acosh,
    "atanh": _atanh,
}
