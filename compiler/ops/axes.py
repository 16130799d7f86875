"""Axes that only a run tells: which axes of a tensor they are, and the sizes that follow.

Constant axes go through the same functions and give plain sizes. What is computed from run-time axes is defined under
the hints named below, where a lowering finds it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, IntLike, constant, product
from tilewright.ops.choose import choose, from_front, is_equal, pick
from tilewright.ops.context import Infer


def are_constant(elements: Sequence[Expr]) -> bool:
    """Whether all of ``elements`` are plain numbers."""
    return all(e.is_constant for e in elements)


def named_axes(ctx: Infer, index: int, rank: int, what: str = "axes") -> list[Expr]:
    """The axes that integer input ``index`` lists, counted from the front. Fails for a constant one that is out of
    range; a run with one is refused. Hints ``axis0``, ``axis1`` …
    """
    return [_named(ctx, n, e, rank) for n, e in enumerate(ctx.known_list(index, what, -rank, rank - 1))]


def _named(ctx: Infer, n: int, axis: Expr, rank: int) -> Expr:
    if axis.is_constant:
        return ctx.define(f"axis{n}", ctx.axis(axis.value, rank))
    ctx.at_most(-rank, axis)
    ctx.at_most(axis, rank - 1)
    return ctx.define(f"axis{n}", from_front(axis, rank), 0, rank - 1)


def marked_axes(ctx: Infer, axes: Sequence[Expr], rank: int) -> list[Expr]:
    """For each axis of a tensor 1 where it is among ``axes``, else 0. Fails, or refuses the run, where one is listed
    twice. Hints ``among0``, ``among1`` …
    """
    return [ctx.define(f"among{d}", sum((is_equal(a, d) for a in axes), constant(0)), 0, 1) for d in range(rank)]


def kept_sizes(ctx: Infer, shape: Sequence[Expr], marks: Sequence[Expr], count: int) -> tuple[Expr, ...]:
    """The sizes of the axes that are not marked, in order; there are ``count`` of them, and exactly those, as
    :func:`marked_axes` has seen to. Hints ``kept0``, ``kept1`` …
    """
    sizes = []
    for j in range(count):
        size: Expr = constant(0)
        for d, (mark, extent) in enumerate(zip(marks, shape, strict=True)):
            place = d - sum(marks[:d], constant(0))
            size = size + (1 - mark) * is_equal(place, j) * extent
        sizes.append(ctx.define(f"kept{j}", size))
    return tuple(sizes)


def inserted_sizes(ctx: Infer, shape: Sequence[Expr], marks: Sequence[Expr]) -> tuple[Expr, ...]:
    """The sizes of ``shape`` in order where an axis of the result is not marked, 1 where it is. Hints
    ``inserted0`` …
    """
    sizes = []
    for d, mark in enumerate(marks):
        place = d - sum(marks[:d], constant(0))
        past = place.is_constant and not place.value < len(shape)
        size = constant(1) if mark == 1 or past else choose(mark, 1, pick(shape, place))
        sizes.append(ctx.define(f"inserted{d}", size))
    return tuple(sizes)


def sizes_around(ctx: Infer, shape: Sequence[Expr], axis: Expr) -> tuple[Expr, Expr, Expr]:
    """How many elements the axes before ``axis`` have, its own size, and how many those after it: the tensor as one of
    rank 3. Hints ``before``, ``along`` and ``after``.
    """
    places = range(len(shape))
    before = pick([product(shape[:d]) for d in places], axis)
    along = pick(shape, axis)
    after = pick([product(shape[d + 1 :]) for d in places], axis)
    return ctx.define("before", before), ctx.define("along", along), ctx.define("after", after)


def values_by_axis(
    values: Sequence[Expr], axes: Sequence[Expr], marks: Sequence[Expr], otherwise: Sequence[IntLike]
) -> list[Expr]:
    """For each axis of a tensor the one of ``values`` that belongs to it (one is given for each of ``axes``), or its
    ``otherwise`` where it is not among them.
    """
    found = []
    for d, (mark, rest) in enumerate(zip(marks, otherwise, strict=True)):
        given = sum((is_equal(axis, d) * value for value, axis in zip(values, axes, strict=True)), constant(0))
        found.append(given + (1 - mark) * rest)
    return found
