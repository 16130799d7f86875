"""Reductions over axes, positions of extremes, and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.rules.logic import kind_of
from tilewright.ir.symbolic import product
from tilewright.ir.types import DType, TensorType

#: operator → (what is done before, the reduction, what is done after).
_REDUCTIONS: dict[str, tuple[str, str, str]] = {
    "ReduceSum": ("", "add", ""),
    "ReduceMean": ("", "add", ""),
    "ReduceProd": ("", "multiply", ""),
    "ReduceMax": ("", "maximum", ""),
    "ReduceMin": ("", "minimum", ""),
    "ReduceSumSquare": ("square", "add", ""),
    "ReduceL1": ("abs", "add", ""),
    "ReduceL2": ("square", "add", "sqrt"),
    "ReduceLogSum": ("", "add", "log"),
}
#: Operators with a function of floats in them: integers are computed in f64, as ONNX defines these by a cast.
_FLOATING = frozenset(["ReduceL2", "ReduceLogSum", "ReduceLogSumExp"])


def identity_of(name: str, dtype: DType) -> float | int | bool:
    """What a reduction leaves as it is."""
    if name == "maximum":
        return build.lowest(dtype)
    if name == "minimum":
        return build.highest(dtype)
    return 1 if name == "multiply" else 0


def reduced(ctx: Rule, x: Tensor, axes: Sequence[int], name: str) -> Value:
    """``x`` combined along ``axes``, which are dropped; padding is masked."""
    identity = identity_of(name, x.dtype)
    masked = ctx.masked(x, axes, identity)
    return build.reduce(masked.value, build.splat(identity, x.dtype), list(axes), getattr(stablehlo(), name))


def spread(value: Value, shape: Sequence[int], axes: Sequence[int]) -> Value:
    """A reduction over ``axes`` repeated along them, to ``shape``."""
    return build.broadcast(value, shape, [d for d in range(len(shape)) if d not in set(axes)])


def count_of(ctx: Rule, x: Tensor, axes: Sequence[int], dtype: DType) -> Value:
    """How many elements ``axes`` really have, a scalar."""
    return ctx.integer(product(x.type.shape[d] for d in axes), dtype)


def over(x: Value, scalar: Value) -> Value:
    """Each element divided by a scalar."""
    return stablehlo().divide(x, build.broadcast(scalar, build.shape_of(x), ()))


def _axes(ctx: Rule) -> list[int]:
    rank = ctx.input(0).rank
    axes = ctx.axes(1, rank, ())
    return axes or ([] if ctx.attribute("noop_with_empty_axes", 0) else list(range(rank)))


def _result(ctx: Rule, value: Value) -> Tensor:
    """With the axes that are kept at size 1."""
    return ctx.result(build.reshape(build.convert(value, ctx.type().dtype), ctx.shape()))


@rule(*_REDUCTIONS, padding=Padding.MASKED)
def reduce(ctx: Rule) -> Tensor:
    """Over the given axes, or all; means by the true count."""
    hlo, x, operator = stablehlo(), ctx.input(0), ctx.node.op_type
    before, name, after = _REDUCTIONS[operator]
    axes = _axes(ctx)
    wide = DType.F64 if x.dtype.is_integer and operator in _FLOATING else ctx.wide(x.dtype)
    if name in ("maximum", "minimum"):
        wide = x.dtype
    value = build.convert(x.value, wide)
    if before == "square":
        value = hlo.multiply(value, value)
    elif before and wide.is_signed:
        value = hlo.abs(value)
    if axes:
        value = reduced(ctx, Tensor(value, TensorType(wide, x.type.shape)), axes, name)
    if operator == "ReduceMean":
        value = over(value, count_of(ctx, x, axes, wide))
    return _result(ctx, getattr(hlo, after)(value) if after else value)


@rule("ReduceLogSumExp", padding=Padding.MASKED)
def log_sum_exp(ctx: Rule) -> Tensor:
    """``log Σ exp(x - top) + top``, where ``top`` is the largest, which does not overflow."""
    hlo, x, axes = stablehlo(), ctx.input(0), _axes(ctx)
    wide = DType.F64 if x.dtype.is_integer else ctx.wide(x.dtype)
    value = build.convert(x.value, wide)
    if not axes:
        return _result(ctx, value)
    type_ = TensorType(wide, x.type.shape)
    top = reduced(ctx, Tensor(value, type_), axes, "maximum")
    shape = build.shape_of(top)
    infinite = build.compare(hlo.abs(top), build.splat(math.inf, wide, shape), "EQ", "FLOAT")
    top = build.select(infinite, build.splat(0, wide, shape), top)  # ∞ - ∞ would be NaN
    powers = hlo.exponential(hlo.subtract(value, spread(top, x.shape, axes)))
    return _result(ctx, hlo.add(hlo.log(reduced(ctx, Tensor(powers, type_), axes, "add")), top))


@rule("ArgMax", "ArgMin", padding=Padding.MASKED)
def arg_extreme(ctx: Rule) -> Tensor:
    """The first (or last) position of the extreme; a NaN is the extreme wherever it stands."""
    x = ctx.input(0)
    axis = ctx.attribute("axis", 0) % x.rank
    last = bool(ctx.attribute("select_last_index", 0))
    place = extreme_position(ctx, x, axis, ctx.node.op_type == "ArgMax", last)
    return ctx.result(build.reshape(build.convert(place, DType.I64), ctx.shape()))


def extreme_position(ctx: Rule, x: Tensor, axis: int, largest: bool, last: bool = False) -> Value:
    """The position (i32) of the extreme along ``axis``, which is dropped: one reduction of values beside positions."""
    hlo, mlir = stablehlo(), bindings()
    worst = build.lowest(x.dtype) if largest else build.highest(x.dtype)
    nowhere = -1 if last else 2**31 - 1
    x = ctx.masked(x, [axis], worst)
    place = build.iota(DType.I32, x.shape, axis)
    inside = ctx.valid(x, [axis])
    if inside is not None:
        place = build.select(inside, place, build.splat(nowhere, DType.I32, x.shape))
    shape = [s for d, s in enumerate(x.shape) if d != axis]
    elements = [mlir.RankedTensorType.get([], v.type.element_type) for v in (x.value, place)]
    made = [mlir.RankedTensorType.get(shape, e.element_type) for e in elements]
    initial = [build.splat(worst, x.dtype), build.splat(nowhere, DType.I32)]
    operation = hlo.ReduceOp(made, [x.value, place], initial, [axis])
    block = operation.regions[0].blocks.append(*elements, *elements)
    with mlir.InsertionPoint(block):
        a, i, b, j = block.arguments
        better = build.compare(a, b, "GT" if largest else "LT", kind_of(x.dtype))
        same = build.compare(a, b, "EQ", kind_of(x.dtype))
        if x.dtype.is_float:
            a_nan, b_nan = (build.compare(v, v, "NE", "FLOAT") for v in (a, b))
            better = hlo.or_(better, hlo.and_(a_nan, hlo.not_(b_nan)))
            same = hlo.or_(same, hlo.and_(a_nan, b_nan))
        nearer = build.compare(i, j, "GT" if last else "LT", "SIGNED")
        first = hlo.or_(better, hlo.and_(same, nearer))
        hlo.return_([build.select(first, a, b), build.select(first, i, j)])
    return operation.results[1]


@rule("CumSum", "CumProd", padding=Padding.MASKED)
def cumulate(ctx: Rule) -> Tensor:
    """Each element with those before it along an axis; ``exclusive`` without itself, ``reverse`` those after it."""
    x = ctx.input(0)
    wide = ctx.wide(x.dtype)
    given = Tensor(build.convert(x.value, wide), TensorType(wide, x.type.shape))
    fixed = ctx.constant(1)
    if fixed is not None:
        value = _running(ctx, given, int(fixed.reshape(-1)[0]) % x.rank)
        return ctx.result(build.convert(value, x.dtype))
    axis = build.convert(build.reshape(ctx.input(1).value, ()), DType.I64)
    value = given.value
    for d in range(x.rank):  # the axis is told by a run
        of_end = build.compare(axis, build.splat(d - x.rank, DType.I64), "EQ", "SIGNED")
        named = stablehlo().or_(build.compare(axis, build.splat(d, DType.I64), "EQ", "SIGNED"), of_end)
        value = build.select(build.broadcast(named, x.shape, ()), _running(ctx, given, d), value)
    return ctx.result(build.convert(value, x.dtype))


def _running(ctx: Rule, x: Tensor, axis: int) -> Value:
    """Sums of 2, 4, 8 … neighbours, each from two of the step before."""
    name = "add" if ctx.node.op_type == "CumSum" else "multiply"
    combine: Callable[[Value, Value], Value] = getattr(stablehlo(), name)
    backwards = bool(ctx.attribute("reverse", 0))
    identity = identity_of(name, x.dtype)
    value = ctx.masked(x, [axis], identity).value if backwards else x.value
    fill = build.splat(identity, x.dtype)

    def moved(v: Value, by: int) -> Value:
        low = [0] * x.rank
        low[axis] = -by if backwards else by
        return build.pad(v, fill, low, [-n for n in low])

    if ctx.attribute("exclusive", 0):
        value = moved(value, 1)
    step = 1
    while step < x.shape[axis]:
        value, step = combine(value, moved(value, step)), 2 * step
    return value
