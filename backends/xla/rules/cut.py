"""Operators that cut pieces out of a tensor, join tensors, and set them into larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType


def begun(x: Value, dim: int, start: int | Value, size: int, step: int = 1, fits: bool = False) -> Value:
    """``size`` elements along ``dim`` from ``start``, a number or a scalar, by steps of either sign; what is asked for
    outside is anything.

    A ``dynamic_slice`` moves back what would not fit: unless it is known that it ``fits`` there is room after (or
    before) the elements as far as it may reach.
    """
    if size == 0:
        return build.cut(x, dim, 0, 0)
    length, have = (size - 1) * abs(step) + 1, build.shape_of(x)[dim]
    if not isinstance(start, int):
        if not fits:
            x = build.widen(x, dim, *((0, length) if step > 0 else (length - 1, 1)))
        elif step < 0:
            start = stablehlo().subtract(start, build.splat(length - 1, DType.I32))
        x = build.window(x, dim, start, length)
    else:
        first = start if step > 0 else start - length + 1
        low, high = max(0, -first), max(0, first + length - have)
        x = build.widen(x, dim, low, high)
        x = build.cut(x, dim, first + low, first + low + length)
    x = x if step > 0 else build.flip(x, dim)
    return build.cut(x, dim, 0, length, abs(step))


# -- Slice ---------------------------------------------------------------------------------------------------------


@rule("Slice", padding=Padding.MASKED)
def slice_(ctx: Rule) -> Tensor:
    """Along each axis from a start by a step; negative starts count from the true end."""
    x, shape = ctx.input(0), ctx.shape()
    starts = ctx.known(1)
    if starts is None:
        raise ctx.computed(1)
    axes = [a % x.rank for a in ctx.integers(3)] if ctx.has(3) else list(range(len(starts)))
    steps = ctx.integers(4) if ctx.has(4) else [1] * len(starts)
    value = x.value
    for d, begin, step in zip(axes, starts, steps, strict=True):
        start = _clamped(ctx, begin, x.type.shape[d], step)
        whole = not ctx.sizes.is_padded(ctx.type().shape[d])  # all that is taken is there
        value = begun(value, d, start, shape[d], _bounded(step, build.shape_of(value)[d]), whole)
    return ctx.result(value)


def _bounded(step: int, size: int) -> int:
    """A step that takes one element of ``size`` takes it whatever it is."""
    return max(-size - 1, min(size + 1, step))


def _clamped(ctx: Rule, start: Expr, size: Expr, step: int) -> int | Value:
    """Where a slice begins: counted from the end when negative, then moved into the axis."""
    hlo, sizes = stablehlo(), ctx.sizes
    if start.is_constant:
        from_end = start.value < 0
        if not from_end:
            if step > 0:  # beyond the end nothing is taken
                return min(start.value, sizes.static(size))
            if not sizes.is_padded(size):
                return min(start.value, sizes.static(size) - 1)
        elif not sizes.is_padded(size):
            return max(sizes.static(size) + start.value, 0 if step > 0 else -1)
        # Sizes are below 2^31, and so is what moves a position out of every axis.
        offset = constant(max(start.value, -(2**31) + 1) if from_end else min(start.value, 2**31 - 1))
        place = sizes.true(offset)
        place = hlo.add(place, sizes.true(size)) if from_end else place
    else:
        place = sizes.true(start)
        end = hlo.add(place, sizes.true(size))
        place = build.select(build.compare(place, build.splat(0, DType.I32), "LT", "SIGNED"), end, place)
    return _inside(place, sizes.true(size), step)


def _inside(place: Value, size: Value, step: int) -> Value:
    hlo = stablehlo()
    one = build.splat(1, DType.I32)
    last = size if step > 0 else hlo.subtract(size, one)
    return hlo.maximum(hlo.minimum(place, last), build.splat(0, DType.I32))


@rule("Split", padding=Padding.MASKED)
def split(ctx: Rule) -> list[Tensor | None]:
    """Pieces one after the other, each of its own size."""
    x = ctx.input(0)
    axis = ctx.attribute("axis", 0) % x.rank
    results: list[Tensor | None] = []
    start: Expr = constant(0)
    # Then no piece reaches beyond the end: none begins later than in the bucket.
    fits = sum(ctx.shape(n)[axis] for n in range(len(ctx.types))) <= x.shape[axis]
    for n in range(len(ctx.types)):
        size = ctx.type(n).shape[axis]
        place = ctx.sizes.true(start) if ctx.sizes.is_padded(start) else ctx.sizes.static(start)
        piece = begun(x.value, axis, place, ctx.sizes.static(size), fits=fits)
        results.append(ctx.result(build.fit(piece, ctx.shape(n)), n))
        start = start + size
    return results


# -- Concat --------------------------------------------------------------------------------------------------------


@rule("Concat", padding=Padding.MASKED)
def concat(ctx: Rule) -> Tensor:
    """One after the other. After a padded part the next begins at its true end, over the padding."""
    parts = [ctx.input(i) for i in range(ctx.count)]
    shape = ctx.shape()
    axis = ctx.attribute("axis") % len(shape)

    def fitted(x: Tensor) -> Value:
        return build.fit(x.value, [s if d == axis else n for d, (s, n) in enumerate(zip(x.shape, shape, strict=True))])

    pieces = [(fitted(x), x.type.shape[axis]) for x in parts]
    return ctx.result(joined(ctx, pieces, axis))


def joined(ctx: Rule, pieces: Sequence[tuple[Value, Expr]], axis: int) -> Value:
    """Values one after the other along ``axis``, each of the size beside it: as many elements as they have in all, the
    valid ones first."""
    sizes = ctx.sizes
    runs: list[tuple[list[Value], Expr]] = []  # parts up to one that is padded, and where they begin
    start: Expr = constant(0)
    fresh = True
    for value, size in pieces:
        if fresh:
            runs.append(([], start))
        runs[-1][0].append(value)
        start, fresh = start + size, sizes.is_padded(size)
    joints = [(build.concatenate(values, axis), begin) for values, begin in runs]
    whole = joints[0][0]
    if len(joints) == 1:
        return whole
    room = sum(build.shape_of(value)[axis] for value, _ in joints) - build.shape_of(whole)[axis]
    whole = build.widen(whole, axis, 0, room)
    for value, begin in joints[1:]:
        whole = build.put(whole, value, axis, sizes.true(begin))
    return whole


# -- Pad -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Margin:
    """What is put around one dimension: ``before`` and ``after`` its elements, fewer when negative."""

    dim: int
    size: Expr
    before: Expr
    after: Expr


@rule("Pad", padding=Padding.MASKED)
def pad(ctx: Rule) -> Tensor:
    """Elements before and after those along each axis; after a padded dimension at its true end."""
    x, mode = ctx.input(0), ctx.attribute("mode", "constant")
    amounts = ctx.known(1)
    if amounts is None:
        raise ctx.computed(1)
    axes = [a % x.rank for a in ctx.integers(3)] if ctx.has(3) else list(range(x.rank))
    margins = [_Margin(d, x.type.shape[d], amounts[n], amounts[n + len(axes)]) for n, d in enumerate(axes)]
    if mode != "constant":
        value = x.value
        for margin in margins:
            value = _repeated(ctx, value, margin, mode)
        return ctx.result(build.fit(value, ctx.shape()))
    given = ctx.input(2).value if ctx.has(2) else build.zero_of(x.value)
    return ctx.result(_surrounded(ctx, x, margins, build.reshape(given, ())))


def _surrounded(ctx: Rule, x: Tensor, margins: Sequence[_Margin], fill: Value) -> Value:
    low, high = [0] * x.rank, [0] * x.rank
    shape, value = ctx.shape(), x.value
    moving = []
    for m in margins:
        if m.before == 0 and m.after == 0:
            continue
        dropped = m.after.is_constant and m.after.value <= 0
        if ctx.sizes.is_padded(m.before) or (ctx.sizes.is_padded(m.size) and not dropped):
            moving.append(m)
        else:
            low[m.dim] = ctx.sizes.static(m.before)
            high[m.dim] = shape[m.dim] - low[m.dim] - build.shape_of(value)[m.dim]
    value = build.pad(value, fill, low, high)
    for m in moving:
        value = _placed(ctx, value, m, fill, shape[m.dim])
    return value


def _placed(ctx: Rule, value: Value, m: _Margin, fill: Value, size: int) -> Value:
    """Moved by a number that a run tells, or with a margin that begins at the true end."""
    hlo, sizes = stablehlo(), ctx.sizes
    shape = [size if d == m.dim else s for d, s in enumerate(build.shape_of(value))]
    if not all(shape):
        return build.splat(0, ctx.type().dtype, shape)
    if sizes.is_padded(m.before):
        back = hlo.subtract(build.iota(DType.I32, (size,), 0), build.broadcast(sizes.true(m.before), (size,), ()))
        value = build.take(value, back, m.dim) if build.shape_of(value)[m.dim] else build.fit(value, shape)
    else:
        value = begun(value, m.dim, -sizes.static(m.before), size)
    place = build.iota(DType.I32, shape, m.dim)
    first = build.broadcast(sizes.true(m.before), shape, ())
    end = build.broadcast(hlo.add(sizes.true(m.before), sizes.true(m.size)), shape, ())
    inside = hlo.and_(build.compare(place, first, "GE", "SIGNED"), build.compare(place, end, "LT", "SIGNED"))
    return build.select(inside, value, build.broadcast(fill, shape, ()))


def _repeated(ctx: Rule, value: Value, m: _Margin, mode: str) -> Value:
    """A margin of the elements themselves."""
    sizes = ctx.sizes
    if m.before == 0 and m.after == 0:
        return value
    size = max(sizes.static(m.size + m.before + m.after), 0)
    have = build.shape_of(value)[m.dim]
    if not have or not size:
        return build.fit(value, [size if d == m.dim else s for d, s in enumerate(build.shape_of(value))])
    if not any(map(sizes.is_padded, (m.size, m.before))):
        places = np.arange(size) - sizes.static(m.before)
        return build.pick(value, [int(i) for i in _REPEATED[mode](places, have)], m.dim)
    return build.take(value, _places(ctx, m, mode, size), m.dim)


_REPEATED = {
    "edge": lambda places, n: np.clip(places, 0, n - 1),
    "wrap": lambda places, n: places % n,
    "reflect": lambda places, n: (n - 1) - np.abs(places % max(2 * n - 2, 1) - (n - 1)),
}


def _places(ctx: Rule, m: _Margin, mode: str, size: int) -> Value:
    """Where each element comes from, by the true size."""
    hlo = stablehlo()

    def number(value: int) -> Value:
        return build.splat(value, DType.I32, (size,))

    def modulo(x: Value, y: Value) -> Value:
        return hlo.remainder(hlo.add(hlo.remainder(x, y), y), y)

    n = hlo.maximum(build.broadcast(ctx.sizes.true(m.size), (size,), ()), number(1))
    place = hlo.subtract(build.iota(DType.I32, (size,), 0), build.broadcast(ctx.sizes.true(m.before), (size,), ()))
    last = hlo.subtract(n, number(1))
    if mode == "edge":
        return hlo.minimum(hlo.maximum(place, number(0)), last)
    if mode == "wrap":
        return modulo(place, n)
    period = hlo.maximum(hlo.multiply(last, number(2)), number(1))
    return hlo.subtract(last, hlo.abs(hlo.subtract(modulo(place, period), last)))
