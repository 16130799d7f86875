"""Dropout: an identity, as long as a run drops nothing."""

from __future__ import annotations

from tilewright.ir.late import is_late
from tilewright.ir.types import DType
from tilewright.ops.steps import Program, program


@program("Dropout")
def dropout(ctx: Program) -> None:
    """Refuse a run that would drop elements at random; otherwise copy."""
    if is_late(ctx.node):
        flag = ctx.temporary(DType.I64, 1)
        # Without a ratio it is one half, which is as good as any number but 0.
        ratio = ctx.input(1) if ctx.has(1) else ctx.input(2)
        ctx.call("dropout_drops", [ratio, ctx.input(2), flag])
        ctx.read("drops_at_random", flag)
    ctx.kernel()
