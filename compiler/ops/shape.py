"""Operators whose result is a size, or whose result's size is an operand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tilewright.ir.graph import KNOWN_LIMIT
from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.choose import LIMIT, choose, is_equal, is_negative
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("Shape")
def shape(ctx: Infer) -> TensorType:
    """The sizes ``start`` to ``end`` of the input."""
    sizes = ctx.input(0).shape
    rank = len(sizes)
    start, end = ctx.integer("start", 0), ctx.integer("end", rank)
    start, end = (min(max(i + rank if i < 0 else i, 0), rank) for i in (start, end))
    ctx.set_known(list(sizes[start:end]))
    return TensorType.of(DType.I64, max(0, end - start))


@shape_rule("Size")
def size(ctx: Infer) -> TensorType:
    """The number of elements."""
    ctx.set_known(ctx.product(ctx.input(0).shape))
    return TensorType.of(DType.I64)


@shape_rule("ConstantOfShape")
def constant_of_shape(ctx: Infer) -> TensorType:
    """A tensor of one repeated value; float zero by default."""
    sizes = _sizes(ctx, ctx.known_shape(0, lo=0))
    value = ctx.attribute("value")
    dtype = DType.F32 if value is None else DType.from_onnx(value.dtype.value)
    count = ctx.input(0).shape[0]
    ctx.equal(count, len(sizes))
    if dtype.is_integer or dtype is DType.BOOL:
        fill = int(np.asarray(value.numpy()).reshape(-1)[0])
        if all(s.is_constant for s in sizes) and math.prod(s.value for s in sizes) <= KNOWN_LIMIT:
            ctx.set_known(np.full([s.value for s in sizes], fill, dtype=object))
    return TensorType(dtype, sizes)


@shape_rule("EyeLike")
def eye_like(ctx: Infer) -> TensorType:
    """A matrix of the input's shape."""
    return TensorType(ctx.dtype("dtype", ctx.input(0).dtype), ctx.input(0).shape)


@shape_rule("Expand")
def expand(ctx: Infer) -> TensorType:
    """Two-way broadcast of the input and a shape."""
    x = ctx.input(0)
    target = _sizes(ctx, ctx.known_shape(1, lo=0))
    rank = max(x.rank, len(target))
    shape, wanted = ([constant(1)] * (rank - len(s)) + list(s) for s in (x.shape, target))
    for d, (size, e) in enumerate(zip(shape, wanted, strict=True)):
        if ctx.hangs_on_run(e) and size not in (1, e):
            # Which of the two is 1, if any, is known at run time; else they are equal.
            shape[d] = wanted[d] = ctx.define(f"size{d}", choose(is_equal(size, 1), e, size))
            ctx.equal(choose(is_equal(e, 1), shape[d], e), shape[d])
    result = ctx.broadcast(tuple(shape), tuple(wanted))
    known = ctx.known(0)
    if known is not None and known.size == 1 and all(s.is_constant for s in result):
        count = math.prod(s.value for s in result)
        if count <= KNOWN_LIMIT:
            ctx.set_known(np.full([s.value for s in result], known.reshape(-1)[0], dtype=object))
    return TensorType(x.dtype, result)


@shape_rule("Range")
def arange(ctx: Infer) -> TensorType:
    """``ceil((limit - start) / delta)`` elements, none when negative."""
    dtype = ctx.input(0).dtype
    if not dtype.is_integer:
        return TensorType(dtype, (_float_count(ctx),))
    (start,), (limit,), (delta,) = (ctx.known_list(i, w) for i, w in enumerate(("start", "limit", "delta")))
    if delta == 0:
        ctx.fail("delta is 0")
    if delta.is_constant:
        sign, stride = constant(1 if delta.value > 0 else -1), constant(abs(delta.value))
    else:
        sign, stride = 1 - 2 * is_negative(delta), ctx.define("stride", maximum(delta, -delta), 1)
    count = maximum(0, ceildiv((limit - start) * sign, stride))
    count = ctx.define("count", count) if ctx.hangs_on_run(count) else count
    if count.is_constant and count.value <= KNOWN_LIMIT:
        ctx.set_known([start + delta * i for i in range(count.value)])
    if sign.is_constant:
        ctx.largest_output = (limit - 1) if sign == 1 else start
    return TensorType(dtype, (count,))


def _float_count(ctx: Infer) -> Expr:
    values: list[Any] = [ctx.constant(i) for i in range(3)]
    if any(v is None for v in values):
        return ctx.new_size("count", LIMIT)
    start, limit, delta = (float(v.reshape(-1)[0]) for v in values)
    if not delta or not all(map(math.isfinite, (start, limit, delta))):
        ctx.fail(f"range {start}, {limit}, {delta}")
    return constant(max(0, math.ceil((limit - start) / delta)))


def _sizes(ctx: Infer, elements: list[Expr]) -> tuple[Expr, ...]:
    for e in elements:
        if ctx.bounds(e)[1] < 0:
            ctx.fail(f"negative size {e}")
    return tuple(e if ctx.bounds(e)[0] >= 0 else maximum(e, constant(0)) for e in elements)
