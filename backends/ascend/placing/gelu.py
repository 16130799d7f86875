"""The exact gelu as one function of few vector instructions: it is what the vector cores do behind most products.

``x/2 · (1 + erf(x/√2)) = max(x, 0) − |x|/2 · erfc(|x|/√2)``, in which no sign has to be taken apart. The complement is
the 16th power of the reciprocal of a polynomial: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.28,
with an absolute error of at most 3e-7. Beyond 16 nothing is left of it in f32; up to there no power overflows.

A gelu that is rounded to 16 bits next is ``x / (1 + exp(−x·p(x²)))``, half as many instructions: the normal
distribution's odds are ``exp(x·p)`` with an even function ``p``, here the polynomial of degree 2 in ``x²`` whose
greatest absolute error in the gelu is least (a linear program over 60,001 points up to 12), with ``x²`` cut off at 20:
2.6e-5, as much as the rounding to f16 at 1/16.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Const, Unary, Value

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.arithmetic import Arithmetic
    from tilewright.backends.ascend.placing.strips import Piece

_A = (0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
_COEFFICIENTS = tuple(a * math.sqrt(0.5) ** (n + 1) for n, a in enumerate(_A))
_END = 16.0
#: ``-p``, the lowest power first, and where its argument is cut off.
_ODDS = (-1.59501531, -7.4011883e-02, 7.03183002e-04)
_CUT = 20.0
#: How far a constant may be from 1/√2 to be one that was rounded to some float of 16 bits or more.
_CLOSE = 1e-4


def gelu_operand(v: Value) -> Value | None:
    """``x`` where ``v`` is ``x · 0.5 · (erf(x/√2) + 1)`` in f32, in any order of sums and products."""
    if not isinstance(v, Binary) or v.op != "mul" or v.dtype is not DType.F32:
        return None
    for half, rest in ((v.a, v.b), (v.b, v.a)):
        x, shifted = _with(half, "mul", 0.5), _with(rest, "add", 1.0)
        if x is None or not isinstance(shifted, Unary) or shifted.op != "erf":
            continue
        if _with(shifted.x, "mul", math.sqrt(0.5), _CLOSE) == x:
            return x
    return None


def gelu(vector: Arithmetic, x: Piece) -> Piece:
    """The gelu of ``x``, which it leaves intact."""
    size = vector.apply("min", vector.apply("abs", vector.lend(x)), Scalar(_END))
    below = vector.apply("mul", vector.lend(size), Scalar(_COEFFICIENTS[-1]))
    for c in reversed(_COEFFICIENTS[:-1]):
        below = vector.apply("mul", vector.apply("add", below, Scalar(c)), vector.lend(size))
    below = vector.apply("add", below, Scalar(1.0))
    for _ in range(4):
        below = vector.apply("mul", vector.lend(below), below)
    tail = vector.apply("div", vector.apply("mul", size, Scalar(0.5)), below)
    return vector.apply("sub", vector.apply("max", vector.lend(x), Scalar(0.0)), tail)


def rounded_gelu(vector: Arithmetic, x: Piece) -> Piece:
    """The gelu of ``x`` for a result of 16 bits; it leaves ``x`` intact."""
    square = vector.apply("min", vector.apply("mul", vector.lend(x), vector.lend(x)), Scalar(_CUT))
    odds = vector.apply("add", vector.apply("mul", vector.lend(square), Scalar(_ODDS[2])), Scalar(_ODDS[1]))
    odds = vector.apply("add", vector.apply("mul", odds, square), Scalar(_ODDS[0]))
    odds = vector.apply("exp", vector.apply("mul", odds, vector.lend(x)))
    return vector.apply("div", vector.lend(x), vector.apply("add", odds, Scalar(1.0)))


def _with(v: Value, op: str, number: float, within: float = 0.0) -> Value | None:
    """The other operand where ``v`` is ``op`` with a constant that is ``number``, or ``within`` so much of it."""
    if isinstance(v, Binary) and v.op == op:
        for c, other in ((v.a, v.b), (v.b, v.a)):
            if isinstance(c, Const) and abs(float(c.value) - number) <= within:
                return other
    return None
