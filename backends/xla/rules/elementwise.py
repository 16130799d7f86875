"""Arithmetic: operators that compute each element from those of the same index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import chlo, stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType

#: Exact, or exactly rounded: computed in the type of the operands.
_EXACT = {
    "Abs": "abs",
    "Neg": "negate",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round_nearest_even",
    "Sign": "sign",
}

#: Functions of StableHLO and of CHLO: narrow floats are computed in f32 and rounded once.
_FUNCTIONS = {
    "Sqrt": "sqrt", "Exp": "exponential", "Log": "log", "Sin": "sine", "Cos": "cosine", "Tanh": "tanh",
    "Sigmoid": "logistic",
}  # fmt: skip
_LEGALIZED = {
    "Erf": "erf", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh",
    "Acosh": "acosh", "Atanh": "atanh",
}  # fmt: skip

_BINARY = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide"}
_BITWISE = {"BitwiseAnd": "and_", "BitwiseOr": "or_", "BitwiseXor": "xor"}
_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def computed(ctx: Rule, function: Callable[[Value], Value]) -> Tensor:
    """``function`` of the first input in a type of at least 32 bits; integers go through f64."""
    x, to = ctx.input(0), ctx.type().dtype
    wide = DType.F64 if not to.is_float else DType.F32 if to.bits < 32 else to
    return ctx.result(build.convert(function(build.convert(x.value, wide)), to))


def _exact(ctx: Rule) -> Tensor:
    x, name = ctx.input(0), _EXACT[ctx.node.op_type]
    if not x.dtype.is_signed:
        one = ctx.splat(1, x)
        return x if name != "sign" else ctx.result(stablehlo().minimum(x.value, one))
    return ctx.result(getattr(stablehlo(), name)(x.value))


def _function(ctx: Rule) -> Tensor:
    name = ctx.node.op_type
    if name == "Tan":  # that of StableHLO is younger than the portable form
        return computed(ctx, lambda x: stablehlo().divide(stablehlo().sine(x), stablehlo().cosine(x)))
    function = getattr(stablehlo(), _FUNCTIONS[name]) if name in _FUNCTIONS else getattr(chlo(), _LEGALIZED[name])
    return computed(ctx, function)


def _binary(ctx: Rule) -> Tensor:
    x, y = (ctx.broadcast(ctx.input(i), ctx.type()) for i in range(2))
    return ctx.result(getattr(stablehlo(), (_BINARY | _BITWISE)[ctx.node.op_type])(x, y))


def _variadic(ctx: Rule) -> Tensor:
    """Of all inputs; a NaN wins in ``Max`` and ``Min``."""
    hlo, name = stablehlo(), ctx.node.op_type
    to = ctx.type().dtype
    wide = ctx.wide(to) if name in ("Sum", "Mean") else to
    total: Value = None
    for i in range(ctx.count):
        x = build.convert(ctx.broadcast(ctx.input(i), ctx.type()), wide)
        total = x if total is None else getattr(hlo, _VARIADIC.get(name, "add"))(total, x)
    if name == "Mean":
        total = hlo.divide(total, build.splat(ctx.count, wide, ctx.shape()))
    return ctx.result(build.convert(total, to))


rule(*_EXACT, padding=Padding.POINTWISE)(_exact)
rule(*_FUNCTIONS, *_LEGALIZED, "Tan", padding=Padding.POINTWISE)(_function)
rule(*_BINARY, *_BITWISE, padding=Padding.POINTWISE)(_binary)
rule(*_VARIADIC, "Mean", padding=Padding.POINTWISE)(_variadic)


@rule("Reciprocal", padding=Padding.POINTWISE)
def reciprocal(ctx: Rule) -> Tensor:
    """1 / x."""
    x = ctx.input(0)
    return ctx.result(stablehlo().divide(ctx.splat(1, x), x.value))


@rule("BitwiseNot", padding=Padding.POINTWISE)
def bitwise_not(ctx: Rule) -> Tensor:
    """Every bit the other way."""
    return ctx.result(stablehlo().not_(ctx.input(0).value))


@rule("BitShift", padding=Padding.POINTWISE)
def bit_shift(ctx: Rule) -> Tensor:
    """Of unsigned integers; zeros come in."""
    x, y = (ctx.broadcast(ctx.input(i), ctx.type()) for i in range(2))
    left = ctx.attribute("direction") == "LEFT"
    return ctx.result((stablehlo().shift_left if left else stablehlo().shift_right_logical)(x, y))


@rule("Mod", padding=Padding.POINTWISE)
def mod(ctx: Rule) -> Tensor:
    """The remainder with the sign of the divisor, or with ``fmod`` that of the dividend."""
    hlo = stablehlo()
    x, y = (ctx.broadcast(ctx.input(i), ctx.type()) for i in range(2))
    rest = hlo.remainder(x, y)
    dtype = ctx.type().dtype
    if ctx.attribute("fmod", 0) or not dtype.is_signed:
        return ctx.result(rest)
    zero, kind = build.splat(0, dtype, ctx.shape()), "FLOAT" if dtype.is_float else "SIGNED"
    other_side = hlo.xor(build.compare(rest, zero, "LT", kind), build.compare(y, zero, "LT", kind))
    moved = hlo.and_(build.compare(rest, zero, "NE", kind), other_side)
    return ctx.result(build.select(moved, hlo.add(rest, y), rest))


@rule("Pow", padding=Padding.POINTWISE)
def power(ctx: Rule) -> Tensor:
    """Of the base's type, computed in the exponent's where only that one is a float; a square is a product."""
    hlo = stablehlo()
    base, exponent, to = ctx.input(0), ctx.input(1), ctx.type().dtype
    fixed = ctx.constant(1)
    x = ctx.broadcast(base, ctx.type())
    if fixed is not None and fixed.size == 1 and fixed.reshape(-1)[0] == 2:
        return ctx.result(hlo.multiply(x, x))
    common = to if to.is_float or not exponent.dtype.is_float else exponent.dtype
    wide = DType.F32 if common.is_float and common.bits < 32 else common
    y = build.convert(ctx.broadcast(exponent, ctx.type()), wide)
    return ctx.result(build.convert(hlo.power(build.convert(x, wide), y), to))


@rule("Clip", padding=Padding.POINTWISE)
def clip(ctx: Rule) -> Tensor:
    """Between two numbers, either of which may be left out; where they cross the upper one wins. NaN stays."""
    hlo, x = stablehlo(), ctx.input(0)
    value = x.value
    for i, bound in ((1, hlo.maximum), (2, hlo.minimum)):
        if ctx.has(i):
            value = bound(value, build.broadcast(build.reshape(ctx.input(i).value, ()), x.shape, ()))
    return ctx.result(value)


@rule("Dropout", padding=Padding.POINTWISE)
def dropout(ctx: Rule) -> list[Tensor | None]:
    """Nothing is dropped: the input, and a mask that keeps everything."""
    training, ratio = ctx.constant(2), ctx.constant(1)
    off = not ctx.has(2) or (training is not None and not training.any())
    if not off and not (ratio is not None and not ratio.any()):
        raise ctx.unsupported("whether it drops at random is told by a run")
    kept = Tensor(build.splat(True, DType.BOOL, ctx.shape(1)), ctx.type(1)) if ctx.wants(1) else None
    return [ctx.input(0), kept]


def number(ctx: Rule, name: str, default: float) -> float:
    """An attribute; they are floats of 32 bits, their defaults as well."""
    value = ctx.attribute(name)
    return float(np.float32(default)) if value is None else float(value)
