"""Reductions, scans and selections along axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tilewright.ir.graph import Known
from tilewright.ir.symbolic import Expr, constant, maximum, minimum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.axes import are_constant, kept_sizes, marked_axes, named_axes, sizes_around
from tilewright.ops.choose import choose
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


def reduced_axes(ctx: Infer) -> list[Expr]:
    """For each axis of input 0 whether a ``Reduce…`` node reduces it, 0 or 1: the axes are input 1, or the attribute of
    old opsets. They are defined under the hints of :func:`tilewright.ops.axes.marked_axes`.
    """
    rank = ctx.input(0).rank
    if ctx.has(1):
        axes = named_axes(ctx, 1, rank)
    else:
        axes = [constant(ctx.axis(a, rank)) for a in ctx.integers("axes") or []]
    if not axes:
        return [constant(0 if ctx.integer("noop_with_empty_axes", 0) else 1)] * rank
    if are_constant(axes):
        return [ctx.define(f"among{d}", int(constant(d) in axes)) for d in range(rank)]
    return marked_axes(ctx, axes, rank)


@shape_rule(*REDUCTIONS, *KNOWN_REDUCTIONS)
def reduce(ctx: Infer) -> TensorType:
    """Reduced axes become 1 (``keepdims``) or go."""
    x, marks, keep = ctx.input(0), reduced_axes(ctx), ctx.integer("keepdims", 1)
    if all(m.is_constant for m in marks):
        reduced = [m.value for m in marks]
        ctx.set_known(_known(ctx, reduced == [1], bool(keep)))
        one = constant(1)
        return TensorType(
            x.dtype, tuple(one if r else s for r, s in zip(reduced, x.shape, strict=True) if keep or not r)
        )
    ones = tuple(ctx.define(f"one{d}", choose(m, 1, s)) for d, (m, s) in enumerate(zip(marks, x.shape, strict=True)))
    return TensorType(x.dtype, ones if keep else kept_sizes(ctx, x.shape, marks, x.rank - ctx.input(1).elements.value))


def _known(ctx: Infer, whole: bool, keep: bool) -> Known | None:
    known, compute = ctx.known(0), KNOWN_REDUCTIONS.get(ctx.node.op_type)
    if (
        ctx.input(0).dtype not in WIDE
        or known is None
        or compute is None
        or known.ndim != 1
        or not whole
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
    """Same type as the input. The sizes around the axis are defined."""
    x = ctx.input(0)
    if not x.rank:
        ctx.fail("a scalar has no axis")
    axes = named_axes(ctx, 1, x.rank, "the axis")
    if len(axes) != 1:
        ctx.fail(f"{len(axes)} axes instead of one")
    sizes_around(ctx, x.shape, axes[0])
    return x
