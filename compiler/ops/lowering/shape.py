"""Lowering of operators on sizes, and of generated tensors."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr, constant
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
    """Half precisions are computed in f32: they do not hold every position."""
    start, step, dtype = ctx.input(0), ctx.input(2), ctx.outputs[0].dtype
    wide = DType.F32 if dtype.is_float and dtype.bits < 32 else dtype

    def at(index: tuple[Index, ...]) -> Value:
        (i,) = index
        assert isinstance(i, Expr)
        far = binary("mul", cast(IndexValue(i), wide), cast(step.scalar(), wide))
        return cast(binary("add", cast(start.scalar(), wide), far), dtype)

    return ctx.result(at)


@lowering("OneHot")
def _lower_one_hot(ctx: Context) -> Operand:
    """Index ``i`` is on at position ``i``, or ``depth + i`` when it is negative; one outside is on nowhere."""
    indices, values = ctx.input(0), ctx.input(2)
    axis = ctx.attribute("axis", -1) % (indices.type.rank + 1)
    depth = ctx.outputs[0].shape[axis]

    def at(index: tuple[Index, ...]) -> Value:
        place = index[axis]
        assert isinstance(place, Expr)
        hot = cast(indices.at((*index[:axis], *index[axis + 1 :])), DType.I64)
        from_end = binary("eq", hot, IndexValue(place - depth))
        on = binary("or", binary("eq", hot, IndexValue(place)), from_end)
        return select(on, values.at((constant(1),)), values.at((constant(0),)))

    return ctx.result(at)


@lowering("EyeLike")
def _lower_eye(ctx: Context) -> Operand:
    k, dtype = ctx.attribute("k", 0), ctx.outputs[0].dtype

    def at(index: tuple[Index, ...]) -> Value:
        row, column = index
        assert isinstance(row, Expr) and isinstance(column, Expr)
        return select(binary("eq", IndexValue(column), IndexValue(row + k)), const(1, dtype), 0)

    return ctx.result(at)
