"""``fold-dequantization``: small constants that no integer kernel multiplies with are dequantized while compiling.

    x + DQ(b: u8, s, z)                                      →  x + b
    Conv(x, w, DQ(b: i32, s))        unless s is sx·sw       →  Conv(x, w, b)
    Conv(DQ(x, sx), DQ(w, sw), DQ(b: i32, sx·sw))            stays: b is a start of the sum of integers

Weights stay under their DequantizeLinear, whatever their size, and so do tables that are looked up in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.ir.types import DType
from tilewright.ops.evaluate import evaluate_node
from tilewright.passes.base import Miss
from tilewright.passes.quantized import WEIGHTS, Array, dequantize_of, is_weight, is_zero, parameters
from tilewright.passes.rewrite import RewritePass, Rewriter, required

#: The scale of a bias agrees with that of the sums when it is off by no more than this share: a few roundings of f32
#: in whatever computed it.
_AGREES = 1e-6


@dataclass(frozen=True, slots=True)
class FoldDequantization(RewritePass):
    """Those that nothing reads as a weight.

    Attributes:
        largest: bytes that the dequantized numbers may take.
    """

    name: ClassVar[str] = "fold-dequantization"
    operators: ClassVar[frozenset[str]] = frozenset(["DequantizeLinear"])
    largest: int = 65536

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        value = node.outputs[0]
        if not is_weight(value) or value.is_graph_output() or not value.uses():
            return False
        if any(u.idx in WEIGHTS.get(u.node.op_type, ()) for u in value.uses()):
            return False
        if all(_starts_sums(node, u.node, u.idx) for u in value.uses()):
            return False
        size = type_of(value).elements.value * type_of(value).dtype.bits // 8
        if size > self.largest:
            return Miss.at(node, f"its numbers would take {size} bytes, more than {self.largest}")
        arrays = evaluate_node(rewriter.model, node)
        if arrays is None or arrays[0] is None:
            return Miss.at(node, "it cannot be computed while compiling")
        rewriter.replace(value, rewriter.constant(arrays[0], f"{value.name}_folded"))
        return True


def _starts_sums(bias: ir.Node, reader: ir.Node, index: int) -> bool:
    """Whether ``bias`` holds 32-bit integers with the scale of the sums that ``reader`` adds it to."""
    p = parameters(bias)
    if type_of(required(bias, 0)).dtype is not DType.I32 or not (p.zero is None or is_zero(p.zero)):
        return False
    product = reader
    if reader.op_type == "Add" and reader.domain == "":
        made = required(reader, 1 - index).producer()
        if made is None or made.op_type != "MatMul" or only_consumer(made.outputs[0]) is not reader:
            return False
        product = made
    elif reader.op_type != "Conv" or reader.domain != "" or index != 2:
        return False
    left, right = (_scales(required(product, i)) for i in (0, 1))
    if left is None or right is None or left.size != 1:
        return False
    ours, sums = constant_array(p.scale).astype(np.float64).reshape(-1), left.reshape(-1) * right.reshape(-1)
    if ours.size != 1 and sums.size not in (1, ours.size):
        return False
    return bool((np.abs(ours - sums) <= _AGREES * np.abs(sums)).all())


def _scales(value: ir.Value) -> Array | None:
    """The scales of an operand of a product, where it is dequantized with ones that are known."""
    node = dequantize_of(value)
    if node is None or not is_constant(required(node, 1)):
        return None
    return constant_array(required(node, 1)).astype(np.float64)
