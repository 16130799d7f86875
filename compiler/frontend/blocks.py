"""``MatMulNBits`` and ``GatherBlockQuantized`` of ONNX Runtime (``com.microsoft``) as DequantizeLinear in blocks.

    MatMulNBits(A, B, scales, zero points, bias)    →  MatMul(A, DQ(W[K, N], s[K/g, N], z, axis=0, block_size=g)) + bias
    … with accuracy_level 4                         →  A is quantized to i8 as well, one scale a block: max |A| / 127
    GatherBlockQuantized(T, indices, scales, zero)  →  Gather(DQ(T, scales, zero, axis, block_size), indices)

``ContribOperators.md`` of ONNX Runtime defines both. Their weights are bytes, of 4-bit ones two elements each, the
first in the low half; without zero points the middle of the range stands for 0, and they become signed integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.frontend.control import Part
from tilewright.ir.graph import constant_array, is_constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Scope, Unsupported

Array = NDArray[Any]

_DOMAIN = "com.microsoft"
#: ``accuracy_level`` that asks for products of 8-bit integers.
_INT8 = 4
#: Scale of a block of zeros: the least normal f32, so that 0 / scale is 0.
_LEAST = np.float32(np.finfo(np.float32).tiny)


def is_block_operator(domain: str, operator: str) -> bool:
    """Whether :func:`in_blocks` knows an operator."""
    return domain == _DOMAIN and operator in _RULES


def in_blocks(node: ir.Node, scope: Scope) -> Part | None:
    """The ONNX operators that ``node`` stands for; ``None`` for an operator of another kind.

    The inputs of ``node`` have types in ``scope``. Raises :class:`~tilewright.ops.context.Unsupported` for forms that
    cannot be written so.
    """
    if not is_block_operator(node.domain, node.op_type):
        return None
    part = Part()
    part.results = [_RULES[node.op_type](node, scope, part)]
    return part


# -- products --------------------------------------------------------------------------------------------------------


def _product(node: ir.Node, scope: Scope, part: Part) -> ir.Value:
    depth, columns = _integer(node, "K"), _integer(node, "N")
    bits, size = _integer(node, "bits", 4), _integer(node, "block_size")
    level = _integer(node, "accuracy_level", 0)
    if bits not in (4, 8):
        raise Unsupported(f"weights of {bits} bits; kernels take 4 and 8")
    if size < 16 or size & (size - 1):
        raise Unsupported(f"blocks of {size}; a power of two from 16 on is needed")
    if depth < 1 or columns < 1:
        raise Unsupported(f"weights of {depth} × {columns}")
    x, bytes_, scales, zero, order, bias = (_given(node, i) for i in range(6))
    if order is not None:
        raise Unsupported("its g_idx puts the rows into another order; export the model without act_order (desc_act)")
    if x is None or bytes_ is None or scales is None:
        raise Unsupported("A, B or scales are missing")
    given = _type(scope, x)
    if given.rank < 1 or given.shape[-1] != depth:
        raise Unsupported(f"A has the shape of {given}, and K is {depth}")
    count = -(-depth // size)
    packed = _bytes(bytes_, "B", columns * count * (size * bits // 8))
    zeros = None if zero is None else _zero_points(_constant(zero, "zero_points"), bits, columns, count)
    weights = _Weights(packed, bits, columns, count * size, _centre(zeros, bits))
    operands = [weights.value(part), _scales(scales, columns, count, part)]
    if weights.centre is None:
        assert zeros is not None
        operands.append(_initializer(part, np.ascontiguousarray(zeros.T), _UNSIGNED[bits]))
    if count * size != depth:
        x = part.new("Pad", x, part.constant([0] * (2 * given.rank - 1) + [count * size - depth], np.int64))
    if level == _INT8 and given.dtype is DType.F32:
        x = _quantized(x, given.rank, count, size, part)
    real = part.new("DequantizeLinear", *operands, axis=0, block_size=size)
    result = part.new("MatMul", x, real)
    return result if bias is None else part.new("Add", result, bias)


def _quantized(x: ir.Value, rank: int, count: int, size: int, part: Part) -> ir.Value:
    """``x`` as integers of 8 bits and back, each block by its largest absolute value."""
    blocks = part.new("Reshape", x, part.constant([0] * (rank - 1) + [count, size], np.int64))
    largest = part.new("ReduceMax", part.new("Abs", blocks), part.constant([-1], np.int64), keepdims=0)
    scale = part.new("Mul", largest, part.constant(np.float32(1 / 127), np.float32))
    scale = part.new("Max", scale, part.constant(_LEAST, np.float32))
    how = {"axis": rank - 1, "block_size": size}
    integers = part.new("QuantizeLinear", x, scale, **how, output_dtype=DType.I8.onnx)
    return part.new("DequantizeLinear", integers, scale, **how)


class _Weights:
    """Bytes ``[N, K / g, g · bits / 8]`` as a matrix ``[K, N]``, signed where zero is in the middle."""

    def __init__(self, packed: ir.TensorProtocol, bits: int, columns: int, depth: int, centre: int | None):
        self.packed, self.bits, self.columns, self.depth, self.centre = packed, bits, columns, depth, centre

    def value(self, part: Part) -> ir.Value:
        """A constant, unpacked whenever it is read: kept, it would take a byte for each of its elements."""
        code = (_UNSIGNED if self.centre is None else _SIGNED)[self.bits]
        shape = ir.Shape((self.depth, self.columns))
        value = ir.val("constant", const_value=ir.LazyTensor(lambda: self._tensor(code), code, shape))
        part.constants.append(value)
        return value

    def _tensor(self, code: ir.DataType) -> ir.TensorProtocol:
        rows = _unpacked(np.asarray(self.packed.numpy()).reshape(self.columns, -1), self.bits)
        matrix = rows.T if self.centre is None else rows.T ^ self.centre
        matrix = np.ascontiguousarray(matrix)
        if self.centre is not None and self.bits == 4:  # sign extension of what is in the low half
            matrix = (matrix << 4).view(np.int8) >> 4
        return ir.tensor(matrix.view(np.int8 if self.centre is not None else np.uint8).astype(code.numpy()), dtype=code)


_SIGNED = {4: ir.DataType.INT4, 8: ir.DataType.INT8}
_UNSIGNED = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


def _centre(zeros: Array | None, bits: int) -> int | None:
    """The middle of the range where that stands for 0 throughout."""
    middle = 1 << bits - 1
    return middle if zeros is None or bool((zeros == middle).all()) else None


def _zero_points(array: Array, bits: int, columns: int, count: int) -> Array:
    """Zero points ``[N, K / g]``, from bytes of which each column's begin anew."""
    if array.dtype != np.uint8:
        raise Unsupported(f"zero points of type {array.dtype}, which need not be integers")
    row = -(-count * bits // 8)
    if array.size != columns * row:
        raise Unsupported(f"zero points of {array.size} bytes where there should be {columns * row}")
    return _unpacked(array.reshape(columns, row), bits)[:, :count]


def _unpacked(rows: Array, bits: int) -> Array:
    """A byte an element."""
    if bits == 8:
        return rows
    result = np.empty((len(rows), 2 * rows.shape[1]), np.uint8)
    result[:, 0::2] = rows & 15
    result[:, 1::2] = rows >> 4
    return result


def _scales(scales: ir.Value, columns: int, count: int, part: Part) -> ir.Value:
    array = _constant(scales, "scales")
    if array.size != columns * count:
        raise Unsupported(f"{array.size} scales where there should be {columns * count}")
    if array.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
        raise Unsupported(f"scales of type {array.dtype}")
    return _initializer(part, np.ascontiguousarray(array.reshape(columns, count).T), None)


# -- tables ----------------------------------------------------------------------------------------------------------


def _gather(node: ir.Node, scope: Scope, part: Part) -> ir.Value:
    table, indices, scales, zero = (_given(node, i) for i in range(4))
    if table is None or indices is None or scales is None:
        raise Unsupported("data, indices or scales are missing")
    given = _type(scope, table)
    axis, along = _integer(node, "gather_axis", 0), _integer(node, "quantize_axis", 1)
    size = _integer(node, "block_size", 128)
    if size < 16 or size & (size - 1):
        raise Unsupported(f"blocks of {size}; a power of two from 16 on is needed")
    if given.rank < 1 or not (-given.rank <= axis < given.rank and -given.rank <= along < given.rank):
        raise Unsupported(f"axes {axis} and {along} of {given}")
    axis, along = axis % given.rank, along % given.rank
    operands = [table, scales, *(() if zero is None else (zero,))]
    if given.dtype is DType.U8:
        operands = _unpacked_table(operands, given, along, _integer(node, "bits", 4), part)
    real = part.new("DequantizeLinear", *operands, axis=along, block_size=size)
    return part.new("Gather", real, indices, axis=axis)


def _unpacked_table(operands: list[ir.Value], given: TensorType, along: int, bits: int, part: Part) -> list[ir.Value]:
    """A table of bytes, of 4-bit elements two in each along the last axis, as elements; likewise its zero points."""
    if bits not in (4, 8):
        raise Unsupported(f"elements of {bits} bits in bytes")
    if bits == 4 and along != given.rank - 1:
        raise Unsupported("4-bit elements in bytes with blocks along another axis than the last")
    table = _constant(operands[0], "data")
    scales = _constant(operands[1], "scales")
    if not table.size or scales.shape[:-1] != table.shape[:-1]:
        raise Unsupported(f"data of shape {list(table.shape)} with scales of shape {list(scales.shape)}")
    rows = _unpacked(table.reshape(-1, table.shape[-1]), bits).reshape(*table.shape[:-1], -1)
    if len(operands) < 3:
        middle = 1 << bits - 1
        moved = rows ^ np.uint8(middle)
        signed: Array = (moved << 4).view(np.int8) >> 4 if bits == 4 else moved.view(np.int8)
        return [_initializer(part, signed, _SIGNED[bits]), operands[1]]
    zeros = _constant(operands[2], "zero_points")
    if zeros.dtype != np.uint8 or zeros.shape != (*table.shape[:-1], -(-scales.shape[-1] * bits // 8)):
        raise Unsupported(f"zero points of type {zeros.dtype} and shape {list(zeros.shape)}")
    zeros = _unpacked(zeros.reshape(-1, zeros.shape[-1]), bits).reshape(*zeros.shape[:-1], -1)
    zeros = zeros[..., : scales.shape[-1]]
    return [_initializer(part, rows, _UNSIGNED[bits]), operands[1], _initializer(part, zeros, _UNSIGNED[bits])]


# -- what is given ---------------------------------------------------------------------------------------------------


def _given(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _integer(node: ir.Node, name: str, default: int | None = None) -> int:
    found = node.attributes.get(name)
    if found is None:
        if default is None:
            raise Unsupported(f"attribute {name} is missing")
        return default
    if found.type is not ir.AttributeType.INT:
        raise Unsupported(f"attribute {name} is no integer")
    return int(found.value)


def _type(scope: Scope, value: ir.Value) -> TensorType:
    found = scope.type_of(value)
    if found is None:
        raise Unsupported(f"nothing is known of {value.name}")
    return found


def _constant(value: ir.Value, name: str) -> Array:
    if not is_constant(value):
        raise Unsupported(f"{name} is computed; it has to be a constant")
    return constant_array(value)


def _bytes(value: ir.Value, name: str, size: int) -> ir.TensorProtocol:
    if not is_constant(value) or value.const_value is None:
        raise Unsupported(f"{name} is computed; it has to be a constant")
    tensor = value.const_value
    if tensor.dtype != ir.DataType.UINT8 or tensor.size != size:
        raise Unsupported(f"{name} has {tensor.size} elements of {tensor.dtype.name} where {size} bytes should be")
    return tensor


def _initializer(part: Part, array: Array, code: ir.DataType | None) -> ir.Value:
    tensor = ir.tensor(array) if code is None else ir.tensor(array.astype(code.numpy()), dtype=code)
    value = ir.val("constant", const_value=tensor)
    part.constants.append(value)
    return value


_RULES: dict[str, Callable[[ir.Node, Scope, Part], ir.Value]] = {
    "MatMulNBits": _product,
    "GatherBlockQuantized": _gather,
}
