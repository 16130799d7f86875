"""Pooling over windows and over whole images."""

from __future__ import annotations

import math

from tilewright.ir.symbolic import constant, maximum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.conv import window, window_sizes
from tilewright.ops.registry import shape_rule


@shape_rule("MaxPool", "AveragePool", "LpPool")
def pool(ctx: Infer) -> list[TensorType | None]:
    """``[N, C, *spatial]``; MaxPool may also give positions."""
    x = ctx.input(0)
    _check_norm(ctx)
    kernel = ctx.integers("kernel_shape") or ctx.fail("kernel_shape is missing")
    shape = (*x.shape[:2], *window_sizes(ctx, window(ctx, kernel), x.shape[2:]))
    return [TensorType(x.dtype, shape), TensorType(DType.I64, shape)]


def _check_norm(ctx: Infer) -> None:
    if not 0 < float(ctx.attribute("p", 2)) < math.inf:
        ctx.fail(f"p is {ctx.attribute('p')}")


@shape_rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(ctx: Infer) -> TensorType:
    """Every spatial size becomes 1."""
    x = ctx.input(0)
    _check_norm(ctx)
    return TensorType(x.dtype, x.shape[:2] + (constant(1),) * (x.rank - 2))


@shape_rule("MaxUnpool")
def max_unpool(ctx: Infer) -> TensorType:
    """The input of a MaxPool from its output; with a given shape, that and zeros after it."""
    x, positions = ctx.input(0), ctx.input(1)
    if positions.rank != x.rank or not positions.dtype.is_integer:
        ctx.fail(f"positions {positions} of elements {x}")
    for a, b in zip(x.shape, positions.shape, strict=True):
        ctx.equal(a, b)
    w = window(ctx, ctx.integers("kernel_shape") or ctx.fail("kernel_shape is missing"))
    if len(w.kernel) != x.rank - 2:
        ctx.fail(f"{len(w.kernel)}-d window over {x.rank - 2} spatial axes")
    pooled = []
    for i, size in enumerate(x.shape[2:]):
        spread = maximum(0, (size - 1) * w.strides[i] + w.extent(i) - sum(w.padding(i)))
        pooled.append(ctx.define(f"pooled{i}", spread))
    if not ctx.has(2):
        return TensorType(x.dtype, (*x.shape[:2], *pooled))
    given = ctx.known_list(2, "output_shape", lo=0, hi=2**31 - 1)
    if len(given) != x.rank:
        ctx.fail(f"output_shape of {len(given)} sizes for rank {x.rank}")
    return TensorType(x.dtype, tuple(given))
