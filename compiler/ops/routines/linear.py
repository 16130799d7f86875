"""Linear algebra that proceeds step by step."""

from __future__ import annotations

from tilewright.ir.symbolic import product
from tilewright.ops.steps import Program, program


@program("Det")
def determinant(ctx: Program) -> None:
    """One matrix a block, in f64 in its own scratch memory."""
    *batch, size, _ = ctx.type(0).shape
    ctx.call("determinant", [ctx.input(0), ctx.output()], [size], grid=product(batch), scratch=8 * size * size)
