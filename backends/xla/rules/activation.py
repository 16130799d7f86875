"""Activations: formulas of one element, computed in f32 or f64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import chlo, stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.rules.elementwise import computed, number
from tilewright.ir.types import DType


@dataclass(frozen=True, slots=True)
class _Number:
    """A value of a formula, with arithmetic. Plain numbers become values of the same type and shape."""

    value: Value
    dtype: DType

    def of(self, value: Union[Value, float, _Number]) -> Value:
        """``value`` as an operand beside this one."""
        if isinstance(value, _Number):
            return value.value
        return build.splat(value, self.dtype, build.shape_of(self.value))

    def made(self, name: str, *others: Union[float, _Number]) -> _Number:
        """An operation of StableHLO on this and others."""
        operation = getattr(stablehlo(), name)
        return _Number(operation(self.value, *map(self.of, others)), self.dtype)

    def __add__(self, other: Union[float, _Number]) -> _Number:
        return self.made("add", other)

    def __sub__(self, other: Union[float, _Number]) -> _Number:
        return self.made("subtract", other)

    def __mul__(self, other: Union[float, _Number]) -> _Number:
        return self.made("multiply", other)

    def __truediv__(self, other: Union[float, _Number]) -> _Number:
        return self.made("divide", other)

    def chosen(self, direction: str, bound: float, other: Union[float, _Number], otherwise: float | _Number) -> _Number:
        """``other`` where this compares so with ``bound``, else ``otherwise``."""
        kind = "FLOAT" if self.dtype.is_float else "SIGNED" if self.dtype.is_signed else "UNSIGNED"
        condition = build.compare(self.value, self.of(bound), direction, kind)
        return _Number(build.select(condition, self.of(other), self.of(otherwise)), self.dtype)


def _gelu(x: _Number, ctx: Rule) -> _Number:
    """``x/2 (1 + erf(x/√2))``, or with ``approximate=tanh`` ``x/2 (1 + tanh(√(2/π)(x + 0.044715 x³)))``."""
    if ctx.attribute("approximate", "none") == "tanh":
        bell = ((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)).made("tanh")
    else:
        bell = _Number(chlo().erf((x * math.sqrt(0.5)).value), x.dtype)
    return x * 0.5 * (bell + 1.0)


def _elu(x: _Number, alpha: float) -> _Number:
    return x.chosen("GT", 0, x, x.made("exponential_minus_one") * alpha)


def _softplus(x: _Number) -> _Number:
    """``log(1 + exp(x))`` as ``max(x, 0) + log(1 + exp(-|x|))``, which does not overflow."""
    return x.made("maximum", 0.0) + x.made("abs").made("negate").made("exponential").made("log_plus_one")


def _hard_sigmoid(x: _Number, alpha: float, beta: float) -> _Number:
    return (x * alpha + beta).made("maximum", 0.0).made("minimum", 1.0)


def _selu(x: _Number, ctx: Rule) -> _Number:
    return _elu(x, number(ctx, "alpha", 1.6732632)) * number(ctx, "gamma", 1.0507010)


def _celu(x: _Number, ctx: Rule) -> _Number:
    alpha = number(ctx, "alpha", 1.0)
    return x.made("maximum", 0.0) + ((x / alpha).made("exponential_minus_one") * alpha).made("minimum", 0.0)


def _shrink(x: _Number, ctx: Rule) -> _Number:
    bias, bound = number(ctx, "bias", 0.0), number(ctx, "lambd", 0.5)
    return x.chosen("GT", bound, x - bias, x.chosen("LT", -bound, x + bias, 0))


_FORMULAS: dict[str, Callable[[_Number, Rule], _Number]] = {
    "LeakyRelu": lambda x, c: x.chosen("GE", 0, x, x * number(c, "alpha", 0.01)),
    "ThresholdedRelu": lambda x, c: x.chosen("GT", number(c, "alpha", 1.0), x, 0),
    "Elu": lambda x, c: _elu(x, number(c, "alpha", 1.0)),
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "Softplus": lambda x, c: _softplus(x),
    "Softsign": lambda x, c: x / (x.made("abs") + 1.0),
    "HardSigmoid": lambda x, c: _hard_sigmoid(x, number(c, "alpha", 0.2), number(c, "beta", 0.5)),
    "HardSwish": lambda x, c: x * _hard_sigmoid(x, number(c, "none", 1 / 6), 0.5),
    "Swish": lambda x, c: x * (x * number(c, "alpha", 1.0)).made("logistic"),
    "Mish": lambda x, c: x * _softplus(x).made("tanh"),
    "Shrink": _shrink,
}


def _activation(ctx: Rule) -> Tensor:
    formula = _FORMULAS[ctx.node.op_type]
    to = ctx.type().dtype
    wide = DType.F64 if not to.is_float else DType.F32 if to.bits < 32 else to
    return computed(ctx, lambda x: formula(_Number(x, wide), ctx).value)


rule(*_FORMULAS, padding=Padding.POINTWISE)(_activation)


@rule("Relu", padding=Padding.POINTWISE)
def relu(ctx: Rule) -> Tensor:
    """max(x, 0)."""
    x = ctx.input(0)
    return ctx.result(stablehlo().maximum(x.value, ctx.splat(0, x)))


@rule("PRelu", padding=Padding.POINTWISE)
def prelu(ctx: Rule) -> Tensor:
    """``x``, times the slope where it is negative."""
    x = _Number(ctx.input(0).value, ctx.type().dtype)
    slope = _Number(ctx.broadcast(ctx.input(1), ctx.type()), x.dtype)
    return ctx.result(x.chosen("LT", 0, x * slope, x).value)
