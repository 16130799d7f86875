"""Types of less than 8 bits as programs get them: several elements a byte, row-major, the first in the lowest bits.

That is how the weights of an artifact hold them, and XLA's CPU client takes no operands of such types. They are taken
apart by shifts, which XLA fuses with what reads them; the conversion to the narrow type itself is skipped by whoever
goes on with wider numbers (:func:`widened`).
"""

from __future__ import annotations

import math
from typing import Any

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Tensor
from tilewright.ir.types import DType, TensorType


def packed_type(type_: TensorType) -> TensorType:
    """The type of the operand for a constant of type ``type_``: itself, or ``u8[bytes]``."""
    if type_.dtype.bits >= 8:
        return type_
    return TensorType.of(DType.U8, -(-type_.elements.value * type_.dtype.bits // 8))


def unpacked(x: Value, type_: TensorType) -> Value:
    """A constant of type ``type_`` from its operand."""
    if type_.dtype.bits >= 8:
        return x
    hlo, bits = stablehlo(), type_.dtype.bits
    spread = [build.shape_of(x)[0], 8 // bits]
    shifts = hlo.multiply(build.iota(DType.U8, (spread[0], spread[1]), 1), build.splat(bits, DType.U8, spread))
    codes = hlo.shift_right_logical(build.broadcast(x, spread, [0]), shifts)
    codes = hlo.and_(codes, build.splat((1 << bits) - 1, DType.U8, spread))
    shape = [s.value for s in type_.shape]
    flat = build.reshape(codes, [math.prod(spread)])
    if math.prod(spread) != math.prod(shape):
        flat = hlo.slice(flat, [0], [math.prod(shape)], [1])
    codes = build.convert(build.reshape(flat, shape), DType.I8)
    return build.convert(_decoded(codes, type_.dtype), type_.dtype)


def _decoded(codes: Value, dtype: DType) -> Value:
    """Bits as numbers of a wider type."""
    hlo, shape = stablehlo(), build.shape_of(codes)

    def whole(n: int) -> Value:
        return build.splat(n, DType.I8, shape)

    if dtype.is_float:  # e2m1: twice its size is 0, 1, 2, 3, 4, 6, 8 or 12
        exponent = hlo.and_(hlo.shift_right_logical(codes, whole(1)), whole(3))
        mantissa = hlo.and_(codes, whole(1))
        normal = hlo.shift_left(hlo.or_(mantissa, whole(2)), hlo.subtract(exponent, whole(1)))
        twice = hlo.select(build.compare(exponent, whole(0), "EQ", "SIGNED"), mantissa, normal)
        size = hlo.multiply(build.convert(twice, DType.F32), build.splat(0.5, DType.F32, shape))
        below = build.compare(hlo.and_(codes, whole(8)), whole(0), "NE", "SIGNED")
        return hlo.select(below, hlo.negate(size), size)
    if dtype.is_signed:
        half = whole(1 << dtype.bits - 1)
        return hlo.subtract(hlo.xor(codes, half), half)
    return codes


def widened(x: Tensor) -> Value:
    """A tensor whose value is of the wider type that it was converted from, where it was."""
    owner: Any = getattr(x.value, "owner", None)
    if x.dtype.bits < 8 and getattr(owner, "name", "") == "stablehlo.convert":
        return owner.operands[0]
    return x.value
