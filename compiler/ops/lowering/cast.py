"""Lowering of conversions between element types."""

from __future__ import annotations

from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Operand, binary, cast
from tilewright.ops.lower import Context, lowering


def converted(v: Value, to: DType) -> Value:
    """``v`` as ONNX's Cast makes it: floats to integers truncate, integers keep their low bits."""
    return binary("ne", v, 0) if to is DType.BOOL and v.dtype is not DType.BOOL else cast(v, to)


@lowering("Cast", "CastLike", pointwise=True)
def _lower_cast(ctx: Context) -> Operand:
    x, to = ctx.input(0), ctx.outputs[0].dtype
    return ctx.result(lambda i: converted(x.at(i), to))
