"""Lowering of reductions over axes, softmax among them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tilewright.ir.symbolic import ZERO, Expr, constant, product
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.choose import choose
from tilewright.ops.compose import Composer, Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering


def _identity(x: Value) -> Value:
    return x


def _square(x: Value) -> Value:
    return binary("mul", x, x)


#: operator → (what is reduced, the reduction, what follows); the mean divides by the count on top.
_REDUCTIONS: dict[str, tuple[Callable[[Value], Value], str, Callable[[Value], Value]]] = {
    "ReduceSum": (_identity, "sum", _identity),
    "ReduceMean": (_identity, "sum", _identity),
    "ReduceProd": (_identity, "prod", _identity),
    "ReduceMax": (_identity, "max", _identity),
    "ReduceMin": (_identity, "min", _identity),
    "ReduceSumSquare": (_square, "sum", _identity),
    "ReduceL1": (lambda x: unary("abs", x) if x.dtype.is_signed else x, "sum", _identity),
    "ReduceL2": (_square, "sum", lambda y: unary("sqrt", y)),
    "ReduceLogSum": (_identity, "sum", lambda y: unary("log", y)),
}
#: Operators with a function of floats in them: integers are computed in f64, as ONNX defines these by a cast.
_FLOATING = frozenset(["ReduceL2", "ReduceLogSum", "ReduceLogSumExp"])


@dataclass(frozen=True, slots=True)
class Reduced:
    """Which axes of an operand are reduced.

    Attributes:
        x: what is reduced.
        shape: of the result; with run-time axes in terms of what they choose, and as if ``keepdims`` were set, which
            is the same memory.
        over: of each axis how many elements are reduced, ``None`` where it is kept for certain.
        keep: whether the result has the reduced axes.
    """

    x: Operand
    shape: tuple[Expr, ...]
    over: tuple[Expr | None, ...]
    keep: bool

    @property
    def count(self) -> Expr:
        """How many elements become one."""
        return product(size for size in self.over if size is not None)

    def result(self, dtype: DType, at: Callable[[tuple[Index, ...]], Value]) -> Operand:
        """The operand with these elements."""
        return Operand(TensorType(dtype, self.shape), at, reshaped=True)

    def at(self, composer: Composer, index: tuple[Index, ...]) -> tuple[list[Expr], list[Index]]:
        """New index variables for the axes that are reduced, and the index of ``x`` where the others are ``index``."""
        own = [self.keep and size == self.x.type.shape[d] for d, size in enumerate(self.over)]
        rest = [i for d, i in enumerate(index) if not (self.keep and own[d])]
        fresh: list[Expr] = []
        full: list[Index] = []
        places = iter(index)
        for size, whole in zip(self.over, self.x.type.shape, strict=True):
            if size is None:
                full.append(next(places))
                continue
            kept = next(places) if self.keep else ZERO
            fresh.append(composer.axis(size, "r", avoid=[*rest, *fresh]))
            if size == whole:
                full.append(fresh[-1])
            else:  # whether it is reduced is known at run time: one of the two is 0
                assert isinstance(kept, Expr)
                full.append(kept + fresh[-1])
        return fresh, full


def over_axes(x: Operand, axes: Collection[int], shape: tuple[Expr, ...], keep: bool) -> Reduced:
    """The reduction of known ``axes``, with a result of ``shape``."""
    return Reduced(x, shape, tuple(size if d in axes else None for d, size in enumerate(x.type.shape)), keep)


def reduced(ctx: Context) -> Reduced:
    """What a Reduce operator reduces."""
    x, keep = ctx.input(0), bool(ctx.attribute("keepdims", 1))
    places = range(x.type.rank)
    if "among0" in ctx.definitions:
        marks = [ctx.defined(f"among{d}") for d in places]
    else:
        marks = [constant(0 if ctx.attribute("noop_with_empty_axes", 0) else 1)] * x.type.rank
    if all(m.is_constant for m in marks):
        return over_axes(x, {d for d in places if marks[d] == 1}, ctx.outputs[0].shape, keep)
    # Of an axis of size n that is reduced 1 is left, and n are reduced; else n are left, and 1 is "reduced".
    sizes = list(zip(marks, x.type.shape, strict=True))
    return Reduced(x, tuple(choose(m, 1, n) for m, n in sizes), tuple(choose(m, n, 1) for m, n in sizes), True)


def accumulator(dtype: DType) -> DType:
    """The dtype a sum of ``dtype`` runs in: 16-bit floats accumulate in f32."""
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


@lowering(*_REDUCTIONS)
def _lower_reduce(ctx: Context) -> Operand:
    r, operator, dtype = reduced(ctx), ctx.node.op_type, ctx.input(0).type.dtype
    before, op, after = _REDUCTIONS[operator]
    if dtype is DType.BOOL:
        op = {"max": "any", "min": "all"}[op]
    wide = DType.F64 if dtype.is_integer and operator in _FLOATING else accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        fresh, full = r.at(ctx.composer, index)
        value = before(cast(r.x.at(full), wide))
        total = after(ctx.composer.reduce(op, fresh, value, op) if fresh else value)
        if operator == "ReduceMean":
            total = binary("div", total, size_of(r.count, wide))
        return cast(total, dtype)

    return r.result(dtype, at)


@lowering("ReduceLogSumExp")
def _lower_log_sum_exp(ctx: Context) -> Operand:
    r, dtype = reduced(ctx), ctx.input(0).type.dtype
    wide = DType.F64 if dtype.is_integer else accumulator(dtype)

    def at(index: tuple[Index, ...]) -> Value:
        fresh, full = r.at(ctx.composer, index)
        value = cast(r.x.at(full), wide)
        if not fresh:
            return cast(value, dtype)
        top = ctx.composer.reduce("max", fresh, value, "top")
        top = select(unary("isinf", top), const(0.0, wide), top)  # exp(inf - inf) would be NaN
        total = ctx.composer.reduce("sum", fresh, unary("exp", binary("sub", value, top)), "sum")
        return cast(binary("add", unary("log", total), top), dtype)

    return r.result(dtype, at)


@lowering("ArgMax", "ArgMin")
def _lower_arg(ctx: Context) -> Operand:
    """The extreme value first, then the smallest (or, with ``select_last_index``, largest) index that attains it.

    A NaN is the extreme value wherever it stands, as NumPy has it: an index is always inside.
    """
    x, keep = ctx.input(0), bool(ctx.attribute("keepdims", 1))
    axis = ctx.attribute("axis", 0) % x.type.rank
    row = over_axes(x, [axis], ctx.outputs[0].shape, keep)
    op = "max" if ctx.node.op_type == "ArgMax" else "min"
    last = bool(ctx.attribute("select_last_index", 0))

    def at(index: tuple[Index, ...]) -> Value:
        (r,), full = row.at(ctx.composer, index)
        return first_extremum(ctx, op, r, x.at(full), x.type.shape[axis], last)

    return ctx.result(at)


def first_extremum(ctx: Context, op: str, r: Expr, value: Value, size: Expr, last: bool = False) -> Value:
    """The first (or last) position along axis ``r`` of ``size`` elements where ``value`` is largest or smallest."""
    best = ctx.composer.reduce(op, [r], value, "best")
    none = const(-1, DType.I64) if last else IndexValue(size)
    attains = binary("eq", value, best)
    if value.dtype.is_float:
        attains = binary("or", attains, unary("isnan", value))
    return ctx.composer.reduce("max" if last else "min", [r], select(attains, IndexValue(r), none), "where")


@lowering("Softmax", "LogSoftmax")
def _lower_softmax(ctx: Context) -> Operand:
    """Over one axis (opset 13 and later): ``exp(x - max) / Σ exp(x - max)``, or its logarithm."""
    x, axis = ctx.input(0), ctx.attribute("axis", -1)
    dtype = x.type.dtype
    wide = accumulator(dtype)
    if not x.type.rank:  # the only element of its axis
        return ctx.result(lambda index: const(0.0 if ctx.node.op_type == "LogSoftmax" else 1.0, dtype))
    axis %= x.type.rank
    row_of = over_axes(x, [axis], x.type.shape, True)

    def at(index: tuple[Index, ...]) -> Value:
        (r,), full = row_of.at(ctx.composer, index)
        row = cast(x.at(full), wide)
        top = ctx.composer.reduce("max", [r], row, "top")
        total = ctx.composer.reduce("sum", [r], unary("exp", binary("sub", row, top)), "sum")
        shifted = binary("sub", cast(x.at(index), wide), top)
        if ctx.node.op_type == "LogSoftmax":
            return cast(binary("sub", shifted, unary("log", total)), dtype)
        return cast(binary("div", unary("exp", shifted), total), dtype)

    weights = ctx.node.op_type == "Softmax" and axis == x.type.rank - 1 and dtype.is_float
    return ctx.result(at, origin=("Softmax", (x,)) if weights else ("", ()))


@lowering("Hardmax")
def _lower_hardmax(ctx: Context) -> Operand:
    """1 at the first largest element along the axis, 0 elsewhere; a NaN counts as the largest."""
    x, dtype = ctx.input(0), ctx.input(0).type.dtype
    axis = ctx.attribute("axis", -1) % x.type.rank
    row = over_axes(x, [axis], x.type.shape, True)

    def at(index: tuple[Index, ...]) -> Value:
        (r,), full = row.at(ctx.composer, index)
        first = first_extremum(ctx, "max", r, x.at(full), x.type.shape[axis])
        own = index[axis]
        here = IndexValue(own) if isinstance(own, Expr) else cast(own, DType.I64)
        return select(binary("eq", here, first), const(1, dtype), 0)

    return ctx.result(at)
