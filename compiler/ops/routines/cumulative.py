"""Operators that run along an axis, each element from the one before."""

from __future__ import annotations

from tilewright.ir.symbolic import ceildiv
from tilewright.ops.steps import Program, program

#: Neighbours along the inner axis that a block takes: of ``native/routines/cumulative.h``.
_CHUNK = 64


@program("CumSum", "CumProd")
def cumulative(ctx: Program) -> None:
    """Each row of the inner axes from the one before."""
    before, along, after = (ctx.defined(hint) for hint in ("before", "along", "after"))
    options = [int(bool(ctx.attribute(name, 0))) for name in ("exclusive", "reverse")]
    ctx.call(
        ctx.node.op_type.lower(),
        [ctx.input(0), ctx.output()],
        [before, along, after, *options],
        grid=before * ceildiv(after, _CHUNK),
    )
