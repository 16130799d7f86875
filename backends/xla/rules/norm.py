"""Softmax and normalizations: statistics in f32 (or f64), the result rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.rules.reduction import count_of, extreme_position, over, reduced, spread
from tilewright.backends.xla.sizes import Unmaskable
from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType, TensorType


def _widened(ctx: Rule, x: Tensor) -> Tensor:
    wide = ctx.wide(x.dtype)
    return Tensor(build.convert(x.value, wide), TensorType(wide, x.type.shape))


@rule("Softmax", "LogSoftmax", padding=Padding.MASKED)
def softmax(ctx: Rule) -> Tensor:
    """Along one axis ``exp(x - max) / Σ exp(x - max)``, or its logarithm; padding counts as -∞."""
    hlo, x = stablehlo(), _widened(ctx, ctx.input(0))
    of_log = ctx.node.op_type == "LogSoftmax"
    if not x.rank:  # the only element of its axis
        return ctx.result(build.splat(0 if of_log else 1, ctx.type().dtype))
    axes = [ctx.attribute("axis", -1) % x.rank]
    x = ctx.masked(x, axes, -math.inf)
    top = build.reduce(x.value, build.splat(-math.inf, x.dtype), axes, hlo.maximum)
    top = spread(top, x.shape, axes)
    # Compilers may compute x anew for the subtraction, as one multiply-add that is rounded once; the largest less
    # itself is then not 0, and far from 1 its exponential is infinite. The minimum stands between, and changes nothing.
    shifted = hlo.subtract(hlo.minimum(x.value, top), top)
    powers = Tensor(hlo.exponential(shifted), x.type)
    total = build.reduce(powers.value, build.splat(0, x.dtype), axes, hlo.add)
    if of_log:
        made = hlo.subtract(shifted, spread(hlo.log(total), x.shape, axes))
    else:
        made = hlo.divide(powers.value, spread(total, x.shape, axes))
    return ctx.result(build.convert(made, ctx.type().dtype))


@rule("Hardmax", padding=Padding.MASKED)
def hardmax(ctx: Rule) -> Tensor:
    """1 at the first largest element along the axis, 0 elsewhere; a NaN counts as the largest."""
    x = ctx.input(0)
    axis = ctx.attribute("axis", -1) % x.rank
    place = spread(extreme_position(ctx, x, axis, True), x.shape, [axis])
    found = build.compare(build.iota(DType.I32, x.shape, axis), place, "EQ", "SIGNED")
    return ctx.result(build.convert(found, x.dtype))


class _Moments:
    """Mean (unless ``centre`` is false: 0) and mean square deviation from it over ``axes``, by their true count."""

    def __init__(self, ctx: Rule, x: Tensor, axes: Sequence[int], centre: bool = True):
        hlo = stablehlo()
        self.x, self.axes = x, list(axes)
        count = count_of(ctx, x, axes, x.dtype)
        self.centred = x.value
        self.mean: Value = None
        if centre:
            self.mean = over(reduced(ctx, x, axes, "add"), count)
            self.centred = hlo.subtract(x.value, self.spread(self.mean))
        square = Tensor(hlo.multiply(self.centred, self.centred), x.type)
        self.variance = over(reduced(ctx, square, axes, "add"), count)

    def spread(self, value: Value) -> Value:
        """A statistic beside every element."""
        return spread(value, self.x.shape, self.axes)

    def inverse(self, epsilon: float) -> Value:
        """``1 / √(variance + ε)``."""
        return inverse_deviation(self.variance, epsilon, self.x.dtype)

    def normalized(self, epsilon: float) -> Value:
        """``(x - mean) / √(variance + ε)``."""
        return stablehlo().multiply(self.centred, self.spread(self.inverse(epsilon)))


def inverse_deviation(variance: Value, epsilon: float, dtype: DType) -> Value:
    """``1 / √(variance + ε)``."""
    hlo = stablehlo()
    return hlo.rsqrt(hlo.add(variance, build.splat(epsilon, dtype, build.shape_of(variance))))


@rule("LayerNormalization", "RMSNormalization", padding=Padding.MASKED)
def layer_norm(ctx: Rule) -> list[Tensor | None]:
    """``(x - mean) / √(variance + ε) · scale + bias`` over the trailing axes; the RMS norm has no mean and no bias."""
    hlo, x = stablehlo(), _widened(ctx, ctx.input(0))
    axes = list(range(ctx.attribute("axis", -1) % x.rank, x.rank))
    epsilon = ctx.attribute("epsilon", 1e-5)
    moments = _Moments(ctx, x, axes, ctx.node.op_type == "LayerNormalization")
    inverse = moments.inverse(epsilon)
    made = hlo.multiply(moments.centred, moments.spread(inverse))
    for i, operation in ((1, hlo.multiply), (2, hlo.add)):
        if ctx.has(i):
            made = operation(made, ctx.broadcast(_widened(ctx, ctx.input(i)), x.type))
    results: list[Tensor | None] = [ctx.result(build.convert(made, ctx.type().dtype))]
    for n, statistic in ((1, moments.mean), (2, inverse)):
        if ctx.wants(n):
            value = build.convert(statistic, ctx.type(n).dtype)
            results.append(ctx.result(build.reshape(value, ctx.shape(n)), n))
        else:
            results.append(None)
    return results[: len(ctx.types)]


def _per_channel(ctx: Rule, i: int, like: Tensor, axis: int = 1) -> Value:
    """A vector of an input beside each element of its channel."""
    given = ctx.input(i)
    value = build.convert(build.fit(given.value, [like.shape[axis]]), like.dtype)
    return build.broadcast(value, like.shape, [axis])


def _scaled(ctx: Rule, y: Value, like: Tensor) -> Value:
    hlo = stablehlo()
    return hlo.add(hlo.multiply(y, _per_channel(ctx, 1, like)), _per_channel(ctx, 2, like))


@rule("InstanceNormalization", padding=Padding.MASKED)
def instance_norm(ctx: Rule) -> Tensor:
    """By the mean and variance of each channel's image."""
    x = _widened(ctx, ctx.input(0))
    moments = _Moments(ctx, x, range(2, x.rank))
    made = _scaled(ctx, moments.normalized(ctx.attribute("epsilon", 1e-5)), x)
    return ctx.result(build.convert(made, ctx.type().dtype))


@rule("GroupNormalization", padding=Padding.MASKED)
def group_norm(ctx: Rule) -> Tensor:
    """By the mean and variance of the images of a group of channels."""
    x = _widened(ctx, ctx.input(0))
    groups = ctx.attribute("num_groups")
    if ctx.padded(x, [1]):
        raise Unmaskable(f"GroupNormalization cannot cut a padded number of channels ({x.type.shape[1]}) into groups")
    shape = (x.type.shape[0], constant(groups), x.type.shape[1] // groups, *x.type.shape[2:])
    apart = Tensor(build.reshape(x.value, ctx.sizes.shape(shape)), TensorType(x.dtype, shape))
    moments = _Moments(ctx, apart, range(2, apart.rank))
    normal = build.reshape(moments.normalized(ctx.attribute("epsilon", 1e-5)), x.shape)
    return ctx.result(build.convert(_scaled(ctx, normal, x), ctx.type().dtype))


@rule("BatchNormalization", padding=Padding.MASKED)
def batch_norm(ctx: Rule) -> list[Tensor | None]:
    """Per channel (dimension 1), by running statistics or, when training, the batch's own, which move the running
    ones."""
    hlo, x = stablehlo(), _widened(ctx, ctx.input(0))
    epsilon, momentum = ctx.attribute("epsilon", 1e-5), ctx.attribute("momentum", 0.9)
    if x.rank < 2:  # one channel
        raise ctx.unsupported("an input without channels")
    if not ctx.attribute("training_mode", 0):
        wide = ctx.wide(ctx.input(4).dtype)
        wide = x.dtype if x.dtype.bits > wide.bits else wide
        x = Tensor(build.convert(x.value, wide), TensorType(wide, x.type.shape))
        variance = build.convert(build.fit(ctx.input(4).value, [x.shape[1]]), wide)
        inverse = build.broadcast(inverse_deviation(variance, epsilon, wide), x.shape, [1])
        made = hlo.multiply(hlo.subtract(x.value, _per_channel(ctx, 3, x)), inverse)
        return [ctx.result(build.convert(_scaled(ctx, made, x), ctx.type().dtype))]
    moments = _Moments(ctx, x, [d for d in range(x.rank) if d != 1])
    made = _scaled(ctx, moments.normalized(epsilon), x)
    results: list[Tensor | None] = [ctx.result(build.convert(made, ctx.type().dtype))]
    for n, own in ((1, moments.mean), (2, moments.variance)):
        if not ctx.wants(n):
            results.append(None)
            continue
        shape = build.shape_of(own)
        before = build.convert(build.fit(ctx.input(2 + n).value, shape), x.dtype)
        kept = hlo.multiply(before, build.splat(momentum, x.dtype, shape))
        moved = hlo.add(kept, hlo.multiply(own, build.splat(1 - momentum, x.dtype, shape)))
        results.append(ctx.result(build.fit(build.convert(moved, ctx.type(n).dtype), ctx.shape(n)), n))
    return results[: len(ctx.types)]


@rule("MeanVarianceNormalization", padding=Padding.MASKED)
def mean_variance(ctx: Rule) -> Tensor:
    """``(x - mean) / (√variance + 1e-9)``, as its ONNX function has it."""
    hlo, x = stablehlo(), _widened(ctx, ctx.input(0))
    moments = _Moments(ctx, x, sorted({a % x.rank for a in ctx.attribute("axes", (0, 2, 3))}))
    small = build.splat(1e-9, x.dtype, build.shape_of(moments.variance))
    deviation = hlo.add(hlo.sqrt(moments.variance), small)
    made = hlo.divide(moments.centred, moments.spread(deviation))
    return ctx.result(build.convert(made, ctx.type().dtype))


@rule("LpNormalization", padding=Padding.MASKED)
def lp_norm(ctx: Rule) -> Tensor:
    """``x / ‖x‖`` along an axis, in the norm of ``p`` 1 or 2; 0 where the norm is 0."""
    hlo, x = stablehlo(), _widened(ctx, ctx.input(0))
    axes, p = [ctx.attribute("axis", -1) % x.rank], ctx.attribute("p", 2)
    part = hlo.abs(x.value) if p == 1 else hlo.multiply(x.value, x.value)
    norm = reduced(ctx, Tensor(part, x.type), axes, "add")
    norm = spread(norm if p == 1 else hlo.sqrt(norm), x.shape, axes)
    zero = ctx.splat(0, x)
    none = build.compare(norm, zero, "EQ", "FLOAT")
    quotient = hlo.divide(x.value, build.select(none, ctx.splat(1, x), norm))
    return ctx.result(build.convert(build.select(none, zero, quotient), ctx.type().dtype))


@rule("LRN", padding=Padding.MASKED)
def local_response(ctx: Rule) -> Tensor:
    """``x / (bias + α / size · Σ x²)^β``, summed over a window of ``size`` channels."""
    hlo, x = stablehlo(), _widened(ctx, ctx.input(0))
    size, alpha, beta = ctx.attribute("size"), ctx.attribute("alpha", 1e-4), ctx.attribute("beta", 0.75)
    masked = ctx.masked(x, [1], 0)
    # Reaching beyond all channels adds nothing.
    before, after = (min(n, x.shape[1] - 1) for n in ((size - 1) // 2, size - 1 - (size - 1) // 2))
    total = window_sum(hlo.multiply(masked.value, masked.value), x.dtype, 1, before, after)
    scale = hlo.add(hlo.multiply(total, ctx.splat(alpha / size, x)), ctx.splat(ctx.attribute("bias", 1.0), x))
    made = hlo.divide(x.value, hlo.power(scale, ctx.splat(beta, x)))
    return ctx.result(build.convert(made, ctx.type().dtype))


def window_sum(x: Value, dtype: DType, dim: int, before: int, after: int) -> Value:
    """The sum of each element and so many before and after it along ``dim``."""
    hlo, mlir = stablehlo(), bindings()
    rank = len(build.shape_of(x))
    sizes = [before + after + 1 if d == dim else 1 for d in range(rank)]
    around = np.array([(before, after) if d == dim else (0, 0) for d in range(rank)], np.int64)
    operation = hlo.ReduceWindowOp(
        [x.type], [x], [build.splat(0, dtype)], sizes, padding=mlir.DenseIntElementsAttr.get(around)
    )
    element = mlir.RankedTensorType.get([], x.type.element_type)
    block = operation.regions[0].blocks.append(element, element)
    with mlir.InsertionPoint(block):
        hlo.return_([hlo.add(*block.arguments)])
    return operation.results[0]
