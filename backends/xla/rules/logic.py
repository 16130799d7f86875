"""Comparison, boolean logic and selection."""

from __future__ import annotations

import math

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType, TensorType

_DIRECTIONS = {"Equal": "EQ", "Less": "LT", "LessOrEqual": "LE", "Greater": "GT", "GreaterOrEqual": "GE"}
_CONNECTIVES = {"And": "and_", "Or": "or_", "Xor": "xor"}


def kind_of(dtype: DType) -> str:
    """How StableHLO calls the comparison of a type's elements."""
    return "FLOAT" if dtype.is_float else "SIGNED" if dtype.is_signed else "UNSIGNED"


@rule(*_DIRECTIONS, padding=Padding.POINTWISE)
def compare(ctx: Rule) -> Tensor:
    """Whether two elements compare so; a NaN does not."""
    x, y = (ctx.broadcast(ctx.input(i), ctx.type()) for i in range(2))
    return ctx.result(build.compare(x, y, _DIRECTIONS[ctx.node.op_type], kind_of(ctx.input(0).dtype)))


@rule(*_CONNECTIVES, padding=Padding.POINTWISE)
def connective(ctx: Rule) -> Tensor:
    """Of two booleans."""
    x, y = (ctx.broadcast(ctx.input(i), ctx.type()) for i in range(2))
    return ctx.result(getattr(stablehlo(), _CONNECTIVES[ctx.node.op_type])(x, y))


@rule("Not", padding=Padding.POINTWISE)
def negation(ctx: Rule) -> Tensor:
    """The other boolean."""
    return ctx.result(stablehlo().not_(ctx.input(0).value))


@rule("Where", padding=Padding.POINTWISE)
def where(ctx: Rule) -> Tensor:
    """The second input where the first is true, else the third."""
    type_ = ctx.type()
    condition = ctx.broadcast(ctx.input(0), TensorType(DType.BOOL, type_.shape))
    return ctx.result(build.select(condition, *(ctx.broadcast(ctx.input(i), type_) for i in (1, 2))))


@rule("IsNaN", padding=Padding.POINTWISE)
def is_nan(ctx: Rule) -> Tensor:
    """Whether an element is not itself."""
    x = _in_the_open(ctx.input(0))
    return ctx.result(build.compare(x, x, "NE", "FLOAT"))


@rule("IsInf", padding=Padding.POINTWISE)
def is_inf(ctx: Rule) -> Tensor:
    """Whether an element is infinite, of the signs that are asked for."""
    hlo, x = stablehlo(), _in_the_open(ctx.input(0))
    wide = DType.F32 if ctx.input(0).dtype.bits < 16 else ctx.input(0).dtype
    found = build.splat(False, DType.BOOL, ctx.shape())
    for name, infinity in (("detect_negative", -math.inf), ("detect_positive", math.inf)):
        if ctx.attribute(name, 1):
            found = hlo.or_(found, build.compare(x, build.splat(infinity, wide, ctx.shape()), "EQ", "FLOAT"))
    return ctx.result(found)


def _in_the_open(x: Tensor) -> Value:
    """Floats of 8 bits as f32: not all of them have infinities to compare with."""
    return build.convert(x.value, DType.F32) if x.dtype.bits < 16 else x.value
