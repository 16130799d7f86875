"""What passes ask about QuantizeLinear (Q) and DequantizeLinear (DQ), and how they build them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.rewrite import Rewriter, required

Array = NDArray[Any]

#: Operators that read a weight, and where: what a constant DQ is kept for.
WEIGHTS: Mapping[str, frozenset[int]] = {
    "MatMul": frozenset([0, 1]),
    "Gemm": frozenset([0, 1]),
    "Conv": frozenset([0, 1]),
    "ConvTranspose": frozenset([0, 1]),
    "Einsum": frozenset([0, 1]),
    "Gather": frozenset([0]),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a Q or DQ maps numbers.

    Attributes:
        scale, zero: as the node reads them; ``zero`` is ``None`` for 0.
        axis: that several scales lie along, counted from the front; ``None`` for one scale.
        block: positions of ``axis`` that share a scale; 0 for one scale a position.
        result: ONNX's number of the element type that a DQ makes, where that is not the scale's; else 0.
    """

    scale: ir.Value
    zero: ir.Value | None
    axis: int | None
    block: int
    result: int = 0

    def attributes(self, axis: int | None = None) -> dict[str, Any]:
        """Those of a DQ (of a Q: but for what it says of its result), with several scales along ``axis`` instead."""
        result = {"output_dtype": self.result} if self.result else {}
        if self.axis is None:
            return result
        block = {"block_size": self.block} if self.block else {}
        return {"axis": self.axis if axis is None else axis} | block | result


def parameters(node: ir.Node) -> Parameters:
    """Those of a Q or DQ."""
    scale = required(node, 1)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    shape = type_of(scale).shape
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    result = 0
    if not is_quantize(node) and type_of(node.outputs[0]).dtype is not type_of(scale).dtype:
        result = type_of(node.outputs[0]).dtype.onnx
    if not shape or (len(shape) == 1 and shape[0] == 1 and not block):
        return Parameters(scale, zero, None, 0, result)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return Parameters(scale, zero, axis % type_of(required(node, 0)).rank, block, result)


def is_quantize(node: ir.Node | None) -> bool:
    """Whether ``node`` is a Q of the ONNX domain."""
    return node is not None and node.domain == "" and node.op_type == "QuantizeLinear"


def dequantize_of(value: ir.Value | None) -> ir.Node | None:
    """The DQ that makes ``value``."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type == "DequantizeLinear" else None


def is_weight(value: ir.Value) -> bool:
    """Whether the elements of ``value`` are in the model, as they are or as integers under a DQ."""
    node = dequantize_of(value)
    return is_constant(value) or (node is not None and all(v is None or is_constant(v) for v in node.inputs))


def same_parameters(a: Parameters, b: Parameters) -> bool:
    """Whether two nodes map numbers alike, with all that it takes known while compiling."""
    if (a.axis, a.block, a.result) != (b.axis, b.block, b.result) or not same_constant(a.scale, b.scale):
        return False
    zeros = [None if p.zero is None or is_zero(p.zero) else p.zero for p in (a, b)]
    return zeros[0] is zeros[1] or same_constant(zeros[0], zeros[1])


def same_constant(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether both are constants of the same elements."""
    if a is None or b is None or not (is_constant(a) and is_constant(b)) or a.dtype != b.dtype:
        return False
    return a is b or np.array_equal(np.squeeze(constant_array(a)), np.squeeze(constant_array(b)))


def is_zero(value: ir.Value) -> bool:
    """Whether ``value`` is a constant of zeros."""
    return is_constant(value) and not np.any(constant_array(value).astype(np.float32))


def is_ordinary(scale: ir.Value) -> bool:
    """Whether a scale is a constant with which an integer of 16 bits or less survives the way there and back: f32,
    positive, and far from both ends of its range."""
    if not is_constant(scale) or type_of(scale).dtype is not DType.F32:
        return False
    array = constant_array(scale)
    return array.size > 0 and bool((array > 2.0**-100).all() and (array < 2.0**100).all())


def bounds(dtype: DType) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    return (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1) if dtype.is_signed else (0, 2**dtype.bits - 1)


def dequantized(
    rewriter: Rewriter, x: ir.Value, p: Parameters, *, before: ir.Node, axis: int | None = None
) -> ir.Value:
    """A new DQ of ``x``; several scales lie along ``axis``, where that is given."""
    zero = () if p.zero is None else (p.zero,)
    return rewriter.new("DequantizeLinear", [x, p.scale, *zero], before=before, attributes=p.attributes(axis))


def as_scalar(rewriter: Rewriter, value: ir.Value, *, before: ir.Node) -> ir.Value:
    """A value of one element without axes."""
    if type_of(value).rank == 0:
        return value
    if is_constant(value):
        return rewriter.constant(constant_array(value).reshape(()), f"{value.name}_scalar")
    return rewriter.new("Reshape", [value, rewriter.constant(np.array([], np.int64), "shape")], before=before)


def as_f32(rewriter: Rewriter, value: ir.Value, *, before: ir.Node) -> ir.Value:
    """A value of another float type in f32."""
    if type_of(value).dtype is DType.F32:
        return value
    if is_constant(value):
        return rewriter.constant(constant_array(value).astype(np.float32), f"{value.name}_f32")
    return rewriter.new("Cast", [value], before=before, attributes={"to": DType.F32.onnx})
