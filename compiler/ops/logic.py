"""Comparison, boolean logic and selection."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.elementwise import combine_known, whole
from tilewright.ops.registry import shape_rule

#: For a difference ``a - b`` within ``lo..hi``: 1, 0, or ``None`` where the bounds do not decide.
COMPARISONS: dict[str, Callable[[int, int], int | None]] = {
    "Equal": lambda lo, hi: 0 if lo > 0 or hi < 0 else 1 if lo == hi == 0 else None,
    "Greater": lambda lo, hi: 1 if lo > 0 else 0 if hi <= 0 else None,
    "GreaterOrEqual": lambda lo, hi: 1 if lo >= 0 else 0 if hi < 0 else None,
    "Less": lambda lo, hi: 1 if hi < 0 else 0 if lo >= 0 else None,
    "LessOrEqual": lambda lo, hi: 1 if hi <= 0 else 0 if lo > 0 else None,
}

CONNECTIVES: dict[str, Callable[[int, int], int]] = {
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
    "Xor": lambda a, b: a ^ b,
}


@shape_rule(*COMPARISONS)
def compare(ctx: Infer) -> TensorType:
    """Boolean, NumPy broadcasting; known where the bounds of the sizes decide."""
    decide = COMPARISONS[ctx.node.op_type]

    def decided(a: Expr, b: Expr) -> Expr | None:
        verdict = decide(*ctx.bounds(a - b))
        return None if verdict is None else constant(verdict)

    ctx.set_known(combine_known(ctx.known(0), ctx.known(1), decided))
    return TensorType(DType.BOOL, ctx.broadcast(ctx.input(0).shape, ctx.input(1).shape))


@shape_rule(*CONNECTIVES)
def connective(ctx: Infer) -> TensorType:
    """Boolean, NumPy broadcasting."""
    compute = CONNECTIVES[ctx.node.op_type]
    ctx.set_known(combine_known(ctx.known(0), ctx.known(1), lambda a, b: constant(compute(a.value, b.value))))
    return TensorType(DType.BOOL, ctx.broadcast(ctx.input(0).shape, ctx.input(1).shape))


@shape_rule("Not")
def negation(ctx: Infer) -> TensorType:
    """Boolean, same shape."""
    known = ctx.known(0)
    if known is not None:
        ctx.set_known(whole([1 - e for e in known.flat], known.shape))
    return TensorType(DType.BOOL, ctx.input(0).shape)


@shape_rule("IsNaN", "IsInf")
def classify(ctx: Infer) -> TensorType:
    """Boolean, same shape."""
    return TensorType(DType.BOOL, ctx.input(0).shape)


#: Stands for "the other branch" while two branches are merged; compared by identity, so its value does not matter.
_NOT_CHOSEN = Expr(())


@shape_rule("Where")
def where(ctx: Infer) -> TensorType:
    """Broadcast of condition and both branches; element type of the branches."""
    condition, a, b = ctx.known(0), ctx.known(1), ctx.known(2)
    if condition is not None and a is not None and b is not None:
        chosen = combine_known(condition, a, lambda c, x: x if c == 1 else _NOT_CHOSEN)
        ctx.set_known(combine_known(chosen, b, lambda x, y: y if x is _NOT_CHOSEN else x))
    return TensorType(ctx.input(1).dtype, ctx.broadcast(*(ctx.input(i).shape for i in range(3))))
