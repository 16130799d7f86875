"""Operators that cut pieces out of a tensor or set it into a larger one: Slice, Split, Pad, CenterCropPad."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum, minimum
from tilewright.ir.types import TensorType
from tilewright.ops.axes import are_constant, marked_axes, named_axes, values_by_axis
from tilewright.ops.choose import LIMIT, clamped, is_negative
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: Values at or beyond these stand for "to the end" in slices of models.
_FAR = 2**31 - 1

#: Where a slice starts, where it ends, and its step.
Cut = tuple[Expr, Expr, Expr]


@shape_rule("Slice")
def slice_(ctx: Infer) -> TensorType:
    """``x[start:end:step]`` along the given axes, all others whole.

    What is not plain is defined for axis D: ``beginD``, the first position; ``strideD``, the distance from one to the
    next; ``backD``, 1 where they go down; ``restD``, how many are left behind the last one.
    """
    x = ctx.input(0)
    starts, ends = ctx.known_list(1, "starts"), ctx.known_list(2, "ends")
    axes = ctx.known_list(3, "axes") if ctx.has(3) else [constant(d) for d in range(len(starts))]
    steps = ctx.known_list(4, "steps") if ctx.has(4) else [constant(1)] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        ctx.fail("starts, ends, axes and steps differ in length")
    if any(step == 0 for step in steps):
        ctx.fail("step is 0")
    if are_constant(axes):
        cuts = {ctx.axis(a.value, x.rank): cut for a, *cut in zip(axes, starts, ends, steps, strict=True)}
    else:
        cuts = dict(enumerate(_cuts_by_axis(ctx, x.rank, starts, ends, steps)))
    sizes = [_cut_size(ctx, d, size, *cuts[d]) if d in cuts else size for d, size in enumerate(x.shape)]
    _slice_known(ctx, starts, ends, axes, steps)
    return TensorType(x.dtype, tuple(sizes))


def _cuts_by_axis(
    ctx: Infer, rank: int, starts: Sequence[Expr], ends: Sequence[Expr], steps: Sequence[Expr]
) -> list[list[Expr]]:
    """Start, end and step of each axis of a tensor, where a run tells which axes they are for."""
    axes = named_axes(ctx, 3, rank)
    marks = marked_axes(ctx, axes, rank)
    found = []
    for hint, values, otherwise in (("start", starts, 0), ("end", ends, LIMIT), ("step", steps, 1)):
        chosen = values_by_axis([clamped(v) for v in values], axes, marks, [otherwise] * rank)
        found.append([ctx.define(f"{hint}{d}", e, -LIMIT, LIMIT) for d, e in enumerate(chosen)])
    return [list(cut) for cut in zip(*found, strict=True)]


def _slice_known(
    ctx: Infer, starts: Sequence[Expr], ends: Sequence[Expr], axes: Sequence[Expr], steps: Sequence[Expr]
) -> None:
    known = ctx.known(0)
    if known is None or not are_constant([*starts, *ends, *axes, *steps]):
        return
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step.value < 0 and end.value <= -_FAR else end.value
        along = axis.value % known.ndim
        known = known[(slice(None),) * along + (slice(start.value, last, step.value),)]
    ctx.set_known(known)


def _cut_size(ctx: Infer, d: int, size: Expr, start: Expr, end: Expr, step: Expr) -> Expr:
    if not step.is_constant or not all(_has_a_sign(ctx, e) for e in (start, end)):
        return _cut_size_at_run_time(ctx, d, size, start, end, step)
    if step.value > 0:
        first = _position(ctx, start, size, constant(0), size)
        last = _position(ctx, end, size, constant(0), size)
    else:
        # Clamped to 0, and to the end first where that is -1: an empty axis has no position 0.
        least = minimum(0, size - 1)
        first = size - 1 if start == -1 else _position(ctx, start, size, least, size - 1)
        last = _position(ctx, end, size, constant(-1), size - 1)
    if not start.is_constant:
        ctx.define(f"begin{d}", first, -1)
    taken = maximum(0, ceildiv(last - first if step.value > 0 else first - last, abs(step.value)))
    return _taken(ctx, d, size, step, taken) if ctx.hangs_on_run(taken) else taken


def _taken(ctx: Infer, d: int, size: Expr, step: Expr, taken: Expr) -> Expr:
    """The size of a piece; and what is left behind it, where each position is taken."""
    taken = ctx.define(f"size{d}", taken)
    if step == 1 and f"begin{d}" in ctx.defined:
        ctx.define(f"rest{d}", size - ctx.defined[f"begin{d}"] - taken)
    return taken


def _has_a_sign(ctx: Infer, index: Expr) -> bool:
    lo, hi = ctx.bounds(index)
    return lo >= 0 or hi < 0


def _position(ctx: Infer, index: Expr, size: Expr, least: Expr, most: Expr) -> Expr:
    """A start or end: counted from the back when negative, then clamped to ``least..most``."""
    if index.is_constant and index.value >= _FAR:
        return most
    if index.is_constant and index.value <= -_FAR:
        return least
    return minimum(index, most) if ctx.bounds(index)[0] >= 0 else maximum(index + size, least)


def _cut_size_at_run_time(ctx: Infer, d: int, size: Expr, start: Expr, end: Expr, step: Expr) -> Expr:
    """The sign of start, end or step is known at run time. The largest 64-bit integer means the end."""
    start, end, step = clamped(start), clamped(end), clamped(step)
    back = ctx.define(f"back{d}", is_negative(step), 0, 1)
    stride = ctx.define(f"stride{d}", maximum(step, -step), 1)
    first = minimum(maximum(start + size * is_negative(start), 0), size - back)
    last = minimum(maximum(end + size * is_negative(end), -back), size - back)
    begin, stop = ctx.define(f"begin{d}", first, -1), ctx.define(f"stop{d}", last, -1)
    return _taken(ctx, d, size, step, maximum(0, ceildiv((stop - begin) * (1 - 2 * back), stride)))


@shape_rule("Split")
def split(ctx: Infer) -> list[TensorType | None]:
    """Given sizes, or equal parts of which the last may be smaller."""
    x = ctx.input(0)
    axis = ctx.axis(ctx.integer("axis", 0), x.rank)
    size = x.shape[axis]
    if ctx.has(1):
        parts = ctx.known_list(1, "the sizes", 0)
        if any(ctx.bounds(p)[1] < 0 for p in parts):
            ctx.fail("a negative size")
        parts = [p if p.is_constant else ctx.define(f"part{n}", maximum(p, 0)) for n, p in enumerate(parts)]
        ctx.equal(sum(parts, constant(0)), size)
    else:
        count = ctx.integer("num_outputs", ctx.outputs)
        if count != ctx.outputs:
            ctx.fail(f"num_outputs is {count} for {ctx.outputs} outputs")
        chunk = ceildiv(size, count)
        rest = size - chunk * (count - 1)
        if count > 2 and ctx.bounds(rest)[0] < 0:  # the last of two halves is never negative
            ctx.at_most(chunk * (count - 1), size)
            rest = ctx.define("rest", maximum(rest, 0))
        parts = [chunk] * (count - 1) + [rest]
    if len(parts) != ctx.outputs:
        ctx.fail(f"{len(parts)} parts for {ctx.outputs} outputs")
    known = ctx.known(0)
    if known is not None and known.ndim == 1 and are_constant(parts):
        at = 0
        for i, p in enumerate(parts):
            ctx.set_known(known[at : at + p.value], i)
            at += p.value
    return [TensorType(x.dtype, (*x.shape[:axis], p, *x.shape[axis + 1 :])) for p in parts]


@shape_rule("Pad")
def pad(ctx: Infer) -> TensorType:
    """Each size plus what is added before and after it; negative amounts crop.

    Where a run decides, ``beforeD`` is defined for axis D.
    """
    x, amounts = ctx.input(0), ctx.known_list(1, "pads")
    axes = ctx.known_list(3, "axes") if ctx.has(3) else [constant(d) for d in range(x.rank)]
    if len(amounts) != 2 * len(axes):
        ctx.fail(f"{len(amounts)} pads for {len(axes)} axes")
    before, after = amounts[: len(axes)], amounts[len(axes) :]
    if are_constant(axes):
        places = [ctx.axis(a.value, x.rank) for a in axes]
        each = {d: (b, a) for d, b, a in zip(places, before, after, strict=True)}
    else:
        named = named_axes(ctx, 3, x.rank)
        marks = marked_axes(ctx, named, x.rank)
        sides = [values_by_axis(s, named, marks, [0] * x.rank) for s in (before, after)]
        each = dict(enumerate(zip(*sides, strict=True)))
    sizes = [_padded_size(ctx, d, size, *each[d]) if d in each else size for d, size in enumerate(x.shape)]
    return TensorType(x.dtype, tuple(sizes))


def _padded_size(ctx: Infer, d: int, size: Expr, before: Expr, after: Expr) -> Expr:
    padded = size + before + after
    if ctx.bounds(padded)[1] < 0:
        ctx.fail(f"size {d} becomes {padded}")
    if ctx.string("mode", "constant") != "constant":
        # What is cut off on one side is not there to be repeated on the other.
        left = size + minimum(before, 0) + minimum(after, 0)
        ctx.at_most(minimum(1, maximum(before, after, 0)), left)
    if before.is_constant and after.is_constant:
        return padded
    ctx.define(f"before{d}", before, -LIMIT, LIMIT)
    return ctx.define(f"size{d}", padded)


@shape_rule("CenterCropPad")
def center_crop_pad(ctx: Infer) -> TensorType:
    """Given axes get given sizes. ``shiftD``: where the first element along axis D is read, negative where the result
    begins with zeros.
    """
    x, target = ctx.input(0), ctx.known_shape(1, lo=0)
    axes = ctx.integers("axes")
    axes = list(range(x.rank)) if axes is None else [ctx.axis(a, x.rank) for a in axes]
    if len(axes) != len(target):
        ctx.fail(f"{len(target)} sizes for {len(axes)} axes")
    sizes = list(x.shape)
    for d, size in zip(axes, target, strict=True):
        if ctx.bounds(size)[0] < 0:
            ctx.at_most(0, size)
        sizes[d] = ctx.define(f"size{d}", maximum(size, 0))
        surplus = x.shape[d] - sizes[d]
        ctx.define(f"shift{d}", maximum(surplus, 0) // 2 - maximum(-surplus, 0) // 2, -LIMIT, LIMIT)
    return TensorType(x.dtype, tuple(sizes))
