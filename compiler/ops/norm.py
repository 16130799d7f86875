"""Normalizations, softmax and losses."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("Softmax", "LogSoftmax", "Hardmax")
def along(ctx: Infer) -> TensorType:
    """Same type as the input, whose ``axis`` must be in range; a scalar counts as its own only axis."""
    x = ctx.input(0)
    if x.rank or ctx.integer("axis", -1) not in (-1, 0):
        ctx.axis(ctx.integer("axis", -1), x.rank)
    return x


@shape_rule("LpNormalization")
def lp_norm(ctx: Infer) -> TensorType:
    """Same type as the input; the norm is that of ``p`` 1 or 2."""
    x = ctx.input(0)
    ctx.axis(ctx.integer("axis", -1), x.rank)
    if ctx.integer("p", 2) not in (1, 2):
        ctx.fail(f"p is {ctx.integer('p')}, not 1 or 2")
    return x


@shape_rule("LRN")
def local_response(ctx: Infer) -> TensorType:
    """Same type as the input, which has channels."""
    x = ctx.input(0)
    if x.rank < 2:
        ctx.fail(f"{x} has no channels")
    if ctx.integer("size") < 1:
        ctx.fail(f"a window of {ctx.integer('size')} channels")
    return x


@shape_rule("MeanVarianceNormalization")
def mean_variance(ctx: Infer) -> TensorType:
    """Same type as the input; the axes must be in range."""
    x = ctx.input(0)
    for axis in ctx.integers("axes") or (0, 2, 3):
        ctx.axis(axis, x.rank)
    return x


def _per_channel(ctx: Infer, inputs: Iterable[int]) -> None:
    """Require vectors with one element a channel; an input without channels has one."""
    x = ctx.input(0)
    for i in inputs:
        operand = ctx.input(i)
        if operand.rank != 1:
            ctx.fail(f"input {i} is {operand}, not a vector")
        ctx.equal(x.shape[1] if x.rank > 1 else 1, operand.shape[0])


@shape_rule("InstanceNormalization")
def instance_norm(ctx: Infer) -> TensorType:
    """Same type as the input."""
    if ctx.input(0).rank < 2:
        ctx.fail(f"{ctx.input(0)} has no channels")
    _per_channel(ctx, (1, 2))
    return ctx.input(0)


@shape_rule("GroupNormalization")
def group_norm(ctx: Infer) -> TensorType:
    """Same type as the input; the channels are a multiple of the groups."""
    x, groups = ctx.input(0), ctx.integer("num_groups")
    if x.rank < 2:
        ctx.fail(f"{x} has no channels")
    if groups < 1:
        ctx.fail(f"num_groups is {groups}")
    ctx.equal(x.shape[1], x.shape[1] // groups * groups)
    _per_channel(ctx, (1, 2))
    return x


@shape_rule("BatchNormalization")
def batch_norm(ctx: Infer) -> list[TensorType | None]:
    """Same type as the input; in training mode the running statistics as well."""
    if ctx.outputs > 1 and not ctx.integer("training_mode", 0):
        ctx.fail("running statistics are outputs of training mode only")
    if ctx.outputs > 3:
        ctx.unsupported("outputs of training in opsets before 14")
    _per_channel(ctx, range(1, 5))
    return [ctx.input(0), ctx.input(3), ctx.input(4)]


@shape_rule("LayerNormalization")
def layer_norm(ctx: Infer) -> list[TensorType | None]:
    """Output, then mean and inverse deviation with the normalized axes at 1."""
    x = ctx.input(0)
    axis = ctx.axis(ctx.integer("axis", -1), x.rank)
    for i in (1, 2):
        operand = ctx.optional(i)
        if operand is not None:
            _require_beside(ctx, operand, x)
    statistics = TensorType(ctx.dtype("stash_type", DType.F32), x.shape[:axis] + (constant(1),) * (x.rank - axis))
    return [x, statistics, statistics]


@shape_rule("RMSNormalization")
def rms_norm(ctx: Infer) -> TensorType:
    """Same shape as the input, element type of the scale."""
    x, scale = ctx.input(0), ctx.input(1)
    _require_beside(ctx, scale, x)
    return TensorType(scale.dtype, x.shape)


@shape_rule("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(ctx: Infer) -> list[TensorType | None]:
    """A scalar, or one value per label without reduction; the cross entropy may also give log probabilities."""
    x, labels, weights = ctx.input(0), ctx.input(1), ctx.optional(2)
    if x.rank < 2 or labels.rank != x.rank - 1:
        ctx.fail(f"labels {labels} for scores {x}: these have an axis of classes, the second, and the labels' axes")
    for a, b in zip((x.shape[0], *x.shape[2:]), labels.shape, strict=True):
        ctx.equal(a, b)
    if weights is not None and weights.rank != 1:
        ctx.fail(f"weights {weights} are not a vector")
    if weights is not None:
        ctx.equal(weights.shape[0], x.shape[1])
    if (reduction := ctx.string("reduction", "mean")) not in ("none", "mean", "sum"):
        ctx.fail(f"reduction is {reduction!r}")
    shape = labels.shape if ctx.string("reduction", "mean") == "none" else ()
    return [TensorType(x.dtype, shape), x]


def _require_beside(ctx: Infer, operand: TensorType, x: TensorType) -> None:
    """``operand`` broadcasts to the shape of ``x``, and makes it no larger."""
    whole = ctx.broadcast(x.shape, operand.shape)
    if len(whole) > x.rank or any(a == 1 != b for a, b in zip(x.shape, whole, strict=True)):
        ctx.fail(f"{operand} does not broadcast to {x}")
