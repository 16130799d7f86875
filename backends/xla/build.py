"""A thin builder over the StableHLO dialect: operations whose result types follow from their operands.

Everything here works on MLIR values of static shape; what is padded and masked is decided above
(:mod:`tilewright.backends.xla.rule`). Needs the context, a location and an insertion point to be entered, which
:func:`tilewright.backends.xla.emit.emit` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright.backends.xla.dialect import bindings, element_type, stablehlo, tensor_type
from tilewright.ir.types import DType

#: An MLIR value.
Value = Any


def shape_of(x: Value) -> tuple[int, ...]:
    """The static shape of a value."""
    return tuple(bindings().RankedTensorType(x.type).shape)


def literal(array: NDArray[Any], dtype: DType) -> Value:
    """A constant tensor; one element throughout is written once."""
    mlir = bindings()
    array = np.asarray(array, dtype.numpy)
    type_ = tensor_type(dtype, array.shape)
    if dtype.bits < 8 or array.dtype.kind == "V":  # narrow types go through their bits
        return stablehlo().convert(
            type_, literal(array.astype(np.float32 if dtype.is_float else np.int8), _wide(dtype))
        )
    if dtype is DType.BOOL:
        if array.size and (array == array.flat[0]).all():
            element = mlir.IntegerAttr.get(element_type(dtype), int(array.flat[0]))
            return stablehlo().constant(mlir.DenseElementsAttr.get_splat(type_, element))
        attribute = mlir.DenseElementsAttr.get(
            array.astype(np.uint8), type=element_type(dtype), shape=list(array.shape)
        )
        return stablehlo().constant(attribute)
    bits = np.ascontiguousarray(array)
    attribute = mlir.DenseElementsAttr.get(
        bits if bits.dtype.kind in "iuf" and bits.dtype != np.float16 else bits.view(f"u{bits.itemsize}"),
        type=element_type(dtype),
        shape=list(array.shape),
    )
    return stablehlo().constant(attribute)


def _wide(dtype: DType) -> DType:
    return DType.F32 if dtype.is_float else DType.I8


def splat(number: float | int | bool, dtype: DType, shape: Sequence[int] = ()) -> Value:
    """``number`` in every element."""
    return broadcast(literal(np.asarray(number), dtype), shape, ())


def broadcast(x: Value, shape: Sequence[int], dims: Sequence[int]) -> Value:
    """Dimension ``i`` of ``x`` becomes dimension ``dims[i]`` of ``shape``; itself where nothing changes."""
    if shape_of(x) == tuple(shape) and list(dims) == list(range(len(dims))):
        return x
    type_ = bindings().RankedTensorType.get(list(shape), x.type.element_type)
    return stablehlo().broadcast_in_dim(type_, x, list(dims))


def trailing(x: Value, shape: Sequence[int]) -> Value:
    """``x`` repeated to ``shape`` by NumPy's rule."""
    rank = len(shape_of(x))
    return broadcast(x, shape, range(len(shape) - rank, len(shape)))


def iota(dtype: DType, shape: Sequence[int], dim: int) -> Value:
    """The position along ``dim`` in every element."""
    return stablehlo().iota(tensor_type(dtype, tuple(shape)), dim)


def convert(x: Value, dtype: DType) -> Value:
    """As another element type, by StableHLO's ``convert``."""
    if x.type.element_type == element_type(dtype):
        return x
    return stablehlo().convert(tensor_type(dtype, shape_of(x)), x)


class Misfit(Exception):
    """Static sizes that do not fit together."""


def reshape(x: Value, shape: Sequence[int]) -> Value:
    """The same elements in row-major order. Raises :class:`Misfit` for another number of them."""
    if shape_of(x) == tuple(shape):
        return x
    if math.prod(shape_of(x)) != math.prod(shape):
        raise Misfit(f"{shape_of(x)} is no {tuple(shape)}")
    return stablehlo().reshape(bindings().RankedTensorType.get(list(shape), x.type.element_type), x)


def transpose(x: Value, order: Sequence[int]) -> Value:
    """Dimensions in another order; itself where that is the same."""
    return x if list(order) == list(range(len(order))) else stablehlo().transpose(x, list(order))


def compare(x: Value, y: Value, direction: str, kind: str) -> Value:
    """``direction``: EQ, NE, LT, LE, GT, GE; ``kind``: FLOAT, SIGNED, UNSIGNED, TOTALORDER."""
    hlo = stablehlo()
    return hlo.compare(x, y, hlo.ComparisonDirectionAttr.get(direction), compare_type=hlo.ComparisonTypeAttr.get(kind))


def select(condition: Value, x: Value, y: Value) -> Value:
    """``x`` where the condition holds, else ``y``; all of one shape."""
    return stablehlo().select(condition, x, y)


def concatenate(parts: Sequence[Value], dim: int) -> Value:
    """One after the other along ``dim``."""
    return parts[0] if len(parts) == 1 else stablehlo().concatenate(list(parts), dim)


def cut(x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """``x[start:stop:step]`` along ``dim``, of positive ``step`` and within the bounds; itself where that is all."""
    shape = shape_of(x)
    if (start, stop, step) == (0, shape[dim], 1):
        return x
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[dim], stops[dim], steps[dim] = start, stop, step
    return stablehlo().slice(x, starts, stops, steps)


def pad(x: Value, value: Value, low: Sequence[int], high: Sequence[int]) -> Value:
    """The scalar ``value`` before and after each dimension; of a negative amount elements are dropped."""
    if not any(low) and not any(high):
        return x
    return stablehlo().pad(x, value, list(low), list(high), [0] * len(low))


def widen(x: Value, dim: int, low: int, high: int) -> Value:
    """Zeros before and after the elements along ``dim``."""
    rank = len(shape_of(x))
    zero = zero_of(x)
    return pad(x, zero, [low * (d == dim) for d in range(rank)], [high * (d == dim) for d in range(rank)])


def zero_of(x: Value) -> Value:
    """A scalar zero of the element type of ``x``."""
    mlir = bindings()
    element = x.type.element_type
    integral = isinstance(element, mlir.IntegerType)
    number = mlir.IntegerAttr.get(element, 0) if integral else mlir.FloatAttr.get(element, 0.0)
    return stablehlo().constant(mlir.DenseElementsAttr.get_splat(mlir.RankedTensorType.get([], element), number))


def fit(x: Value, shape: Sequence[int]) -> Value:
    """The leading elements along each dimension, with zeros after them where there are too few."""
    have = shape_of(x)
    if have == tuple(shape):
        return x
    for d, (old, new) in enumerate(zip(have, shape, strict=True)):
        x = cut(x, d, 0, min(old, new))
    return pad(x, zero_of(x), [0] * len(have), [max(new - old, 0) for old, new in zip(have, shape, strict=True)])


def window(x: Value, dim: int, start: Value, size: int) -> Value:
    """``size`` elements along ``dim`` from the scalar ``start``, which moves back where they would not fit."""
    shape = list(shape_of(x))
    shape[dim] = size
    return stablehlo().dynamic_slice(x, _starts(start, dim, len(shape)), shape)


def put(x: Value, part: Value, dim: int, start: Value) -> Value:
    """``x`` with ``part`` over its elements from ``start`` along ``dim``, which moves back where it would not fit."""
    return stablehlo().dynamic_update_slice(x, part, _starts(start, dim, len(shape_of(x))))


def _starts(start: Value, dim: int, rank: int) -> list[Value]:
    zero = zero_of(start)
    return [start if d == dim else zero for d in range(rank)]


def take(x: Value, indices: Value, dim: int) -> Value:
    """The slices of ``x`` along ``dim`` that a vector of indices names; one outside is moved to the nearest inside."""
    hlo = stablehlo()
    shape = shape_of(x)
    rest = [d for d in range(len(shape)) if d != dim]
    numbers = hlo.GatherDimensionNumbers.get(
        offset_dims=rest,
        collapsed_slice_dims=[dim],
        operand_batching_dims=[],
        start_indices_batching_dims=[],
        start_index_map=[dim],
        index_vector_dim=1,
    )
    return hlo.gather(x, indices, numbers, [1 if d == dim else s for d, s in enumerate(shape)])


def flip(x: Value, dim: int) -> Value:
    """The elements along ``dim`` from the last to the first."""
    return stablehlo().reverse(x, [dim]) if shape_of(x)[dim] > 1 else x


def pick(x: Value, indices: Sequence[int], dim: int) -> Value:
    """As :func:`take`, of indices that are known: runs of them are slices, reversed where they fall."""
    parts, start = [], 0
    while start < len(indices):
        stop, step = _run(indices, start)
        first, last = indices[start], indices[stop - 1]
        piece = cut(x, dim, min(first, last), max(first, last) + 1)
        if step == 0 and stop - start > 1:
            shape = [stop - start if d == dim else s for d, s in enumerate(shape_of(piece))]
            piece = broadcast(piece, shape, range(len(shape)))
        parts.append(flip(piece, dim) if step < 0 else piece)
        start = stop
    return concatenate(parts, dim) if parts else cut(x, dim, 0, 0)


def _run(indices: Sequence[int], start: int) -> tuple[int, int]:
    """Where the run of neighbours (or of equals) that begins at ``start`` ends, and its step: -1, 0 or 1."""
    if start + 1 == len(indices) or abs(step := indices[start + 1] - indices[start]) > 1:
        return start + 1, 1
    stop = start + 2
    while stop < len(indices) and indices[stop] - indices[stop - 1] == step:
        stop += 1
    return stop, step


def lowest(dtype: DType) -> float | int | bool:
    """What :func:`maximum <jaxlib.mlir.dialects.stablehlo.maximum>` leaves as it is: -∞, the least integer, false."""
    if dtype is DType.BOOL:
        return False
    return -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def highest(dtype: DType) -> float | int | bool:
    """∞, the largest integer, true."""
    if dtype is DType.BOOL:
        return True
    return math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max)


def reduce(x: Value, initial: Value, dims: Sequence[int], combine: Callable[[Value, Value], Value]) -> Value:
    """``x`` combined along ``dims``, which are dropped."""
    mlir, hlo = bindings(), stablehlo()
    element = mlir.RankedTensorType.get([], x.type.element_type)
    shape = [s for d, s in enumerate(shape_of(x)) if d not in set(dims)]
    operation = hlo.ReduceOp([mlir.RankedTensorType.get(shape, x.type.element_type)], [x], [initial], list(dims))
    block = operation.regions[0].blocks.append(element, element)
    with mlir.InsertionPoint(block):
        hlo.return_([combine(*block.arguments)])
    return operation.results[0]


def dot(
    x: Value,
    y: Value,
    batch: tuple[Sequence[int], Sequence[int]],
    contract: tuple[Sequence[int], Sequence[int]],
    result: DType,
    precision: str = "HIGHEST",
) -> Value:
    """``dot_general``: batch dimensions, then what is left of ``x``, then of ``y``. Sums are of type ``result``."""
    mlir, hlo = bindings(), stablehlo()
    numbers = hlo.DotDimensionNumbers.get(
        lhs_batching_dimensions=list(batch[0]),
        rhs_batching_dimensions=list(batch[1]),
        lhs_contracting_dimensions=list(contract[0]),
        rhs_contracting_dimensions=list(contract[1]),
    )
    left, right = shape_of(x), shape_of(y)
    shape = [left[d] for d in batch[0]]
    shape += [s for d, s in enumerate(left) if d not in {*batch[0], *contract[0]}]
    shape += [s for d, s in enumerate(right) if d not in {*batch[1], *contract[1]}]
    config = mlir.ArrayAttr.get([hlo.PrecisionAttr.get(precision)] * 2)
    return hlo.dot_general(tensor_type(result, tuple(shape)), x, y, numbers, precision_config=config)
