"""Trigonometric functions of f32 in vector instructions. Errors as in :mod:`special`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.backends.ascend.placing.special import Function, odd, polynomial, signed
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.arithmetic import Arithmetic
    from tilewright.backends.ascend.placing.strips import Piece

#: ``sin(x) / x`` to 3.1e-9 and ``cos(x)`` to 4.8e-11 for ``|x| <= π/4``.
_SIN = (-0.00019503235, 0.008332031, -0.16666651, 1.0)
_COS = (2.4378995e-05, -0.0013886609, 0.041666616, -0.5, 1.0)
#: ``atan(x) / x`` for ``|x| <= tan(π/8)``, to 6.2e-10.
_ATAN = (-0.060263053, 0.10569829, -0.14239533, 0.19998182, -0.33333308, 1.0)
#: Beyond this the number of quarter turns has more than 16 bits; the functions are NaN there.
LARGEST = 65536.0 * math.pi / 2


def _reduced(vector: Arithmetic, x: Piece) -> tuple[Piece, Piece]:
    """Quarter turns as whole numbers, and what is left of ``x``, at most π/4; uses ``x`` up."""
    inside = vector.choose(
        "le", (vector.apply("abs", vector.lend(x)), Scalar(LARGEST)), (vector.lend(x), Scalar(math.nan)), DType.F32
    )
    vector.recycle(x)
    turns = vector.unary("round", vector.apply("mul", vector.lend(inside), Scalar(2 / math.pi)), DType.F32)
    for piece in pieces_of_right_angle():
        inside = vector.apply("sub", inside, vector.apply("mul", vector.lend(turns), Scalar(piece)))
    return turns, inside


def pieces_of_right_angle() -> tuple[float, ...]:
    """π/2 = Σ pieces: four of 8 bits, and the rest as f32. The products of the first with a whole number below 2^16 are
    exact (Cody and Waite 1980)."""
    rest, found = math.pi / 2, []
    for _ in range(4):
        step = 2.0 ** (math.floor(math.log2(rest)) - 7)
        found.append(math.floor(rest / step) * step)
        rest -= found[-1]
    # What f64 holds of π/2 ends 6.1e-17 below it.
    return (*found, rest + 6.123233995736766e-17)


def _parts(vector: Arithmetic, r: Piece) -> tuple[Piece, Piece]:
    """Sine and cosine of at most π/4; uses ``r`` up."""
    square = vector.apply("mul", vector.lend(r), vector.lend(r))
    cosine = polynomial(vector, square, _COS)
    vector.recycle(square)
    sine = odd(vector, r, _SIN)
    vector.recycle(r)
    return sine, cosine


def _quadrant(vector: Arithmetic, turns: Piece, first: float, n: float) -> Piece:
    """``(turns + first) mod n``; leaves ``turns`` intact."""
    moved = vector.apply("add", vector.lend(turns), Scalar(first))
    whole = vector.unary("floor", vector.apply("mul", vector.lend(moved), Scalar(1 / n)), DType.F32)
    return vector.apply("sub", moved, vector.apply("mul", whole, Scalar(n)))


def _turned(vector: Arithmetic, x: Piece, first: float) -> Piece:
    turns, r = _reduced(vector, x)
    sine, cosine = _parts(vector, r)
    quadrant = _quadrant(vector, turns, first, 4.0)
    side = _quadrant(vector, turns, first, 2.0)
    vector.recycle(turns)
    value = vector.choose("gt", (side, Scalar(0.5)), (cosine, sine), DType.F32)
    negative = vector.apply("mul", vector.lend(value), Scalar(-1.0))
    return vector.choose("gt", (quadrant, Scalar(1.5)), (negative, value), DType.F32)


def _sin(vector: Arithmetic, x: Piece) -> Piece:
    """Polynomials on a quarter turn; 3, NaN beyond 102,943."""
    return _turned(vector, x, 0.0)


def _cos(vector: Arithmetic, x: Piece) -> Piece:
    """Polynomials on a quarter turn; 3, NaN beyond 102,943."""
    return _turned(vector, x, 1.0)


def _tan(vector: Arithmetic, x: Piece) -> Piece:
    """Sine by cosine, or minus cosine by sine; 5, NaN beyond 102,943."""
    turns, r = _reduced(vector, x)
    sine, cosine = _parts(vector, r)
    side = _quadrant(vector, turns, 0.0, 2.0)
    vector.recycle(turns)
    even = vector.apply("div", vector.lend(sine), vector.lend(cosine))
    other = vector.apply("div", vector.apply("mul", cosine, Scalar(-1.0)), sine)
    return vector.choose("gt", (side, Scalar(0.5)), (other, even), DType.F32)


def atan(vector: Arithmetic, x: Piece) -> Piece:
    """``π/2 - atan(1/a)`` beyond 1, ``π/4 + atan((a - 1) / (a + 1))`` beyond tan(π/8); 4. Uses ``x`` up."""
    size = vector.apply("abs", vector.lend(x))
    inverse = vector.apply("div", Scalar(1.0), vector.lend(size))
    a = vector.choose("gt", (vector.lend(size), Scalar(1.0)), (inverse, vector.lend(size)), DType.F32)
    above = vector.apply("add", vector.lend(a), Scalar(-1.0))
    ratio = vector.apply("div", above, vector.apply("add", vector.lend(a), Scalar(1.0)))
    far = (vector.lend(a), Scalar(math.tan(math.pi / 8)))
    t = vector.choose("gt", far, (ratio, vector.lend(a)), DType.F32)
    value = odd(vector, t, _ATAN)
    vector.recycle(t)
    more = vector.apply("add", vector.lend(value), Scalar(math.pi / 4))
    value = vector.choose("gt", (a, Scalar(math.tan(math.pi / 8))), (more, value), DType.F32)
    rest = vector.apply("add", vector.apply("mul", vector.lend(value), Scalar(-1.0)), Scalar(math.pi / 2))
    value = vector.choose("gt", (size, Scalar(1.0)), (rest, value), DType.F32)
    return signed(vector, x, value)


def _asin(vector: Arithmetic, x: Piece) -> Piece:
    """``atan(x / sqrt((1 - x) (1 + x)))``; NaN beyond 1; 6."""
    below = vector.apply("add", vector.apply("mul", vector.lend(x), Scalar(-1.0)), Scalar(1.0))
    inner = vector.apply("mul", below, vector.apply("add", vector.lend(x), Scalar(1.0)))
    return atan(vector, vector.apply("div", x, vector.apply("sqrt", inner)))


def _acos(vector: Arithmetic, x: Piece) -> Piece:
    """``2 atan(sqrt((1 - x) / (1 + x)))``; NaN beyond 1; 6."""
    below = vector.apply("add", vector.apply("mul", vector.lend(x), Scalar(-1.0)), Scalar(1.0))
    ratio = vector.apply("div", below, vector.apply("add", x, Scalar(1.0)))
    return vector.apply("mul", atan(vector, vector.apply("sqrt", ratio)), Scalar(2.0))


ANGLES: dict[str, Function] = {"sin": _sin, "cos": _cos, "tan": _tan, "atan": atan, "asin": _asin, "acos": _acos}
