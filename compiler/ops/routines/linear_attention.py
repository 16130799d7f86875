"""Attention as a recurrence: pieces of the state by themselves."""

from __future__ import annotations

import math

from tilewright.ir.symbolic import ceildiv, constant
from tilewright.ops.linear_attention import RULES
from tilewright.ops.steps import Program, float_bits, program

#: Columns of the state in a block; ``native/routines/linear_attention.h`` says the same.
_COLUMNS = 32


@program("LinearAttention")
def linear_attention(ctx: Program) -> None:
    """Sums are f32 for every element type but f64, which the operator has not."""
    query, value = ctx.type(0), ctx.type(2)
    heads, queries = ctx.attribute("kv_num_heads"), ctx.attribute("q_num_heads")
    batch, steps = query.shape[:2]
    dk, dv = query.shape[2] // queries, value.shape[2] // heads
    decays, compares = RULES[ctx.attribute("update_rule", "gated_delta")]
    scale = ctx.attribute("scale", 0.0) or 1 / math.sqrt(max(1, dk.value))
    outputs = [ctx.output(0) if ctx.has_output(0) else ctx.temporary(query.dtype, batch, steps, dv * queries)]
    state = ctx.type(3).dtype if ctx.has(3) else query.dtype
    outputs += [ctx.output(1) if ctx.has_output(1) else ctx.temporary(state, batch, heads, dk, dv)]
    ctx.call(
        "linear_attention",
        [*(ctx.input(i) if ctx.has(i) else ctx.input(0) for i in range(6)), *outputs],
        [
            *(steps, heads, queries // heads, dk, dv, int(ctx.has(3))),
            ctx.type(4).shape[2] // heads if decays else constant(0),
            ctx.type(5).shape[2] if compares else constant(0),
            float_bits(scale),
        ],
        outputs=2,
        grid=batch * heads * ceildiv(dv, _COLUMNS),
        scratch=4 * (_COLUMNS + 1) * dk,
    )
