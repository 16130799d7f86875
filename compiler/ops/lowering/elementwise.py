"""Lowering of operators that compute each element from the elements at the same position."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Const, Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, unary
from tilewright.ops.lower import Context, lowering

_UNARY = {
    "Neg": "neg", "Abs": "abs", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf", "Floor": "floor",
    "Ceil": "ceil", "Round": "round", "Sign": "sign", "Not": "not", "BitwiseNot": "bitnot", "IsNaN": "isnan",
    "Sigmoid": "sigmoid",
}  # fmt: skip

_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "bitand", "BitwiseOr": "bitor", "BitwiseXor": "bitxor", "Equal": "eq", "Less": "lt",
    "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge",
}  # fmt: skip

_VARIADIC = {"Max": "max", "Min": "min", "Sum": "add"}


@lowering(*_UNARY, pointwise=True)
def _lower_unary(ctx: Context) -> Operand:
    x, op = ctx.input(0), _UNARY[ctx.node.op_type]
    return ctx.result(lambda i: unary(op, x.at(i)), origin=(ctx.node.op_type, (x,)))


@lowering(*_BINARY, pointwise=True)
def _lower_binary(ctx: Context) -> Operand:
    a, b, op = ctx.input(0), ctx.input(1), _BINARY[ctx.node.op_type]
    return ctx.result(lambda i: binary(op, a.broadcast(i), b.broadcast(i)))


@lowering(*_VARIADIC, "Mean", pointwise=True)
def _lower_variadic(ctx: Context) -> Operand:
    operands, op = [o for o in ctx.inputs if o is not None], _VARIADIC.get(ctx.node.op_type, "add")

    def at(i: tuple[Index, ...]) -> Value:
        total = operands[0].broadcast(i)
        for other in operands[1:]:
            total = binary(op, total, other.broadcast(i))
        return binary("div", total, len(operands)) if ctx.node.op_type == "Mean" else total

    return ctx.result(at)


@lowering("Pow", pointwise=True)
def _lower_pow(ctx: Context) -> Operand:
    a, b = ctx.input(0), ctx.input(1)

    def at(i: tuple[Index, ...]) -> Value:
        x, y = a.broadcast(i), b.broadcast(i)
        if isinstance(y, Const) and y.value == 2:
            return binary("mul", x, x)
        if isinstance(y, Const) and y.value == 0.5 and x.dtype.is_float:
            # C and IEEE 754 differ from sqrt at two places: pow(-∞, 0.5) is +∞, and pow(-0, 0.5) is +0.
            root = unary("sqrt", binary("add", x, 0.0))
            return select(binary("eq", x, -math.inf), const(math.inf, x.dtype), root)
        if x.dtype.is_float or not y.dtype.is_float:
            return binary("pow", x, cast(y, x.dtype))
        return cast(binary("pow", cast(x, y.dtype), y), x.dtype)  # an integer base with a float exponent

    return ctx.result(at)


@lowering("Mod", pointwise=True)
def _lower_mod(ctx: Context) -> Operand:
    a, b = ctx.input(0), ctx.input(1)
    op = "fmod" if ctx.attribute("fmod", 0) else "mod"
    return ctx.result(lambda i: binary(op, a.broadcast(i), b.broadcast(i)))


@lowering("BitShift", pointwise=True)
def _lower_shift(ctx: Context) -> Operand:
    a, b = ctx.input(0), ctx.input(1)
    op = "shl" if ctx.attribute("direction") == "LEFT" else "shr"
    return ctx.result(lambda i: binary(op, a.broadcast(i), b.broadcast(i)))


@lowering("IsInf", pointwise=True)
def _lower_isinf(ctx: Context) -> Operand:
    x = ctx.input(0)
    low, high = ctx.attribute("detect_negative", 1), ctx.attribute("detect_positive", 1)

    def at(i: tuple[Index, ...]) -> Value:
        v = x.at(i)
        infinite = unary("isinf", v)
        if low and high:
            return infinite
        if not (low or high):
            return const(False, DType.BOOL)
        return binary("and", infinite, binary("lt" if low else "gt", v, 0))

    return ctx.result(at)


@lowering("Where", pointwise=True)
def _lower_where(ctx: Context) -> Operand:
    c, a, b = ctx.input(0), ctx.input(1), ctx.input(2)
    # Exporters guard a softmax whose row is masked throughout: Where(IsNaN(p), 0, p). It is still a softmax.
    zero = a.known is not None and not a.known.any()
    guards_softmax = c.origin == ("IsNaN", (b,)) and b.origin[0] == "Softmax" and zero
    origin = ("Softmax", (*b.origin[1], a)) if guards_softmax else ("", ())
    return ctx.result(lambda i: select(c.broadcast(i), a.broadcast(i), b.broadcast(i)), origin=origin)


@lowering("Clip", pointwise=True)
def _lower_clip(ctx: Context) -> Operand:
    x, low, high = ctx.input(0), ctx.optional(1), ctx.optional(2)

    def at(i: tuple[Index, ...]) -> Value:
        v = x.at(i)
        v = v if low is None else binary("max", v, low.scalar())
        return v if high is None else binary("min", v, high.scalar())

    return ctx.result(at)


def _activation(formula: Callable[[Value, Context], Value]) -> Callable[[Context], Operand]:
    """A rule for ``y = formula(x)``; 16-bit floats are computed in f32, as the reference does for these formulas."""

    def rule(ctx: Context) -> Operand:
        x, dtype = ctx.input(0), ctx.outputs[0].dtype
        wide = DType.F32 if dtype in (DType.F16, DType.BF16) else dtype
        if ctx.node.op_type == "Shrink" and not dtype.is_float:
            wide = DType.F64  # its bounds are fractions, and integers come back truncated
        return ctx.result(lambda i: cast(formula(cast(x.at(i), wide), ctx), dtype))

    return rule


def _number(ctx: Context, name: str, default: float) -> float:
    """An attribute; they are 32-bit floats, their defaults as well."""
    value = ctx.attribute(name)
    return float(np.float32(default)) if value is None else value


def _gelu(x: Value, ctx: Context) -> Value:
    """``x/2 (1 + erf(x/√2))``, or with ``approximate=tanh`` ``x/2 (1 + tanh(√(2/π)(x + 0.044715 x³)))``."""
    if ctx.attribute("approximate", "none") == "tanh":
        cube = binary("mul", binary("mul", x, x), x)
        inner = binary("mul", binary("add", x, binary("mul", cube, 0.044715)), math.sqrt(2 / math.pi))
        bell = unary("tanh", inner)
    else:
        bell = unary("erf", binary("mul", x, math.sqrt(0.5)))
    return binary("mul", binary("mul", x, 0.5), binary("add", bell, 1.0))


def _elu(x: Value, alpha: float) -> Value:
    return select(binary("gt", x, 0), x, binary("mul", binary("sub", unary("exp", x), 1.0), alpha))


def _softplus(x: Value) -> Value:
    """``log(1 + exp(x))`` as ``max(x, 0) + log(1 + exp(-|x|))``, which does not overflow."""
    small = unary("exp", unary("neg", unary("abs", x)))
    return binary("add", binary("max", x, 0.0), unary("log", binary("add", small, 1.0)))


def _hard_sigmoid(x: Value, alpha: float, beta: float) -> Value:
    return binary("min", binary("max", binary("add", binary("mul", x, alpha), beta), 0.0), 1.0)


def _selu(x: Value, ctx: Context) -> Value:
    alpha, gamma = _number(ctx, "alpha", 1.6732632), _number(ctx, "gamma", 1.0507010)
    return binary("mul", _elu(x, alpha), gamma)


def _celu(x: Value, ctx: Context) -> Value:
    alpha = _number(ctx, "alpha", 1.0)
    tail = binary("mul", binary("sub", unary("exp", binary("div", x, alpha)), 1.0), alpha)
    return binary("add", binary("max", x, 0.0), binary("min", tail, 0.0))


def _shrink(x: Value, ctx: Context) -> Value:
    bias, lambd = _number(ctx, "bias", 0.0), _number(ctx, "lambd", 0.5)
    low = select(binary("lt", x, -lambd), binary("add", x, bias), 0)
    return select(binary("gt", x, lambd), binary("sub", x, bias), low)


_ACTIVATIONS: dict[str, Callable[[Value, Context], Value]] = {
    "Relu": lambda x, c: binary("max", x, 0),
    "LeakyRelu": lambda x, c: select(binary("ge", x, 0), x, binary("mul", x, _number(c, "alpha", 0.01))),
    "ThresholdedRelu": lambda x, c: select(binary("gt", x, _number(c, "alpha", 1.0)), x, 0),
    "Elu": lambda x, c: _elu(x, _number(c, "alpha", 1.0)),
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "Softplus": lambda x, c: _softplus(x),
    "Softsign": lambda x, c: binary("div", x, binary("add", unary("abs", x), 1.0)),
    "HardSigmoid": lambda x, c: _hard_sigmoid(x, _number(c, "alpha", 0.2), _number(c, "beta", 0.5)),
    "HardSwish": lambda x, c: binary("mul", x, _hard_sigmoid(x, float(np.float32(1 / 6)), 0.5)),
    "Swish": lambda x, c: binary("mul", x, unary("sigmoid", binary("mul", x, _number(c, "alpha", 1.0)))),
    "Mish": lambda x, c: binary("mul", x, unary("tanh", _softplus(x))),
    "Shrink": _shrink,
}

for _name, _formula in _ACTIVATIONS.items():
    lowering(_name, pointwise=True)(_activation(_formula))


@lowering("PRelu", pointwise=True)
def _lower_prelu(ctx: Context) -> Operand:
    x, slope = ctx.input(0), ctx.input(1)

    def at(i: tuple[Index, ...]) -> Value:
        v = x.at(i)
        return select(binary("lt", v, 0), binary("mul", v, slope.broadcast(i)), v)

    return ctx.result(at)


@lowering("Dropout", pointwise=True)
def _lower_dropout(ctx: Context) -> tuple[Operand, ...]:
    """Nothing is dropped (the shape rule refuses what would be random): the input, and a mask that keeps everything."""
    x = ctx.input(0)
    kept = Operand(TensorType(DType.BOOL, x.type.shape), lambda _: const(True, DType.BOOL))
    return (ctx.result(x.at), kept)[: len(ctx.outputs)]
