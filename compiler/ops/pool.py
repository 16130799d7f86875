"""Pooling over windows and over whole images."""

from __future__ import annotations

from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.conv import window, window_sizes
from tilewright.ops.registry import shape_rule


@shape_rule("MaxPool", "AveragePool", "LpPool")
def pool(ctx: Infer) -> list[TensorType | None]:
    """``[N, C, *spatial]``; MaxPool may also give positions."""
    x = ctx.input(0)
    kernel = ctx.integers("kernel_shape") or ctx.fail("kernel_shape is missing")
    shape = (*x.shape[:2], *window_sizes(ctx, window(ctx, kernel), x.shape[2:]))
    return [TensorType(x.dtype, shape), TensorType(DType.I64, shape)]


@shape_rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(ctx: Infer) -> TensorType:
    """Every spatial size becomes 1."""
    x = ctx.input(0)
    return TensorType(x.dtype, x.shape[:2] + (constant(1),) * (x.rank - 2))


@shape_rule("MaxUnpool")
def max_unpool(ctx: Infer) -> TensorType:
    """The input of a MaxPool from its output, or a given shape."""
    x = ctx.input(0)
    if ctx.has(2):
        return TensorType(x.dtype, tuple(ctx.known_list(2, "output_shape")))
    w = window(ctx, ctx.integers("kernel_shape") or ctx.fail("kernel_shape is missing"))
    spatial = [(size - 1) * w.strides[i] + w.extent(i) - sum(w.padding(i)) for i, size in enumerate(x.shape[2:])]
    return TensorType(x.dtype, (*x.shape[:2], *spatial))
