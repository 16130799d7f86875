"""A thin builder over the StableHLO dialect: operations whose result types follow from their operands.

Everything here works on MLIR values of static shape; what is padded and masked is decided above
(:mod:`tilewright.backends.xla.rule`). Needs the context, a location and an insertion point to be entered, which
:func:`tilewright.backends.xla.emit.emit` does.
"""

from __future__ import annotations

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


def reshape(x: Value, shape: Sequence[int]) -> Value:
    """The same elements in row-major order."""
    if shape_of(x) == tuple(shape):
        return x
    return stablehlo().reshape(bindings().RankedTensorType.get(list(shape), x.type.element_type), x)


def transpose(x: Value, order: Sequence[int]) -> Value:
    """Dimensions in another order; itself where that is the same."""
    return x if list(order) == list(range(len(order))) else stablehlo().transpose(x, list(order))


def compare(x: Value, y: Value, direction: str, kind: str) -> Value:
    """``direction``: EQ, NE, LT, LE, GT, GE; ``kind``: FLOAT, SIGNED, UNSIGNED, TOTALORDER."""
    hlo = stablehlo()
    return hlo.compare(x, y, hlo.ComparisonDirectionAttr.get(direction), compare_type=hlo.ComparisonTypeAttr.get(kind))


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
