"""Lowering of losses: what a class's score says of its label."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir.symbolic import Expr, product
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.reduction import accumulator


@lowering("NegativeLogLikelihoodLoss")
def _lower_likelihood(ctx: Context) -> Operand:
    """``-x[n, label, …] · weight[label]``, reduced."""
    x, wide = ctx.input(0), accumulator(ctx.input(0).type.dtype)
    return _reduced(ctx, lambda n, label, where: cast(x.at((n, label, *where)), wide))


@lowering("SoftmaxCrossEntropyLoss")
def _lower_cross_entropy(ctx: Context) -> Operand | tuple[Operand, ...]:
    """The same of the logarithm of the softmax over classes, which may be an output as well."""
    x, wide = ctx.input(0), accumulator(ctx.input(0).type.dtype)
    known: dict[tuple[Index, ...], tuple[Value, Value]] = {}

    def shifts(rest: tuple[Index, ...]) -> tuple[Value, Value]:
        """The largest score of a sample, and the logarithm of the sum of exponentials less that."""
        if rest not in known:
            r = ctx.composer.axis(x.type.shape[1], "r", avoid=rest)
            row = cast(x.at((rest[0], r, *rest[1:])), wide)
            top = ctx.composer.reduce("max", [r], row, "top")
            total = ctx.composer.reduce("sum", [r], unary("exp", binary("sub", row, top)), "sum")
            known[rest] = top, ctx.composer.define(unary("log", total), "log")
        return known[rest]

    def log_probability(n: Index, c: Index, where: tuple[Index, ...]) -> Value:
        top, log = shifts((n, *where))
        return binary("sub", binary("sub", cast(x.at((n, c, *where)), wide), top), log)

    loss = _reduced(ctx, log_probability)
    if len(ctx.outputs) == 1:
        return loss
    log_prob = ctx.result(lambda i: cast(log_probability(i[0], i[1], i[2:]), x.type.dtype), 1)
    return loss, log_prob


def _reduced(ctx: Context, score: Callable[[Index, Index, tuple[Index, ...]], Value]) -> Operand:
    """Minus the weighted ``score`` of each sample's label, reduced as the node says; ignored samples count nothing."""
    x, labels, weights = ctx.input(0), ctx.input(1), ctx.optional(2)
    wide, ignored, shape = accumulator(x.type.dtype), ctx.attribute("ignore_index"), labels.type.shape

    def sample(index: tuple[Index, ...]) -> tuple[Value, Value]:
        """Loss and weight of a sample."""
        label = cast(labels.at(index), DType.I64)
        out = None if ignored is None else binary("eq", label, ignored)
        # What is ignored may be no class.
        safe = label if out is None else select(out, const(0, DType.I64), label)
        weight = const(1.0, wide) if weights is None else cast(weights.at((safe,)), wide)
        loss = binary("mul", unary("neg", score(index[0], safe, index[1:])), weight)
        if out is None:
            return loss, weight
        zero = const(0.0, wide)
        return select(out, zero, loss), select(out, zero, weight)

    def total(index: tuple[Index, ...]) -> Value:
        axes: list[Expr] = []
        for size in shape:
            axes.append(ctx.composer.axis(size, "s", avoid=axes))
        loss, weight = sample(tuple(axes))
        value = ctx.composer.reduce("sum", axes, loss, "loss")
        if reduction == "mean":
            counted = weights is not None or ignored is not None
            count = ctx.composer.reduce("sum", axes, weight, "weight") if counted else size_of(product(shape), wide)
            value = binary("div", value, count)
        return cast(value, x.type.dtype)

    reduction = ctx.attribute("reduction", "mean")
    if reduction == "none":
        return Operand(TensorType(x.type.dtype, shape), lambda index: cast(sample(index)[0], x.type.dtype))
    return Operand(TensorType(x.type.dtype, ()), total)
