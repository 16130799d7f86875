"""Lowering of rotary position embedding."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, const, select, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.gather import wrapped
from tilewright.ops.simplify import simplify


@lowering("RotaryEmbedding")
def _lower_rotary(ctx: Context) -> Operand:
    """Pairs of elements turned by an angle: ``(a, b) → (a·cos - b·sin, b·cos + a·sin)``.

    Element ``j`` of each half is a pair, or ``2j`` and ``2j + 1`` when ``interleaved``. The kernel runs over the two
    halves and over ``j``, so every read is at a stride of 1 (2). Elements beyond ``rotary_embedding_dim`` stay.
    Formula: Su et al., RoFormer, arXiv 2104.09864, equation 34; operator of opset 23.
    """
    x, type_ = ctx.input(0), ctx.outputs[0]
    heads = ctx.attribute("num_heads") if type_.rank == 3 else 1
    size = type_.shape[-1] // heads
    turned = ctx.attribute("rotary_embedding_dim", 0) or size.value
    interleaved = bool(ctx.attribute("interleaved", 0))
    if turned != size.value:
        return _partly(ctx, heads, size, turned, interleaved)
    pair = (constant(turned // 2), constant(2)) if interleaved else (constant(2), constant(turned // 2))
    lead = type_.shape[:-1] if heads == 1 else (*type_.shape[:-1], constant(heads))
    split = TensorType(type_.dtype, (*lead, *pair))

    def flat(index: Sequence[Expr]) -> tuple[Expr, ...]:
        inner = index[-2] * pair[1] + index[-1]
        return (*index[:-2], inner) if heads == 1 else (*index[:-3], index[-3] * size + inner)

    def turn(index: tuple[Index, ...]) -> Value:
        where = [i for i in index if isinstance(i, Expr)]
        side, j = (where[-1], where[-2]) if interleaved else (where[-2], where[-1])
        other = [*where[:-1], 1 - side] if interleaved else [*where[:-2], 1 - side, j]
        return _turned(ctx, x.at(flat(where)), x.at(flat(other)), side, _row(where, type_.rank), j)

    # Each half is stored by itself, so that nothing is asked about sides. (Pairs side by side are stored together.)
    halves = {split.rank - 2: (constant(1),)} if not interleaved else {}
    root = Operand(split, turn, cuts=halves)

    def back(index: tuple[Index, ...]) -> Value:
        *before, last = (i for i in index if isinstance(i, Expr))
        if heads > 1:
            before, last = [*before, last // size], last % size
        digits = (simplify(digit, ctx.composer.ranges) for digit in (last // pair[1], last % pair[1]))
        return root.at((*before, *digits))

    cuts = {type_.rank - 1: (pair[1],)} if halves and heads == 1 else {}
    return ctx.result(back, view=(root, flat), cuts=cuts)


def _partly(ctx: Context, heads: int, size: Expr, turned: int, interleaved: bool) -> Operand:
    """The first ``turned`` elements of each head are turned, the others stay."""
    x, half = ctx.input(0), turned // 2

    def at(index: tuple[Index, ...]) -> Value:
        *before, last = (i for i in index if isinstance(i, Expr))
        inner = last % size if heads > 1 else last
        j, side = (inner // 2, inner % 2) if interleaved else (inner % half, inner // half)
        partner = last + 1 - 2 * side if interleaved else last + half - 2 * half * side
        moved = binary("lt", IndexValue(inner), IndexValue(constant(turned)))
        other = ctx.composer.padded(x, (*before, partner), 0)
        where = [*before[:2], constant(0)] if ctx.outputs[0].rank == 3 else before
        value = _turned(ctx, x.at(index), other, side, _row(where, ctx.outputs[0].rank), j % half)
        return select(moved, value, x.at(index))

    return ctx.result(at)


def _row(where: Sequence[Expr], rank: int) -> tuple[Expr, Expr]:
    """Batch and position: [B, H, S, D], or [B, S, H·D]."""
    return (where[0], where[2]) if rank == 4 else (where[0], where[1])


def _turned(ctx: Context, own: Value, other: Value, side: Expr, row: tuple[Expr, Expr], j: Expr) -> Value:
    """One element, from itself and its partner."""
    cos, sin = (_angle(ctx, ctx.input(i), row, j) for i in (1, 2))
    sine = binary("mul", other, sin)
    if side.is_constant:
        return binary("add" if side.value else "sub", binary("mul", own, cos), sine)
    first = binary("eq", IndexValue(side), const(0, DType.I64))
    return binary("add", binary("mul", own, cos), select(first, unary("neg", sine), sine))


def _angle(ctx: Context, table: Operand, row: tuple[Expr, Expr], j: Expr) -> Value:
    """Cosine or sine for a row: from [B, S, D/2] (a batch of 1 stands for all), or looked up by position."""
    positions = ctx.optional(3)
    if positions is None:
        return table.broadcast((*row, j))
    return table.at((wrapped(ctx, positions.broadcast(row), table.type.shape[0]), j))
