"""Lowering of normalizations over axes of images: by instance, group, batch, window of channels, or any axes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from tilewright.ir.symbolic import ZERO, Expr, constant, minimum, product
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering, unsupported
from tilewright.ops.lowering.reduction import accumulator


class Moments:
    """Mean and population variance of ``x`` over ``axes``, computed as ``wide``; each built once per position."""

    def __init__(self, ctx: Context, x: Operand, axes: Collection[int], wide: DType):
        self.ctx, self.x, self.wide = ctx, x, wide
        self.axes = sorted(axes)
        self.count = product(x.type.shape[d] for d in self.axes)
        self._known: dict[tuple[Index, ...], tuple[Value, Value]] = {}

    def at(self, index: Sequence[Index]) -> tuple[Value, Value]:
        """Mean and variance at the position of the other axes in ``index`` (a full index of ``x``)."""
        key = tuple(i for d, i in enumerate(index) if d not in self.axes)
        if key not in self._known:
            self._known[key] = self._computed(index, key)
        return self._known[key]

    def centred(self, index: Sequence[Index]) -> Value:
        """An element less the mean."""
        return binary("sub", cast(self.x.at(index), self.wide), self.at(index)[0])

    def _computed(self, index: Sequence[Index], outer: tuple[Index, ...]) -> tuple[Value, Value]:
        composer, over, full = self.ctx.composer, list[Expr](), list(index)
        for d in self.axes:
            over.append(composer.axis(self.x.type.shape[d], "r", avoid=[*outer, *over]))
            full[d] = over[-1]
        value, count = cast(self.x.at(full), self.wide), size_of(self.count, self.wide)
        mean = binary("div", composer.reduce("sum", over, value, "sum"), count)
        off = binary("sub", value, mean)
        return mean, binary("div", composer.reduce("sum", over, binary("mul", off, off), "square"), count)


def _normalized(moments: Moments, index: Sequence[Index], epsilon: float) -> Value:
    inverse = unary("rsqrt", binary("add", moments.at(index)[1], epsilon))
    return binary("mul", moments.centred(index), inverse)


def _scaled(y: Value, scale: Value, shift: Value) -> Value:
    return binary("add", binary("mul", y, cast(scale, y.dtype)), cast(shift, y.dtype))


@lowering("InstanceNormalization")
def _lower_instance_norm(ctx: Context) -> Operand:
    """``(x - mean) / √(var + ε) · scale + B`` over the image of each channel."""
    x, scale, shift = ctx.input(0), ctx.input(1), ctx.input(2)
    moments = Moments(ctx, x, range(2, x.type.rank), accumulator(x.type.dtype))
    epsilon = ctx.attribute("epsilon", 1e-5)

    def at(index: tuple[Index, ...]) -> Value:
        c = index[1:2]
        return cast(_scaled(_normalized(moments, index, epsilon), scale.at(c), shift.at(c)), x.type.dtype)

    return ctx.result(at)


@lowering("GroupNormalization")
def _lower_group_norm(ctx: Context) -> Operand:
    """As by instance, over the images of a group of channels; computed with the channel as group and place in it."""
    x, scale, shift = ctx.input(0), ctx.input(1), ctx.input(2)
    groups, epsilon = ctx.attribute("num_groups"), ctx.attribute("epsilon", 1e-5)
    batch, channels, *image = x.type.shape
    each, dtype = channels // groups, x.type.dtype
    shape = (batch, constant(groups), each, *image)
    split = Operand(TensorType(dtype, shape), lambda i: x.at((i[0], _joined(i[1], i[2], each), *i[3:])))
    moments = Moments(ctx, split, range(2, len(shape)), accumulator(dtype))

    def at(index: tuple[Index, ...]) -> Value:
        c = (_joined(index[1], index[2], each),)
        return cast(_scaled(_normalized(moments, index, epsilon), scale.at(c), shift.at(c)), dtype)

    result = Operand(split.type, at)

    def back(index: tuple[Index, ...]) -> Value:
        c = _channel(ctx, index)
        return result.at((index[0], c // each, c % each, *index[2:]))

    return ctx.result(back, view=(result, lambda i: (i[0], i[1] * each + i[2], *i[3:])))


def _channel(ctx: Context, index: Sequence[Index]) -> Expr:
    if not isinstance(index[1], Expr):
        raise unsupported(ctx.node, "its channels are read at run-time indices")
    return index[1]


def _joined(group: Index, place: Index, each: Expr) -> Expr:
    assert isinstance(group, Expr) and isinstance(place, Expr)
    return group * each + place


@lowering("MeanVarianceNormalization")
def _lower_mean_variance(ctx: Context) -> Operand:
    """``(x - mean) / (√var + 1e-9)``, as its ONNX function has it."""
    x = ctx.input(0)
    axes = {a % x.type.rank for a in ctx.attribute("axes", (0, 2, 3))}
    moments = Moments(ctx, x, axes, accumulator(x.type.dtype))

    def at(index: tuple[Index, ...]) -> Value:
        deviation = binary("add", unary("sqrt", moments.at(index)[1]), 1e-9)
        return cast(binary("div", moments.centred(index), deviation), x.type.dtype)

    return ctx.result(at)


@lowering("LpNormalization")
def _lower_lp_norm(ctx: Context) -> Operand:
    """``x / ‖x‖`` along an axis, in the norm of ``p`` 1 or 2; 0 where the norm is 0."""
    x, p, dtype = ctx.input(0), ctx.attribute("p", 2), ctx.input(0).type.dtype
    axis, wide = ctx.attribute("axis", -1) % x.type.rank, accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        rest = [*index[:axis], *index[axis + 1 :]]
        r = ctx.composer.axis(x.type.shape[axis], "r", avoid=rest)
        value = cast(x.at((*index[:axis], r, *index[axis + 1 :])), wide)
        part = unary("abs", value) if p == 1 else binary("mul", value, value)
        norm = ctx.composer.reduce("sum", [r], part, "norm")
        norm = norm if p == 1 else unary("sqrt", norm)
        zero = binary("eq", norm, 0)
        quotient = binary("div", cast(x.at(index), wide), select(zero, const(1, wide), norm))
        return cast(select(zero, const(0, wide), quotient), dtype)

    return ctx.result(at)


@lowering("LRN")
def _lower_local_response(ctx: Context) -> Operand:
    """``x / (bias + α / size · Σ x²)^β``, summed over a window of ``size`` channels."""
    x, size, dtype = ctx.input(0), ctx.attribute("size"), ctx.input(0).type.dtype
    alpha, beta, bias = ctx.attribute("alpha", 1e-4), ctx.attribute("beta", 0.75), ctx.attribute("bias", 1.0)
    wide, last = accumulator(dtype), x.type.shape[1] - 1
    # Reaching beyond all channels adds nothing.
    before, after = minimum((size - 1) // 2, last), minimum(size - 1 - (size - 1) // 2, last)

    def at(index: tuple[Index, ...]) -> Value:
        n, _, *where = index
        k = ctx.composer.axis(before + after + 1, "k")
        near = cast(ctx.composer.padded(x, (n, _channel(ctx, index) + k - before, *where), 0), wide)
        total = ctx.composer.reduce("sum", [k], binary("mul", near, near), "square")
        scale = binary("add", binary("mul", total, alpha / size), bias)
        return cast(binary("div", cast(x.at(index), wide), _power(scale, beta)), dtype)

    return ctx.result(at)


def _power(x: Value, exponent: float) -> Value:
    """``x`` to a constant power; ¾, the usual one, by roots."""
    if exponent == 0.75:
        root = unary("sqrt", x)
        return binary("mul", root, unary("sqrt", root))
    return binary("pow", x, exponent)


@lowering("BatchNormalization")
def _lower_batch_norm(ctx: Context) -> Operand | tuple[Operand, ...]:
    """``(x - mean) / √(var + ε) · scale + B`` per channel (dimension 1), by running statistics or the batch's own."""
    x, scale, shift, mean, var = (ctx.input(i) for i in range(5))
    epsilon, dtype = ctx.attribute("epsilon", 1e-5), x.type.dtype

    def channel(index: Sequence[Index]) -> tuple[Index, ...]:
        return (index[1] if len(index) > 1 else ZERO,)

    if ctx.attribute("training_mode", 0):
        return _train_batch_norm(ctx, channel)

    def at(index: tuple[Index, ...]) -> Value:
        c = channel(index)
        wide = accumulator(var.type.dtype)
        inverse = unary("rsqrt", binary("add", cast(var.at(c), wide), epsilon))
        y = binary("mul", binary("sub", cast(x.at(index), wide), cast(mean.at(c), wide)), inverse)
        return cast(_scaled(y, scale.at(c), shift.at(c)), dtype)

    return ctx.result(at)


def _train_batch_norm(ctx: Context, channel: Callable[[Sequence[Index]], tuple[Index, ...]]) -> tuple[Operand, ...]:
    """Statistics of the batch, and how they move the running ones: ``running · momentum + own · (1 - momentum)``."""
    x, scale, shift = ctx.input(0), ctx.input(1), ctx.input(2)
    epsilon, momentum = ctx.attribute("epsilon", 1e-5), ctx.attribute("momentum", 0.9)
    rank, wide = x.type.rank, accumulator(x.type.dtype)
    moments = Moments(ctx, x, [d for d in range(rank) if d != 1], wide)

    def at(index: tuple[Index, ...]) -> Value:
        c = channel(index)
        return cast(_scaled(_normalized(moments, index, epsilon), scale.at(c), shift.at(c)), x.type.dtype)

    def running(which: int) -> Callable[[tuple[Index, ...]], Value]:
        before, out = ctx.input(3 + which), ctx.outputs[1 + which].dtype

        def moved(index: tuple[Index, ...]) -> Value:
            own = moments.at([index[0] if d == 1 else ZERO for d in range(rank)])[which]
            kept = binary("mul", cast(before.at(index), wide), momentum)
            return cast(binary("add", kept, binary("mul", own, 1 - momentum)), out)

        return moved

    return (ctx.result(at), *(ctx.result(running(n), 1 + n) for n in range(len(ctx.outputs) - 1)))
