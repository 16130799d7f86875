"""``collect-scales``: factors on the operands of a product of two computed values become one factor of the product.

    MatMul(q · a, Transpose(k) · b) · c   →  MatMul(q, Transpose(k)) · (a·b·c)

Exporters put the scale of attention on the query, on the key, half on each, or on the scores. A product with a weight
keeps its factor where it is: it is folded into the weight, or it belongs to the operand's producer. So does one in f16,
where factors keep the product below 65504; other types have the range of f32 or more.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import only_consumer, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.match import scalar_of
from tilewright.passes.quantized import is_weight
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class CollectScales(RewritePass):
    """One multiplication, that whatever follows the product takes along."""

    name: ClassVar[str] = "collect-scales"
    operators: ClassVar[frozenset[str]] = frozenset(["MatMul"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        a, b = required(node, 0), required(node, 1)
        if is_weight(a) or is_weight(b) or not type_of(a).dtype.is_float:
            return False
        (left, first), (right, second) = _unscaled(a), _unscaled(b)
        if left is a and right is b:
            return False
        if type_of(a).dtype is DType.F16:
            return Miss.at(node, "without its factors the product may be beyond what f16 holds")
        product = rewriter.new("MatMul", [left, right], before=node)
        scale, last = first * second, node.outputs[0]
        follower = only_consumer(last)
        after, third = _unscaled(follower.outputs[0]) if follower is not None else (last, 1.0)
        if follower is not None and after is last:
            scale, last = scale * third, follower.outputs[0]
        factor = rewriter.constant(np.array(scale, type_of(a).dtype.numpy), "scale")
        rewriter.replace(last, rewriter.new("Mul", [product, factor], before=last.producer() or node))
        return True


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """What ``value`` is a multiple of by one constant number, and that number; else ``value`` itself and 1."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in ("Mul", "Div"):
        return value, 1.0
    a, b = required(node, 0), required(node, 1)
    number = scalar_of(b)
    if number is None and node.op_type == "Mul":
        a, number = b, scalar_of(a)
    if number is None or number == 0 or type_of(a) != type_of(value):
        return value, 1.0
    inner, factor = _unscaled(a)
    return inner, factor * (number if node.op_type == "Mul" else 1 / number)
