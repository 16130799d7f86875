"""Lowering of normalizations."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr, product
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, size_of, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.reduction import accumulator


@lowering("LayerNormalization", "RMSNormalization")
def _lower_layer_norm(ctx: Context) -> tuple[Operand, ...]:
    """``(x - mean) / √(var + ε) · scale + bias`` over the trailing axes, statistics in f32; RMS norm has no mean."""
    x, scale, bias = ctx.input(0), ctx.input(1), ctx.optional(2)
    axis = ctx.attribute("axis", -1) % x.type.rank
    epsilon, dtype = ctx.attribute("epsilon", 1e-5), x.type.dtype
    wide = accumulator(dtype)
    centred_too = ctx.node.op_type == "LayerNormalization"
    count = product(x.type.shape[axis:])

    def statistics(outer: tuple[Index, ...]) -> tuple[Value | None, Value]:
        axes: list[Expr] = []
        for size in x.type.shape[axis:]:
            axes.append(ctx.composer.axis(size, "r", avoid=[*outer, *axes]))
        row = cast(x.at((*outer, *axes)), wide)
        n = size_of(count, wide)
        mean = binary("div", ctx.composer.reduce("sum", axes, row, "sum"), n) if centred_too else None
        centred = row if mean is None else centre(outer, tuple(axes), mean)
        square = ctx.composer.reduce("sum", axes, binary("mul", centred, centred), "square")
        inverse = unary("rsqrt", binary("add", binary("div", square, n), epsilon))
        return mean, inverse

    memo: dict[tuple[Index, ...], tuple[Value | None, Value]] = {}
    centres: dict[tuple[Index, ...], Value] = {}

    def centre(outer: tuple[Index, ...], inner: tuple[Index, ...], mean: Value) -> Value:
        if (*outer, *inner) not in centres:
            centres[*outer, *inner] = binary("sub", cast(x.at((*outer, *inner)), wide), mean)
        return centres[*outer, *inner]

    def known_statistics(outer: tuple[Index, ...]) -> tuple[Value | None, Value]:
        if outer not in memo:
            memo[outer] = statistics(outer)
        return memo[outer]

    def at(index: tuple[Index, ...]) -> Value:
        outer, inner = index[:axis], index[axis:]
        mean, inverse = known_statistics(outer)
        value = cast(x.at(index), wide) if mean is None else centre(outer, inner, mean)
        y = binary("mul", value, inverse)
        y = binary("mul", y, cast(scale.broadcast(index), wide))
        y = y if bias is None else binary("add", y, cast(bias.broadcast(index), wide))
        return cast(y, ctx.outputs[0].dtype)

    def mean_at(index: tuple[Index, ...]) -> Value:
        mean, _ = known_statistics(index[:axis])
        assert mean is not None
        return cast(mean, ctx.outputs[1].dtype)

    results = [ctx.result(at)]
    if len(ctx.outputs) > 1:
        results.append(ctx.result(mean_at, 1))
    if len(ctx.outputs) > 2:
        results.append(ctx.result(lambda index: cast(known_statistics(index[:axis])[1], ctx.outputs[2].dtype), 2))
    return tuple(results)
