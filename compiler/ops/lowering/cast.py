"""Lowering of conversions between element types."""

from __future__ import annotations

import math

from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Operand, binary, cast, const, select
from tilewright.ops.lower import Context, lowering

#: Largest finite numbers of the types that a conversion saturates at.
_LARGEST = {DType.F8E4M3: 448.0, DType.F8E4M3FNUZ: 240.0, DType.F8E5M2: 57344.0, DType.F8E5M2FNUZ: 57344.0}

#: The powers of two that the type of exponents goes from and to.
_LEAST_POWER, _MOST_POWER = 2.0**-127, 2.0**127


def converted(v: Value, to: DType, saturate: bool = True, round_mode: str = "up") -> Value:
    """``v`` as ONNX's Cast makes it: floats to integers truncate, integers keep their low bits.

    What is too large for a float of 8 bits becomes its largest number with ``saturate``, else an infinity or NaN.
    ``round_mode`` is for the type that is an exponent alone.
    """
    if v.dtype is to:
        return v
    if to is DType.BOOL:
        return binary("ne", v, 0)
    if to is DType.F8E8M0:
        return cast(_power(cast(v, DType.F32), saturate, round_mode), to)
    if to in _LARGEST and saturate:
        largest = _LARGEST[to]
        return cast(binary("min", binary("max", cast(v, DType.F32), -largest), largest), to)
    return cast(v, to)


def _power(x: Value, saturate: bool, round_mode: str) -> Value:
    """``x`` as a power of two within the bounds of the type, or NaN."""
    if saturate:
        x = binary("min", binary("max", x, _LEAST_POWER), _MOST_POWER)
    else:
        x = select(binary("lt", x, _LEAST_POWER), const(math.nan, DType.F32), x)
    nearest = cast(cast(x, DType.F8E8M0), DType.F32)  # halfway goes up
    if round_mode == "up":
        return select(binary("lt", nearest, x), binary("mul", nearest, 2.0), nearest)
    if round_mode == "down":
        return select(binary("gt", nearest, x), binary("mul", nearest, 0.5), nearest)
    return nearest


@lowering("Cast", "CastLike", pointwise=True)
def _lower_cast(ctx: Context) -> Operand:
    x, to = ctx.input(0), ctx.outputs[0].dtype
    saturate, mode = bool(ctx.attribute("saturate", 1)), ctx.attribute("round_mode", "up")
    return ctx.result(lambda i: converted(x.at(i), to, saturate, mode))
