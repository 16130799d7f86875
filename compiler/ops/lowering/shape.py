"""Lowering of operators on sizes, and of generated tensors."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select
from tilewright.ops.lower import Context, lowering


@lowering("Shape", "Size")
def _lower_known(ctx: Context) -> Operand:
    """Sizes are expressions, so the result is written without reading the input."""
    x = ctx.input(0)
    if ctx.node.op_type == "Size":
        return ctx.result(lambda i: IndexValue(x.type.elements))
    rank = x.type.rank
    start = min(max(ctx.attribute("start", 0) + (rank if ctx.attribute("start", 0) < 0 else 0), 0), rank)

    def at(index: tuple[Index, ...]) -> Value:
        (i,) = index
        result: Value = const(0, DType.I64)
        for d in range(ctx.outputs[0].shape[0].value):
            assert isinstance(i, Expr)
            result = select(
                binary("eq", IndexValue(i), const(d, DType.I64)), IndexValue(x.type.shape[start + d]), result
            )
        return result

    return ctx.result(at)


@lowering("ConstantOfShape")
def _lower_constant_of_shape(ctx: Context) -> Operand:
    value = ctx.attribute("value")
    scalar = 0.0 if value is None else value.numpy().reshape(-1)[0].item()
    return ctx.result(lambda i: const(scalar, ctx.outputs[0].dtype))


@lowering("Range")
def _lower_range(ctx: Context) -> Operand:
    start, step, dtype = ctx.input(0), ctx.input(2), ctx.outputs[0].dtype

    def at(index: tuple[Index, ...]) -> Value:
        (i,) = index
        assert isinstance(i, Expr)
        return binary("add", start.scalar(), binary("mul", cast(IndexValue(i), dtype), step.scalar()))

    return ctx.result(at)


@lowering("EyeLike")
def _lower_eye(ctx: Context) -> Operand:
    k, dtype = ctx.attribute("k", 0), ctx.outputs[0].dtype

    def at(index: tuple[Index, ...]) -> Value:
        row, column = index
        assert isinstance(row, Expr) and isinstance(column, Expr)
        return select(binary("eq", IndexValue(column), IndexValue(row + k)), const(1, dtype), 0)

    return ctx.result(at)
