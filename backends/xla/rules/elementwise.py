"""Operators that compute each element from those of the same index."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.backends.xla import build
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule

_BINARY = {"Add": "add", "Sub": "subtract", "Mul": "multiply"}


def _binary(name: str) -> Callable[[Rule], Tensor]:
    def lower(ctx: Rule) -> Tensor:
        x, y = (ctx.broadcast(ctx.input(i), ctx.type()) for i in range(2))
        return ctx.result(getattr(stablehlo(), name)(x, y))

    return lower


for _operator, _name in _BINARY.items():
    rule(_operator, padding=Padding.POINTWISE)(_binary(_name))


@rule("Relu", padding=Padding.POINTWISE)
def relu(ctx: Rule) -> Tensor:
    """max(x, 0)."""
    x = ctx.input(0)
    return ctx.result(stablehlo().maximum(x.value, ctx.splat(0, x)))


@rule("Identity", padding=Padding.POINTWISE)
def identity(ctx: Rule) -> Tensor:
    """The same value."""
    return ctx.input(0)


@rule("Cast", padding=Padding.POINTWISE)
def cast(ctx: Rule) -> Tensor:
    """Another element type."""
    return ctx.result(build.convert(ctx.input(0).value, ctx.type().dtype))
