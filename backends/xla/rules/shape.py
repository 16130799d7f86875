"""Operators on sizes, and generated tensors."""

from __future__ import annotations

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType


@rule("Shape", padding=Padding.MASKED)
def shape(ctx: Rule) -> Tensor:
    """True sizes."""
    rank = ctx.input(0).rank
    start = ctx.attribute("start", 0)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    count = ctx.shape()[0]
    sizes = np.array([*ctx.input(0).type.shape[start : start + count], None], dtype=object)[:-1]
    return ctx.result(ctx.elements(sizes, DType.I64))


@rule("Size", padding=Padding.MASKED)
def size(ctx: Rule) -> Tensor:
    """The true number of elements."""
    return ctx.result(ctx.integer(ctx.input(0).type.elements))


@rule("ConstantOfShape", padding=Padding.MASKED)
def constant_of_shape(ctx: Rule) -> Tensor:
    """One value, 0 by default, in the sizes that inference found."""
    value = ctx.attribute("value")
    number = 0 if value is None else np.asarray(value.numpy()).reshape(-1)[0]
    return ctx.result(build.splat(number, ctx.type().dtype, ctx.shape()))


@rule("Range", padding=Padding.MASKED)
def arange(ctx: Rule) -> Tensor:
    """``start + i · delta``; of narrow floats in f32, which holds every position."""
    hlo, dtype, shape = stablehlo(), ctx.type().dtype, ctx.shape()
    wide = DType.F32 if dtype.is_float and dtype.bits < 32 else dtype
    start, delta = (
        build.broadcast(build.convert(build.reshape(ctx.input(i).value, ()), wide), shape, ()) for i in (0, 2)
    )
    return ctx.result(build.convert(hlo.add(start, hlo.multiply(build.iota(wide, shape, 0), delta)), dtype))


@rule("EyeLike", padding=Padding.MASKED)
def eye_like(ctx: Rule) -> Tensor:
    """1 on the diagonal ``k`` to the right of the main one."""
    on = build.compare(_off(ctx), _diagonal(ctx, ctx.attribute("k", 0)), "EQ", "SIGNED")
    return ctx.result(build.convert(on, ctx.type().dtype))


@rule("Trilu", padding=Padding.MASKED)
def trilu(ctx: Rule) -> Tensor:
    """The triangle above (or below) the diagonal ``k``, 0 elsewhere."""
    x = ctx.input(0)
    fixed = ctx.constant(1) if ctx.has(1) else np.zeros(1, np.int64)
    if fixed is not None:
        k = _diagonal(ctx, int(fixed.reshape(-1)[0]))
    else:
        bound = build.splat(_FAR, DType.I64)
        told = stablehlo().clamp(stablehlo().negate(bound), build.reshape(ctx.input(1).value, ()), bound)
        k = build.broadcast(build.convert(told, DType.I32), x.shape, ())
    kept = build.compare(_off(ctx), k, "GE" if ctx.attribute("upper", 1) else "LE", "SIGNED")
    return ctx.result(build.select(kept, x.value, ctx.splat(0, x)))


#: A diagonal that lies outside every matrix.
_FAR = 2**31 - 1


def _diagonal(ctx: Rule, k: int) -> Value:
    return build.splat(max(-_FAR, min(_FAR, k)), DType.I32, ctx.shape())


def _off(ctx: Rule) -> Value:
    """How far to the right of the main diagonal each element is."""
    shape = ctx.shape()
    row, column = (build.iota(DType.I32, shape, len(shape) - 2 + n) for n in (0, 1))
    return stablehlo().subtract(column, row)
