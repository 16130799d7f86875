"""Lowering of reductions over axes, softmax among them."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir.symbolic import Expr, product
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering


def _identity(x: Value) -> Value:
    return x


#: operator → (what is reduced, the reduction, what follows); the mean divides by the count on top.
_REDUCTIONS: dict[str, tuple[Callable[[Value], Value], str, Callable[[Value], Value]]] = {
    "ReduceSum": (_identity, "sum", _identity),
    "ReduceMean": (_identity, "sum", _identity),
    "ReduceProd": (_identity, "prod", _identity),
    "ReduceMax": (_identity, "max", _identity),
    "ReduceMin": (_identity, "min", _identity),
    "ReduceSumSquare": (lambda x: binary("mul", x, x), "sum", _identity),
    "ReduceL1": (lambda x: unary("abs", x) if x.dtype.is_signed else x, "sum", _identity),
    "ReduceL2": (lambda x: binary("mul", x, x), "sum", lambda y: unary("sqrt", y)),
    "ReduceLogSum": (_identity, "sum", lambda y: unary("log", y)),
}


def reduced_axes(ctx: Context) -> list[int]:
    """The dimensions that a Reduce operator sums over, ascending."""
    rank = ctx.input(0).type.rank
    axes = ctx.integers(1, "axes") or []
    if not axes:
        return [] if ctx.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({a % rank for a in axes})


def over_axes(ctx: Context, index: tuple[Index, ...], axes: list[int], keep: bool) -> tuple[list[Expr], list[Index]]:
    """New index variables for ``axes`` of input 0, and the input's index where the others come from ``index``."""
    x = ctx.input(0)
    rest = [i for d, i in enumerate(index) if not (keep and d in axes)]
    fresh: list[Expr] = []
    full: list[Index] = []
    for d, size in enumerate(x.type.shape):
        if d in axes:
            fresh.append(ctx.composer.axis(size, "r", avoid=[*rest, *fresh]))
            full.append(fresh[-1])
        else:
            full.append(rest[len(full) - len(fresh)])
    return fresh, full


def accumulator(dtype: DType) -> DType:
    """The dtype a sum of ``dtype`` runs in: 16-bit floats accumulate in f32."""
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


@lowering(*_REDUCTIONS)
def _lower_reduce(ctx: Context) -> Operand:
    x, keep, axes = ctx.input(0), bool(ctx.attribute("keepdims", 1)), reduced_axes(ctx)
    before, op, after = _REDUCTIONS[ctx.node.op_type]
    if x.type.dtype is DType.BOOL:
        op = {"max": "any", "min": "all"}[op]
    dtype = x.type.dtype
    wide = accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        fresh, full = over_axes(ctx, index, axes, keep)
        value = before(cast(x.at(full), wide))
        total = after(ctx.composer.reduce(op, fresh, value, op) if fresh else value)
        if ctx.node.op_type == "ReduceMean":
            count = size_of(product(x.type.shape[d] for d in axes), wide)
            total = binary("div", total, count)
        return cast(total, dtype)

    return ctx.result(at)


@lowering("ReduceLogSumExp")
def _lower_log_sum_exp(ctx: Context) -> Operand:
    x, keep, axes = ctx.input(0), bool(ctx.attribute("keepdims", 1)), reduced_axes(ctx)
    dtype = x.type.dtype
    wide = accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        fresh, full = over_axes(ctx, index, axes, keep)
        value = cast(x.at(full), wide)
        top = ctx.composer.reduce("max", fresh, value, "top")
        top = select(unary("isinf", top), const(0.0, wide), top)  # exp(inf - inf) would be NaN
        total = ctx.composer.reduce("sum", fresh, unary("exp", binary("sub", value, top)), "sum")
        return cast(binary("add", unary("log", total), top), dtype)

    return ctx.result(at)


@lowering("ArgMax", "ArgMin")
def _lower_arg(ctx: Context) -> Operand:
    """The extreme value first, then the smallest (or, with ``select_last_index``, largest) index that attains it.

    A NaN is the extreme value wherever it stands, as NumPy has it: an index is always inside.
    """
    x, keep = ctx.input(0), bool(ctx.attribute("keepdims", 1))
    axis = ctx.attribute("axis", 0) % x.type.rank
    op = "max" if ctx.node.op_type == "ArgMax" else "min"
    last = bool(ctx.attribute("select_last_index", 0))

    def at(index: tuple[Index, ...]) -> Value:
        (r,), full = over_axes(ctx, index, [axis], keep)
        value = x.at(full)
        best = ctx.composer.reduce(op, [r], value, "best")
        none = const(-1, DType.I64) if last else IndexValue(x.type.shape[axis])
        attains = binary("eq", value, best)
        if value.dtype.is_float:
            attains = binary("or", attains, unary("isnan", value))
        where = select(attains, IndexValue(r), none)
        return ctx.composer.reduce("max" if last else "min", [r], where, "where")

    return ctx.result(at)


@lowering("Softmax", "LogSoftmax")
def _lower_softmax(ctx: Context) -> Operand:
    """Over one axis (opset 13 and later): ``exp(x - max) / Σ exp(x - max)``, or its logarithm."""
    x, axis = ctx.input(0), ctx.attribute("axis", -1) % ctx.input(0).type.rank
    dtype = x.type.dtype
    wide = accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        (r,), full = over_axes(ctx, index, [axis], True)
        row = cast(x.at(full), wide)
        top = ctx.composer.reduce("max", [r], row, "top")
        total = ctx.composer.reduce("sum", [r], unary("exp", binary("sub", row, top)), "sum")
        shifted = binary("sub", cast(x.at(index), wide), top)
        if ctx.node.op_type == "LogSoftmax":
            return cast(binary("sub", shifted, unary("log", total)), dtype)
        return cast(binary("div", unary("exp", shifted), total), dtype)

    weights = ctx.node.op_type == "Softmax" and axis == x.type.rank - 1 and dtype.is_float
    return ctx.result(at, origin=("Softmax", (x,)) if weights else ("", ()))
