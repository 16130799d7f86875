"""Operators that pick elements by what they hold: how many there are is known when they have been counted."""

from __future__ import annotations

from tilewright.ir.symbolic import product
from tilewright.ir.types import DType
from tilewright.ops.steps import Program, program


@program("NonZero")
def nonzero(ctx: Program) -> None:
    """Count, then write the position of each element that is not zero."""
    x, count, shape = ctx.input(0), ctx.temporary(DType.I64, 1), ctx.type(0).shape
    ctx.call("nonzero_count", [x, count], [product(shape)])
    ctx.read("nonzero", count)
    ctx.call("nonzero", [x, ctx.output()], [ctx.defined("nonzero"), len(shape), *shape])
