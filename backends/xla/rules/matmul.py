"""Products."""

from __future__ import annotations

from tilewright.backends.xla import build
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType


@rule("MatMul", padding=Padding.MASKED)
def matmul(ctx: Rule) -> Tensor:
    """``[…, M, K] × […, K, N]``: K is contracted, of padded sizes both sides masked by 0."""
    x, y = ctx.input(0), ctx.input(1)
    if x.rank != 2 or y.rank != 2:
        raise ctx.unsupported("only matrices so far")
    x, y = ctx.masked(x, [1], 0), ctx.masked(y, [0], 0)
    wide = DType.F32 if x.dtype in (DType.F16, DType.BF16) else x.dtype
    made = build.dot(x.value, y.value, ((), ()), ([1], [0]), wide, ctx.policy.precision)
    return ctx.result(build.convert(made, x.dtype))
