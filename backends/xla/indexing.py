"""Gather, scatter, sort and loops of StableHLO in the forms that the rules need.

As :mod:`tilewright.backends.xla.build`, this is about MLIR values of static shape. Batching dimensions of gather and
scatter are newer than the portable version that is written; positions along them are part of the index instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value, shape_of
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.ir.types import DType


def take(x: Value, indices: Value, dim: int) -> Value:
    """The slices of ``x`` at ``indices`` (of any rank, in range) along ``dim``, whose place their dimensions take."""
    shape, rank = shape_of(x), len(shape_of(indices))
    offset = [*range(dim), *range(dim + rank, rank + len(shape) - 1)]
    slices = [1 if d == dim else s for d, s in enumerate(shape)]
    numbers = stablehlo().GatherDimensionNumbers.get(offset, [dim], [], [], [dim], rank)
    return stablehlo().gather(x, indices, numbers, slices)


def take_points(x: Value, points: Value, dims: Sequence[int]) -> Value:
    """The slices of ``x`` at ``points`` ``[…, len(dims)]``: dimensions of points, then those of ``x`` but ``dims``."""
    shape, rank = shape_of(x), len(shape_of(points)) - 1
    rest = len(shape) - len(dims)
    slices = [1 if d in set(dims) else s for d, s in enumerate(shape)]
    numbers = stablehlo().GatherDimensionNumbers.get(
        list(range(rank, rank + rest)), sorted(dims), [], [], list(dims), rank
    )
    return stablehlo().gather(x, points, numbers, slices)


def put_points(
    x: Value,
    points: Value,
    updates: Value,
    dims: Sequence[int],
    combine: Callable[[Value, Value], Value] | None = None,
) -> Value:
    """``x`` with ``updates`` (shaped as :func:`take_points` gives them) at ``points``, combined with what is there.

    Points out of range are left out. ``combine`` gets the old and the new element; without it the new one stays.
    """
    mlir, hlo = bindings(), stablehlo()
    rank = len(shape_of(points)) - 1
    rest = len(shape_of(x)) - len(dims)
    numbers = hlo.ScatterDimensionNumbers.get(list(range(rank, rank + rest)), sorted(dims), [], [], list(dims), rank)
    operation = hlo.ScatterOp([x.type], [x], points, [updates], numbers)
    element = mlir.RankedTensorType.get([], x.type.element_type)
    block = operation.regions[0].blocks.append(element, element)
    with mlir.InsertionPoint(block):
        old, new = block.arguments
        hlo.return_([new if combine is None else combine(old, new)])
    return operation.results[0]


def points(columns: Sequence[Value]) -> Value:
    """Index vectors from one value for each dimension, all of the same shape."""
    shape = shape_of(columns[0])
    spread = [build.reshape(c, [*shape, 1]) for c in columns]
    return spread[0] if len(spread) == 1 else stablehlo().concatenate(spread, len(shape))


def cut(x: Value, starts: Sequence[int], limits: Sequence[int], steps: Sequence[int] | None = None) -> Value:
    """A slice; itself where that is everything."""
    shape = shape_of(x)
    if not any(starts) and list(limits) == list(shape) and (steps is None or set(steps) <= {1}):
        return x
    return stablehlo().slice(x, list(starts), list(limits), list(steps or [1] * len(shape)))


def cut_dim(x: Value, dim: int, start: int, limit: int) -> Value:
    """A slice along one dimension."""
    shape = shape_of(x)
    starts = [start if d == dim else 0 for d in range(len(shape))]
    return cut(x, starts, [limit if d == dim else s for d, s in enumerate(shape)])


def sort(values: Sequence[Value], dim: int, before: Callable[[Sequence[Value], Sequence[Value]], Value]) -> list[Value]:
    """Values of one shape, reordered together along ``dim``, stably. ``before`` tells for the scalars of two places
    whether the first comes first."""
    mlir, hlo = bindings(), stablehlo()
    operation = hlo.SortOp([v.type for v in values], list(values), dimension=dim, is_stable=True)
    elements = [mlir.RankedTensorType.get([], v.type.element_type) for v in values for _ in range(2)]
    block = operation.regions[0].blocks.append(*elements)
    with mlir.InsertionPoint(block):
        given = list(block.arguments)
        hlo.return_([before(given[0::2], given[1::2])])
    return list(operation.results)


def repeat(count: int, initial: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]) -> list[Value]:
    """``body`` applied ``count`` times: it gets the number of the turn (an ``i32`` scalar) and what is carried."""
    mlir, hlo = bindings(), stablehlo()
    start = build.splat(0, DType.I32)
    types = [start.type, *(v.type for v in initial)]
    operation = hlo.WhileOp(types, [start, *initial])
    condition = operation.regions[0].blocks.append(*types)
    with mlir.InsertionPoint(condition):
        hlo.return_([build.compare(condition.arguments[0], build.splat(count, DType.I32), "LT", "SIGNED")])
    block = operation.regions[1].blocks.append(*types)
    with mlir.InsertionPoint(block):
        turn, *carried = block.arguments
        results = body(turn, carried)
        hlo.return_([hlo.add(turn, build.splat(1, DType.I32)), *results])
    return list(operation.results)[1:]
