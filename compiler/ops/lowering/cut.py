"""Lowering of operators that cut pieces out of a tensor or set it into a larger one: moved indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, as_expr, constant, maximum, minimum
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, select
from tilewright.ops.lower import Context, lowering, unsupported

Moves = Mapping[int, Callable[[Expr], Expr]]


def _moved(ctx: Context, moves: Moves, output: int = 0, sure: bool = True, x: Operand | None = None) -> Operand:
    """Reads of the input, or of ``x``, with the index along each dimension of ``moves`` replaced. An index is always
    inside, but unless that is ``sure`` from the kernel alone it reads with care.
    """
    source = ctx.input(0) if x is None else x

    def at(index: tuple[Index, ...]) -> Value:
        moved = tuple(moves[d](i) if d in moves and isinstance(i, Expr) else i for d, i in enumerate(index))
        return source.at(moved) if sure else ctx.composer.padded(source, moved, 0)

    return ctx.result(at, output)


def _axes_of(ctx: Context, i: int, count: int) -> list[int] | None:
    """The axes that input ``i`` lists, the first ``count`` ones by default; ``None`` where a run tells."""
    rank = ctx.input(0).type.rank
    axes = ctx.expressions(i) if ctx.optional(i) is not None else [constant(d) for d in range(count)]
    return [a.value % rank for a in axes] if all(a.is_constant for a in axes) else None


@lowering("Slice")
def _lower_slice(ctx: Context) -> Operand:
    """The ends are in the type of the result."""
    starts = ctx.expressions(1)
    axes = _axes_of(ctx, 3, len(starts))
    if axes is None:
        return _moved(ctx, {d: _stepping(ctx, d) for d in range(ctx.input(0).type.rank)}, sure=False)
    steps = ctx.expressions(4) if ctx.optional(4) is not None else [constant(1)] * len(starts)
    moves, shape, sure = {}, list(ctx.input(0).type.shape), True
    for d, start, step in zip(axes, starts, steps, strict=True):
        fixed = start.is_constant and step.is_constant and f"begin{d}" not in ctx.definitions
        moves[d] = _stepping(ctx, d, start.value, step.value) if fixed else _stepping(ctx, d, step=step)
        if f"rest{d}" in ctx.definitions:
            shape[d] = ctx.defined(f"begin{d}") + ctx.outputs[0].shape[d] + ctx.defined(f"rest{d}")
        else:
            sure = sure and fixed
    x = ctx.composer.sized(ctx.input(0), shape) if ctx.definitions and sure else None
    return _moved(ctx, moves, sure=x is not None or not ctx.definitions, x=x)


def _stepping(ctx: Context, d: int, start: int | None = None, step: Expr | int = 0) -> Callable[[Expr], Expr]:
    """Positions along axis ``d`` from ``start``, or from where the shape rule says; likewise the step."""
    size, taken = ctx.input(0).type.shape[d], ctx.outputs[0].shape[d]
    if f"stride{d}" in ctx.definitions:
        begin, stride, back = (ctx.defined(f"{hint}{d}") for hint in ("begin", "stride", "back"))
        return lambda i: begin + i * (stride * (1 - 2 * back))
    if start is None:
        begin = ctx.defined(f"begin{d}")
        return lambda i: begin + i * step
    at_start = size + start if start < 0 else constant(start)
    begin = minimum(maximum(at_start, 0), size if as_expr(step).value > 0 else size - 1)
    # A size that is assumed to fit (the plan asserts it) does not tell a reader of the kernel that it does.
    facts = ctx.composer.facts
    inside = size.symbols <= taken.symbols or bounds(begin + taken * step - size, facts)[1] <= 0
    return lambda i: begin + i * step if inside else minimum(begin + i * step, size - 1)


@lowering("Split")
def _lower_split(ctx: Context) -> tuple[Operand, ...]:
    axis, shape = ctx.attribute("axis", 0) % ctx.input(0).type.rank, list(ctx.input(0).type.shape)
    results, start = [], constant(0)
    shape[axis] = sum((t.shape[axis] for t in ctx.outputs), constant(0))
    x = ctx.composer.sized(ctx.input(0), shape) if ctx.definitions else None
    for n, type_ in enumerate(ctx.outputs):
        results.append(_moved(ctx, {axis: _shifted(start)}, n, x is not None or not ctx.definitions, x))
        start = start + type_.shape[axis]
    return tuple(results)


def _shifted(start: Expr) -> Callable[[Expr], Expr]:
    return lambda i: i + start


@lowering("Pad")
def _lower_pad(ctx: Context) -> Operand:
    x, mode, amounts = ctx.input(0), ctx.attribute("mode", "constant"), ctx.expressions(1)
    axes = _axes_of(ctx, 3, x.type.rank)
    named = {} if axes is None else dict(zip(axes, amounts, strict=False))
    before = {d: ctx.definitions.get(f"before{d}", named.get(d, constant(0))) for d in range(x.type.rank)}
    if mode in _OUTSIDE:
        touched = [d for d, b in before.items() if b != 0 or ctx.outputs[0].shape[d] != x.type.shape[d]]
        some = all(bounds(x.type.shape[d], ctx.composer.facts)[0] >= 1 for d in touched)
        return _moved(ctx, {d: _repeating(ctx, mode, d, before[d]) for d in touched}, sure=some)
    if mode != "constant":
        raise unsupported(ctx.node, f"pad mode {mode}")
    value = ctx.optional(2)
    fill = 0 if value is None or value.known is None else value.known.reshape(-1)[0].item()

    def at(index: tuple[Index, ...]) -> Value:
        moved = tuple(i - before[d] if isinstance(i, Expr) else i for d, i in enumerate(index))
        element = ctx.composer.padded(x, moved, fill)
        inside = ctx.composer.inside(moved, x.type.shape)
        if value is None or value.known is not None or inside is None:
            return element
        return select(inside, element, value.scalar())

    return ctx.result(at)


#: Pad modes that read the input again beyond its ends: the position and the size give the position that is read.
_OUTSIDE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "edge": lambda i, size: i,
    "reflect": lambda i, size: minimum(maximum(i, -i), 2 * (size - 1) - i),
    "wrap": lambda i, size: i % maximum(size, 1),
}


def _repeating(ctx: Context, mode: str, d: int, before: Expr) -> Callable[[Expr], Expr]:
    """Positions along axis ``d`` from ``before`` ahead of the first, led back inside what is not cut off."""
    size, facts = ctx.input(0).type.shape[d], ctx.composer.facts
    after = ctx.outputs[0].shape[d] - size - before
    cut, end = maximum(-before, 0), maximum(-after, 0)
    left = size - cut - end
    ahead = maximum(before, 0)
    once = before.is_constant and after.is_constant and max(before.value, after.value) < bounds(left, facts)[0]
    if mode == "reflect" and not once:
        # There and back again: twice all but one.
        period = maximum(2 * (left - 1), 1)
        return lambda i: maximum(0, minimum(cut + _there_and_back((i - ahead) % period, period), size - 1))
    return lambda i: maximum(0, minimum(cut + _OUTSIDE[mode](i - ahead, left), size - 1 - end))


def _there_and_back(i: Expr, period: Expr) -> Expr:
    return minimum(i, period - i)


@lowering("CenterCropPad")
def _lower_center_crop_pad(ctx: Context) -> Operand:
    x = ctx.input(0)

    def at(index: tuple[Index, ...]) -> Value:
        shifts = [ctx.definitions.get(f"shift{d}", constant(0)) for d in range(x.type.rank)]
        moved = tuple(i + s if isinstance(i, Expr) else i for i, s in zip(index, shifts, strict=True))
        return ctx.composer.padded(x, moved, 0)

    return ctx.result(at)
