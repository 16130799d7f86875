"""In which type a product computes, as far as the graph tells: what a report on precision says of a layer.

These are the conditions of :mod:`tilewright.backends.xla.integer`, asked of the graph instead of a program.
"""

from __future__ import annotations

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.quantized import Parameters, dequantize_of, parameters

#: Operators whose products may be of integers, and the dimensions of each operand that are summed.
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_BYTES = frozenset((DType.I8, DType.U8, DType.I4, DType.U4, DType.I2, DType.U2))


def computed_in(node: ir.Node) -> str:
    """The element type that products of ``node`` are of; empty for a node that sums none."""
    if node.op_type in ("MatMulInteger", "ConvInteger"):
        return "i8"
    if node.op_type not in (*_PRODUCTS, "ConvTranspose", "Einsum", "Attention", "DeformConv"):
        return ""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    if node.op_type in _PRODUCTS and _as_integers(node, left, 0) and _as_integers(node, right, 1):
        return "i8"
    return str(type_of(left).dtype)


def _as_integers(node: ir.Node, value: ir.Value, index: int) -> bool:
    """Whether an operand is dequantized bytes, with scales and zero points that nothing is summed over."""
    found = dequantize_of(value)
    if found is None:
        return False
    type_, given = type_of(found.inputs[0]), parameters(found)  # type: ignore[arg-type]
    if type_.dtype not in _BYTES:
        return False
    if node.op_type == "Conv":
        if given.block or given.axis not in ((None,) if index == 0 else (None, 0)):
            return False
        return index == 0 or _symmetric(given, type_.dtype)
    if given.axis is None:
        return True
    turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transA" if index == 0 else "transB", 0))
    summed = type_.rank - 1 if (index == 0) != turned else max(type_.rank - 2, 0)
    if given.block:
        return given.axis == summed and type_of(given.scale).shape[given.axis] == 1
    return given.axis != summed


def _symmetric(given: Parameters, dtype: DType) -> bool:
    """Whether filters have their 0 in the middle: windows of a convolution need no sums of the image then."""
    middle = 128 if dtype is DType.U8 else 0
    if given.zero is None:
        return middle == 0
    return is_constant(given.zero) and bool((constant_array(given.zero) == middle).all())
