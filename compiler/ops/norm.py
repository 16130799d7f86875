"""Normalizations, softmax and losses."""

from __future__ import annotations

from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: Output like the first input; scales and shifts are per channel or per feature.
SAME_TYPE = (
    "GroupNormalization Hardmax InstanceNormalization LRN LogSoftmax LpNormalization MeanVarianceNormalization Softmax"
).split()


@shape_rule(*SAME_TYPE)
def same(ctx: Infer) -> TensorType:
    """Same type as the input; an ``axis`` must be in range."""
    x = ctx.input(0)
    if ctx.attribute("axis") is not None:
        ctx.axis(ctx.integer("axis"), x.rank)
    return x


@shape_rule("BatchNormalization")
def batch_norm(ctx: Infer) -> TensorType:
    """Same type as the input; inference only."""
    if ctx.integer("training_mode", 0):
        ctx.unsupported("training mode")
    x = ctx.input(0)
    if x.rank > 1:
        for i in range(1, 5):
            ctx.equal(x.shape[1], ctx.input(i).shape[0])
    return x


@shape_rule("LayerNormalization")
def layer_norm(ctx: Infer) -> list[TensorType | None]:
    """Output, then mean and inverse deviation with the normalized axes at 1."""
    x = ctx.input(0)
    axis = ctx.axis(ctx.integer("axis", -1), x.rank)
    for i in (1, 2):
        operand = ctx.optional(i)
        if operand is not None and ctx.broadcast(x.shape, operand.shape) != x.shape:
            ctx.fail(f"{operand} does not broadcast to {x}")
    statistics = TensorType(ctx.dtype("stash_type", DType.F32), x.shape[:axis] + (constant(1),) * (x.rank - axis))
    return [x, statistics, statistics]


@shape_rule("RMSNormalization")
def rms_norm(ctx: Infer) -> TensorType:
    """Same shape as the input, element type of the scale."""
    x, scale = ctx.input(0), ctx.input(1)
    if ctx.broadcast(x.shape, scale.shape) != x.shape:
        ctx.fail(f"scale {scale} does not broadcast to {x}")
    return TensorType(scale.dtype, x.shape)


@shape_rule("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(ctx: Infer) -> list[TensorType | None]:
    """A scalar, or one value per label without reduction; the cross entropy may also give log probabilities."""
    x, labels = ctx.input(0), ctx.input(1)
    shape = labels.shape if ctx.string("reduction", "mean") == "none" else ()
    return [TensorType(x.dtype, shape), x]
