"""Operators that put elements in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType


@rule("TopK", padding=Padding.MASKED)
def top_k(ctx: Rule) -> tuple[Tensor | None, ...]:
    """The first of a stable sort of values and positions: of equal values the one that comes first wins."""
    x = ctx.input(0)
    axis = ctx.attribute("axis", -1) % x.rank
    largest = bool(ctx.attribute("largest", 1))
    # Padding is as bad as a value can be, and comes later: it loses against everything.
    masked = ctx.masked(x, [axis], worst(x.dtype, largest))
    kind = "FLOAT" if x.dtype.is_float else "SIGNED" if x.dtype.is_signed else "UNSIGNED"

    def before(a: Sequence[Value], b: Sequence[Value]) -> Value:
        return build.compare(a[0], b[0], "GT" if largest else "LT", kind)

    positions = build.iota(DType.I32, x.shape, axis)
    values, positions = indexing.sort([masked.value, positions], axis, before)
    size = ctx.shape(0 if ctx.wants(0) else 1)[axis]
    values, positions = (indexing.cut_dim(v, axis, 0, size) for v in (values, positions))
    return (
        ctx.result(values, 0) if ctx.wants(0) else None,
        ctx.result(build.convert(positions, DType.I64), 1) if ctx.wants(1) else None,
    )


def worst(dtype: DType, largest: bool) -> float | int:
    """What no value of the type is worse than, when the largest (or the smallest) are looked for."""
    if dtype.is_float:
        return -np.inf if largest else np.inf
    info = np.iinfo(dtype.numpy)
    return int(info.min if largest else info.max)
