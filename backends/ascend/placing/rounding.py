"""Whole numbers next to those of f32 by sums alone, for cores without a cast that rounds f32.

``(x + 2^23) - 2^23`` is the nearest whole number, to even in a tie, for ``0 <= x < 2^23``; from there on every f32 is
one. The other roundings go one up or down from it. Signs are taken off first and put on again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.backends.ascend.placing.strips import Piece, Strip
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.arithmetic import Arithmetic

_WHOLE = Scalar(float(1 << 23))
_DOWN = Scalar(-float(1 << 23))


def rounded_by_sums(vector: Arithmetic, x: Strip, mode: str) -> Strip:
    """``x`` (f32) rounded as ``mode`` of ``cast`` says; uses it up."""
    if mode in ("floor", "ceil"):
        whole = _nearest(vector, vector.lend(x))
        op, step = ("gt", -1.0) if mode == "floor" else ("lt", 1.0)
        other = vector.apply("add", vector.lend(whole), Scalar(step))
        return _strip(vector.choose(op, (vector.lend(whole), x), (other, whole), DType.F32))
    if mode == "rint":
        return _nearest(vector, x)
    size = vector.unary("abs", vector.lend(x), DType.F32)
    near = _nearest_size(vector, vector.lend(size))
    lower = vector.apply("add", vector.lend(near), Scalar(-1.0))
    floor = vector.choose("gt", (vector.lend(near), vector.lend(size)), (lower, near), DType.F32)
    if mode == "round":
        rest = vector.binary("sub", size, vector.lend(floor), DType.F32)
        upper = vector.apply("add", vector.lend(floor), Scalar(1.0))
        floor = vector.choose("ge", (rest, Scalar(0.5)), (upper, floor), DType.F32)
    else:
        vector.recycle(size)
    return _signed(vector, floor, x)


def _nearest(vector: Arithmetic, x: Piece) -> Strip:
    size = vector.unary("abs", vector.lend(x), DType.F32)
    return _signed(vector, _nearest_size(vector, size), x)


def _nearest_size(vector: Arithmetic, size: Piece) -> Piece:
    """The nearest whole number to what is not negative."""
    near = vector.apply("add", vector.apply("add", vector.lend(size), _WHOLE), _DOWN)
    return vector.choose("lt", (vector.lend(size), _WHOLE), (near, size), DType.F32)


def _signed(vector: Arithmetic, size: Piece, x: Piece) -> Strip:
    """``size`` with the sign of ``x``."""
    below = vector.apply("mul", vector.lend(size), Scalar(-1.0))
    return _strip(vector.choose("lt", (x, Scalar(0.0)), (below, size), DType.F32))


def _strip(piece: Piece) -> Strip:
    assert isinstance(piece, Strip)
    return piece
