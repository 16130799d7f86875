"""Weights that are integers in memory and operands of the cube unit: what a value says of how they are widened.

    f32(W[k, n])                                         integers as they are: 8 and 4 bits are exact in f16
    f32(f16((f32(W[k, n]) - f32(Z[b, n])) * f32(S[b, n])))    dequantized, rounded once to what the cube unit multiplies
    (f32(W[k, n]) - f32(Z[b, n])) * S[b, n]              the same where that is f32

``b`` is ``k // block``; ``Z`` may be absent. Scales of one row for all of ``k`` have no ``b``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Cast, Load, Value

#: Element types of weights, and of what they are multiplied with.
INTEGERS = (DType.I8, DType.U8, DType.I4)
OPERANDS = (DType.F16, DType.BF16, DType.F32)


@dataclass(frozen=True, slots=True)
class Dequantized:
    """Reads of integers and of what makes numbers of them. ``rounded``: the type that the product is rounded to, where
    the value says so."""

    integers: Load
    zero: Load | None = None
    scale: Load | None = None
    rounded: DType | None = None

    @property
    def loads(self) -> tuple[Load, ...]:
        """Integers first, then what there is of zero points and scales."""
        return tuple(x for x in (self.integers, self.zero, self.scale) if x is not None)


def dequantized(value: Value) -> Dequantized | None:
    """What ``value``, one side of a product of f32, reads where it is such weights."""
    if value.dtype is not DType.F32:
        return None
    rounded: DType | None = None
    match value:
        case Cast(x=Cast(dtype=DType.F16 | DType.BF16 as dtype, x=inner)):
            rounded, value = dtype, inner
    match value:
        case Binary(op="mul", a=centred, b=s):
            scale = _narrow(s, OPERANDS)
            found = _centred(centred)
            if scale is None or found is None:
                return None
            return Dequantized(found[0], found[1], scale, rounded)
    integers = _narrow(value, INTEGERS)
    return None if integers is None or rounded is not None else Dequantized(integers)


def _centred(value: Value) -> tuple[Load, Load | None] | None:
    """Integers, less their zero points where there are any."""
    zero: Load | None = None
    match value:
        case Binary(op="sub", a=a, b=b):
            zero, value = _narrow(b, INTEGERS), a
            if zero is None:
                return None
    integers = _narrow(value, INTEGERS)
    return None if integers is None else (integers, zero)


def _narrow(value: Value, dtypes: tuple[DType, ...]) -> Load | None:
    """The load below a cast to f32, or a load of f32; ``None`` for what may lie outside its tensor."""
    load = value.x if isinstance(value, Cast) else value
    if not isinstance(load, Load) or load.dtype not in dtypes or load.fill is not None:
        return None
    return load
