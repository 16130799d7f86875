"""Recurrent layers."""

from __future__ import annotations

from tilewright.ir.types import TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: Gates per layer: rows of the weights are ``gates * hidden size``.
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@shape_rule(*GATES)
def recurrent(ctx: Infer) -> list[TensorType | None]:
    """All states, the last hidden state and (LSTM) the last cell state."""
    x, w, r = ctx.input(0), ctx.input(1), ctx.input(2)
    if x.rank != 3 or w.rank != 3 or r.rank != 3:
        ctx.fail("X, W and R need rank 3")
    directions, hidden = r.shape[0], r.shape[2]
    ctx.equal(w.shape[0], directions)
    ctx.equal(w.shape[1], hidden * GATES[ctx.node.op_type])
    ctx.equal(w.shape[2], x.shape[2])
    if ctx.integer("layout", 0):
        batch, sequence = x.shape[:2]
        states, last = (batch, sequence, directions, hidden), (batch, directions, hidden)
    else:
        sequence, batch = x.shape[:2]
        states, last = (sequence, directions, batch, hidden), (directions, batch, hidden)
    final = TensorType(x.dtype, last)
    return [TensorType(x.dtype, states), final, final]
