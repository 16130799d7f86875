"""Reductions, scans and selections along axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tilewright.ir.graph import Known
from tilewright.ir.symbolic import Expr, constant, maximum, minimum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.elementwise import WIDE
from tilewright.ops.registry import shape_rule

#: Reductions that integers are followed through.
KNOWN_REDUCTIONS: dict[str, Callable[[Infer, list[Expr]], Expr]] = {
    "ReduceProd": lambda ctx, v: ctx.product(v),
    "ReduceSum": lambda _, v: sum(v, constant(0)),
    "ReduceMax": lambda _, v: maximum(*v),
    "ReduceMin": lambda _, v: minimum(*v),
}

REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceSumSquare".split()


def reduced_axes(ctx: Infer) -> tuple[int, ...]:
    """The axes a ``Reduce…`` node reduces, counted from the front: input 1, or the attribute of old opsets."""
    rank = ctx.input(0).rank
    axes = ctx.known_ints(1, "axes") if ctx.has(1) else ctx.integers("axes") or []
    if not axes:
        return () if ctx.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({ctx.axis(a, rank) for a in axes}))


@shape_rule(*REDUCTIONS, *KNOWN_REDUCTIONS)
def reduce(ctx: Infer) -> TensorType:
    """Reduced axes become 1 (``keepdims``) or go."""
    x, axes, keep = ctx.input(0), reduced_axes(ctx), ctx.integer("keepdims", 1)
    ctx.set_known(_known(ctx, axes, bool(keep)))
    one = constant(1)
    return TensorType(x.dtype, tuple(one if i in axes else s for i, s in enumerate(x.shape) if keep or i not in axes))


def _known(ctx: Infer, axes: tuple[int, ...], keep: bool) -> Known | None:
    known, compute = ctx.known(0), KNOWN_REDUCTIONS.get(ctx.node.op_type)
    if (
        ctx.input(0).dtype not in WIDE
        or known is None
        or compute is None
        or known.ndim != 1
        or axes != (0,)
        or not known.size
    ):
        return None
    result = np.array(compute(ctx, known.tolist()), dtype=object)
    return result.reshape(1) if keep else result


@shape_rule("ArgMax", "ArgMin")
def arg_extremum(ctx: Infer) -> TensorType:
    """Positions along one axis."""
    x, keep = ctx.input(0), ctx.integer("keepdims", 1)
    axis = ctx.axis(ctx.integer("axis", 0), x.rank)
    middle = (constant(1),) if keep else ()
    return TensorType(DType.I64, x.shape[:axis] + middle + x.shape[axis + 1 :])


@shape_rule("CumSum", "CumProd")
def scan(ctx: Infer) -> TensorType:
    """Same type as the input."""
    return ctx.input(0)
