"""Functions that take several vector instructions, with the error of each formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.strips import Piece
    from tilewright.backends.ascend.placing.vector import VectorPart

#: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error at most 1.5e-7.
_ERF_P = 0.3275911
_ERF_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def _erf(vector: VectorPart, x: Piece) -> Piece:
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


def _sigmoid(vector: VectorPart, x: Piece) -> Piece:
    """``1 / (1 + exp(-x))``; exact to the error of the device's ``exp``."""
    below = vector.apply("add", vector.apply("exp", vector.apply("mul", x, Scalar(-1.0))), Scalar(1.0))
    return vector.apply("div", Scalar(1.0), below)


def _tanh(vector: VectorPart, x: Piece) -> Piece:
    """``1 - 2 / (exp(2 x) + 1)``; relative error grows near 0, where it is at most 1.2e-7 absolute."""
    below = vector.apply("add", vector.apply("exp", vector.apply("mul", x, Scalar(2.0))), Scalar(1.0))
    part = vector.apply("mul", vector.apply("div", Scalar(2.0), below), Scalar(-1.0))
    return vector.apply("add", part, Scalar(1.0))


SPECIAL: dict[str, Callable[[VectorPart, Piece], Piece]] = {"erf": _erf, "sigmoid": _sigmoid, "tanh": _tanh}
