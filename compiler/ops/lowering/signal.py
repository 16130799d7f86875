"""Lowering of windows and filter banks. They are computed in f64 and rounded once: angles and edges need it."""

from __future__ import annotations

import math

from tilewright.ir.symbolic import Expr, constant, maximum
from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering

#: Coefficients of the cosines of 0, 1 and 2 turns.
_COSINES = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


@lowering(*_COSINES)
def _lower_window(ctx: Context) -> Operand:
    """``Σ cₖ cos(2πki / N)``, where N is the size of a periodic window, one less of a symmetric one."""
    (size,) = ctx.outputs[0].shape
    turn = maximum(1, size if ctx.attribute("periodic", 1) else size - 1)

    def at(index: tuple[Index, ...]) -> Value:
        (i,) = index
        assert isinstance(i, Expr)
        share = binary("div", size_of(i, DType.F64), size_of(turn, DType.F64))
        first, *others = _COSINES[ctx.node.op_type]
        total: Value = const(first, DType.F64)
        for k, factor in enumerate(others, start=1):
            cosine = unary("cos", binary("mul", share, 2 * math.pi * k))
            total = binary("add", total, binary("mul", cosine, factor))
        return cast(total, ctx.outputs[0].dtype)

    return ctx.result(at)


@lowering("MelWeightMatrix")
def _lower_mel_weight_matrix(ctx: Context) -> Operand:
    """Triangles whose corners are at the bins of frequencies that lie evenly on the mel scale."""
    (bins,), (length,) = ctx.expressions(0), ctx.expressions(1)
    rate, dtype = cast(ctx.input(2).scalar(), DType.F64), ctx.outputs[0].dtype
    low, high = (_mel(cast(ctx.input(i).scalar(), DType.F64)) for i in (3, 4))
    step = ctx.composer.define(binary("div", binary("sub", high, low), size_of(bins + 2, DType.F64)), "step")

    def corner(i: Expr) -> Value:
        mel = binary("add", binary("mul", size_of(i, DType.F64), step), low)
        hertz = binary("mul", binary("sub", unary("exp", binary("mul", mel, math.log(10) / 2595)), 1.0), 700.0)
        place = binary("div", binary("mul", size_of(length + 1, DType.F64), hertz), rate)
        return ctx.composer.define(unary("floor", place), "corner")

    def at(index: tuple[Index, ...]) -> Value:
        row, column = index
        assert isinstance(row, Expr) and isinstance(column, Expr)
        place = size_of(row, DType.F64)
        left, middle, right = (corner(column + constant(n)) for n in range(3))
        zero, one = const(0.0, DType.F64), const(1.0, DType.F64)
        flat = binary("eq", middle, left)
        rise = binary("div", binary("sub", place, left), select(flat, one, binary("sub", middle, left)))
        rising = select(
            binary("and", binary("ge", place, left), binary("le", place, middle)), select(flat, one, rise), 0
        )
        falls = binary("gt", right, middle)
        fall = binary("div", binary("sub", right, place), select(falls, binary("sub", right, middle), one))
        inside = binary("and", binary("ge", place, middle), binary("and", binary("lt", place, right), falls))
        return cast(select(inside, fall, select(binary("le", place, middle), rising, zero)), dtype)

    return ctx.result(at)


def _mel(hertz: Value) -> Value:
    """``2595 · log₁₀(1 + f / 700)``."""
    return binary("mul", unary("log", binary("add", binary("div", hertz, 700.0), 1.0)), 2595 / math.log(10))
