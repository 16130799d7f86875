"""Recurrent layers: the inputs of all steps times their weights as one product, then step after step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.symbolic import Expr, ceildiv, minimum
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Composer, Index, Operand, binary, cast, select
from tilewright.ops.lowering.reduction import accumulator
from tilewright.ops.recurrent import GATES, activations
from tilewright.ops.steps import Program, float_bits, program

#: Hidden values whose weights lie together, and sequences of a block; ``native/recurrent.h`` says the same.
_PANEL, _ROWS = 16, 4

_DIRECTIONS = ("forward", "reverse", "bidirectional")


@program(*GATES)
def recurrent(ctx: Program) -> None:
    """Blocks of sequences by themselves, each direction by itself."""
    x, gates = ctx.type(0), GATES[ctx.node.op_type]
    directions, _, hidden = ctx.type(2).shape
    batch_first = ctx.attribute("layout", 0)
    sequences, steps = x.shape[:2] if batch_first else x.shape[1::-1]
    wide = accumulator(x.dtype)
    projected = _projected(ctx, gates, wide)
    # Buffers in the order of the routine: biases, lengths, initial states, peepholes; in place of what is left out
    # stands something that is there.
    inputs = [i if ctx.has(i) else None for i in (3, 4, 5, 6, 7)]
    outputs = [ctx.output(i) if ctx.has_output(i) else None for i in range(3)]
    present = sum(1 << n for n, v in enumerate([*inputs, *outputs]) if v is not None)
    functions = activations(ctx.attribute, ctx.node.op_type, directions.value)
    variant = ctx.attribute("linear_before_reset" if ctx.node.op_type == "GRU" else "input_forget", 0)
    clip = ctx.attribute("clip")
    ctx.call(
        ctx.node.op_type.lower(),
        [
            projected,
            _panels(ctx, gates, wide),
            *(projected if i is None else ctx.input(i) for i in inputs),
            *(ctx.temporary(x.dtype, 1) if v is None else v for v in outputs),
        ],
        [
            *(steps, sequences, hidden, directions, batch_first),
            _DIRECTIONS.index(ctx.attribute("direction", "forward")),
            *(present, variant, float_bits(math.inf if clip is None else clip)),
            *(n for f in functions for n in (f.number, float_bits(f.alpha), float_bits(f.beta))),
        ],
        outputs=3,
        grid=directions * ceildiv(sequences, _ROWS),
        scratch=(5 * gates + 16) * _PANEL * ceildiv(hidden, _PANEL) * (wide.bits // 8),
    )


def _projected(ctx: Program, gates: int, wide: DType) -> ir.Value:
    """``X · Wᵀ`` for every step, direction and gate; sums of half precisions stay wide."""
    x, w = ctx.type(0), ctx.type(1)
    hidden = ctx.type(2).shape[2]
    result = ctx.temporary(wide, *x.shape[:2], w.shape[0], gates * hidden)

    def build(composer: Composer, operands: Sequence[Operand]) -> Operand:
        left, right = operands

        def at(index: tuple[Index, ...]) -> Value:
            *row, direction, column = index
            k = composer.axis(x.shape[2], "k")
            a, b = cast(left.at((*row, k)), wide), cast(right.at((direction, column, k)), wide)
            return composer.reduce("sum", [k], binary("mul", a, b), "acc")

        return Operand(type_of(result), at)

    ctx.launch("input_projection", [ctx.input(0), ctx.input(1)], result, build)
    return result


def _panels(ctx: Program, gates: int, wide: DType) -> ir.Value:
    """R with the weights of :data:`_PANEL` hidden values side by side; at compile time where R is a constant."""
    r, value = ctx.type(2), ctx.input(2)
    directions, _, hidden = r.shape
    panels = ceildiv(hidden, _PANEL)
    if is_constant(value):
        size, count = hidden.value, panels.value
        weights = constant_array(value).astype(wide.numpy).reshape(-1, gates, size, size)
        padded = np.pad(weights, [(0, 0), (0, 0), (0, count * _PANEL - size), (0, 0)])
        split = padded.reshape(-1, gates, count, _PANEL, size)
        return ctx.constant(np.ascontiguousarray(split.swapaxes(-1, -2)))
    result = ctx.temporary(wide, directions, gates * panels, hidden, _PANEL)

    def build(composer: Composer, operands: Sequence[Operand]) -> Operand:
        def at(index: tuple[Index, ...]) -> Value:
            direction, panel, before, lane = index
            assert isinstance(panel, Expr) and isinstance(lane, Expr)
            gate, after = panel // panels, panel % panels * _PANEL + lane
            if hidden.is_constant and hidden.value % _PANEL == 0:
                return cast(operands[0].at((direction, gate * hidden + after, before)), wide)
            row = gate * hidden + minimum(after, hidden - 1)
            weight = cast(operands[0].at((direction, row, before)), wide)
            return select(binary("lt", IndexValue(after), IndexValue(hidden)), weight, 0)

        return Operand(type_of(result), at)

    ctx.launch("panels", [value], result, build)
    return result
