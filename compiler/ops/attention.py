"""Attention and rotary embedding."""

from __future__ import annotations

from tilewright.ir.symbolic import ZERO, Expr, constant
from tilewright.ir.types import TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("Attention")
def attention(ctx: Infer) -> list[TensorType | None]:
    """``[batch, heads, sequence, head size]`` or ``[batch, sequence, heads * head size]``; optional key/value past.

    Outputs: result, present key, present value, and the query-key product.
    """
    q, k, v = ctx.input(0), ctx.input(1), ctx.input(2)
    (b, hq, sq, dq), (bk, hkv, skv, dk), (bv, hv, sv, dv) = (
        _heads(ctx, q, "q_num_heads"),
        _heads(ctx, k, "kv_num_heads"),
        _heads(ctx, v, "kv_num_heads"),
    )
    b = ctx.equal(ctx.equal(b, bk), bv)
    hkv, skv = ctx.equal(hkv, hv), ctx.equal(skv, sv)
    if hq.is_constant and hkv.is_constant and (hkv.value < 1 or hq.value % hkv.value):
        ctx.fail(f"{hq} query heads cannot share {hkv} key and value heads")
    for side in ("left_window_size", "right_window_size"):
        if ctx.integer(side, -1) < -1:
            ctx.fail(f"{side} is {ctx.integer(side)}")
    dk = ctx.equal(dq, dk)
    total = skv + _past(ctx, (b, hkv, dk, dv))
    if ctx.has(6):
        ctx.equal(b, *ctx.input(6).shape)
    mask = ctx.optional(3)
    if mask is not None:
        _check_mask(ctx, mask, (b, hq, sq, total))
    result = (b, hq, sq, dv) if q.rank == 4 else (b, sq, hq * dv)
    present = [TensorType(k.dtype, (b, hkv, total, dk)), TensorType(v.dtype, (b, hkv, total, dv))]
    return [TensorType(q.dtype, result), *present, TensorType(q.dtype, (b, hq, sq, total))]


def _past(ctx: Infer, sizes: tuple[Expr, Expr, Expr, Expr]) -> Expr:
    """How many past keys there are; ``sizes`` are batch, heads, and the head sizes of keys and values."""
    if ctx.has(4) != ctx.has(5) or (ctx.has(4) and ctx.has(6)):
        ctx.fail("past keys and past values go together, and not with lengths")
    if not ctx.has(4):
        return ZERO
    batch, heads, *widths = sizes
    lengths = []
    for i, width in zip((4, 5), widths, strict=True):
        b, h, length, d = ctx.input(i).shape
        for size, wanted in ((b, batch), (h, heads), (d, width)):
            ctx.equal(size, wanted)
        lengths.append(length)
    return ctx.equal(*lengths)


def _check_mask(ctx: Infer, mask: TensorType, scores: tuple[Expr, ...]) -> None:
    """A mask broadcasts to the scores; a shorter last axis is taken as masked beyond its end."""
    lead, last = mask.shape[:-1], mask.shape[-1:]
    ctx.broadcast(scores[:-1], lead)
    if not last or (last[0].is_constant and scores[-1].is_constant and last[0].value <= scores[-1].value):
        return
    ctx.broadcast(scores[-1:], last)


def _heads(ctx: Infer, x: TensorType, attribute: str) -> tuple[Expr, Expr, Expr, Expr]:
    """Batch, heads, sequence and head size."""
    if x.rank == 4:
        b, h, s, d = x.shape
        return b, h, s, d
    if x.rank != 3:
        ctx.fail(f"needs rank 3 or 4, not {x.rank}")
    heads = ctx.integer(attribute)
    if heads < 1:
        ctx.fail(f"{attribute} is {heads}")
    b, s, width = x.shape
    return b, constant(heads), s, width // heads


@shape_rule("RotaryEmbedding")
def rotary_embedding(ctx: Infer) -> TensorType:
    """Same type as the input.

    Tables are ``[batch or 1, sequence, turned / 2]``; with positions, ``[any, turned / 2]``.
    """
    x = ctx.input(0)
    if x.rank not in (3, 4):
        ctx.fail(f"needs rank 3 or 4, not {x.rank}")
    if x.rank == 3 and ctx.integer("num_heads", 0) < 1:
        ctx.fail("num_heads is missing")
    size = x.shape[3] if x.rank == 4 else x.shape[2] // ctx.integer("num_heads", 0)
    turned = ctx.integer("rotary_embedding_dim", 0) or size
    rows = (x.shape[0], x.shape[x.rank - 2])
    for table in (ctx.input(1), ctx.input(2)):
        if table.rank != (2 if ctx.has(3) else 3):
            ctx.fail(f"the table {table} has {table.rank} axes")
        ctx.equal(table.shape[-1] * 2, turned)
        if not ctx.has(3):
            ctx.broadcast(rows, table.shape[:2])
    if ctx.has(3):
        ctx.broadcast(rows, ctx.input(3).shape)
    return x
