"""Operators that sort, or pick by order."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("TopK")
def top_k(ctx: Infer) -> list[TensorType | None]:
    """``K`` values and their positions along one axis."""
    x = ctx.input(0)
    axis = ctx.axis(ctx.integer("axis", -1), x.rank)
    if ctx.input(1).elements != 1:
        ctx.fail(f"K has to be one number, not {ctx.input(1)}")
    k = ctx.define("k", ctx.known_list(1, "K", lo=0)[0])
    if ctx.bounds(k - x.shape[axis])[0] > 0:
        ctx.fail(f"K = {k} exceeds the {x.shape[axis]} elements of axis {axis}")
    ctx.at_most(k, x.shape[axis])
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return [TensorType(x.dtype, shape), TensorType(DType.I64, shape)]


@shape_rule("Unique")
def unique(ctx: Infer) -> list[TensorType | None]:
    """Distinct elements or slices, and three index vectors."""
    x = ctx.input(0)
    if ctx.attribute("axis") is None:
        count, total = ctx.new_size("unique", ctx.product(x.shape)), ctx.product(x.shape)
        shape: tuple[Expr, ...] = (count,)
    else:
        axis = ctx.axis(ctx.integer("axis"), x.rank)
        count, total = ctx.new_size("unique", x.shape[axis]), x.shape[axis]
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    per_unique, per_element = TensorType(DType.I64, (count,)), TensorType(DType.I64, (total,))
    return [TensorType(x.dtype, shape), per_unique, per_element, per_unique]


@shape_rule("NonMaxSuppression")
def non_max_suppression(ctx: Infer) -> TensorType:
    """Rows of batch, class and box; at most one per score."""
    boxes, scores = ctx.input(0), ctx.input(1)
    if boxes.rank != 3 or scores.rank != 3:
        ctx.fail("boxes and scores need rank 3")
    ctx.equal(boxes.shape[0], scores.shape[0])
    ctx.equal(boxes.shape[1], scores.shape[2])
    ctx.equal(boxes.shape[2], 4)
    for i in (2, 3, 4):
        if (t := ctx.optional(i)) is not None:
            ctx.equal(ctx.product(t.shape), 1)
    return TensorType(DType.I64, (ctx.new_size("boxes", ctx.product(scores.shape)), constant(3)))
