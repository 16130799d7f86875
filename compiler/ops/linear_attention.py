"""Attention as a recurrence over a state of fixed size."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: By update rule: whether the state decays, and whether a value is compared with what its key gives already.
RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


@shape_rule("LinearAttention")
def linear_attention(ctx: Infer) -> list[TensorType | None]:
    """``[batch, steps, query heads · d_v]`` and the last state ``[batch, heads, d_k, d_v]``."""
    query, key, value = ctx.input(0), ctx.input(1), ctx.input(2)
    heads, queries = ctx.integer("kv_num_heads"), ctx.integer("q_num_heads")
    if heads < 1 or queries < 1 or queries % heads:
        ctx.fail(f"{queries} query heads for {heads} heads")
    rule = ctx.string("update_rule", "gated_delta")
    if rule not in RULES:
        ctx.fail(f"update rule {rule!r}")
    if any(t.rank != 3 for t in (query, key, value)):
        ctx.fail("queries, keys and values need rank 3")
    batch, steps = query.shape[:2]
    for t in (key, value):
        ctx.equal(t.shape[0], batch)
        ctx.equal(t.shape[1], steps)
    dk, dv = _of_head(ctx, query, queries), _of_head(ctx, value, heads)
    ctx.equal(_of_head(ctx, key, heads), dk)
    _check(ctx, 3, (batch, heads, dk, dv))
    for index, needed, what in ((4, RULES[rule][0], "decay"), (5, RULES[rule][1], "beta")):
        if needed and not ctx.has(index):
            ctx.fail(f"the rule {rule} needs {what}")
    if (decay := ctx.optional(4)) is not None:
        _check(ctx, 4, (batch, steps, heads if decay.rank == 3 and decay.shape[2] == heads else dk * heads))
    if (beta := ctx.optional(5)) is not None:
        _check(ctx, 5, (batch, steps, 1 if beta.rank == 3 and beta.shape[2] == 1 else heads))
    state = ctx.optional(3)
    dtype = query.dtype if state is None else state.dtype
    return [TensorType.of(query.dtype, batch, steps, dv * queries), TensorType.of(dtype, batch, heads, dk, dv)]


def _of_head(ctx: Infer, t: TensorType, heads: int) -> Expr:
    """Elements of one head along the last axis."""
    if not t.shape[2].is_constant:
        ctx.unsupported(f"heads of {t.shape[2]} elements together")
    if t.shape[2].value % heads:
        ctx.fail(f"{t.shape[2]} elements for {heads} heads")
    return t.shape[2] // heads


def _check(ctx: Infer, index: int, shape: tuple[Expr | int, ...]) -> None:
    found = ctx.optional(index)
    if found is None:
        return
    if found.rank != len(shape):
        ctx.fail(f"input {index} needs rank {len(shape)}, not {found.rank}")
    for have, want in zip(found.shape, shape, strict=True):
        ctx.equal(have, want)
