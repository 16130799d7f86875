"""``fold-constants``: what does not depend on an input is computed now.

    Transpose(W)                 →  W transposed, as an initializer
    Concat(Shape(x)[2:], [16])   →  [64, 16], where shape inference knows these sizes

Constant nodes become initializers. Nothing is folded that would make the model much larger (an Expand of a scalar).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_tensor, is_constant, known_value, type_of
from tilewright.ops.evaluate import evaluate_node
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter

_RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout".split()
)
#: Not folded though constant: it says that a tensor is quantized, which the quantize pass and kernels need to see.
#: A QuantizeLinear of a constant is folded: its integers say so as well.
_KEPT = frozenset(["DequantizeLinear"])


@dataclass(frozen=True, slots=True)
class FoldConstants(RewritePass):
    """Evaluate nodes whose inputs are constants, and integers that shape inference knows.

    Attributes:
        growth: bytes that a result may have beyond the bytes of its inputs.
    """

    name: ClassVar[str] = "fold-constants"
    growth: int = 65536

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if node.op_type == "Constant":
            return _lift(node, rewriter)
        if node.op_type == "Identity" and node.outputs[0].is_graph_output():
            return False  # an output that is constant has to be made by some node
        known = _known_output(node)
        if known is not None:
            rewriter.replace(node.outputs[0], rewriter.constant(known, f"{node.outputs[0].name}_known"))
            return True
        given = [v for v in node.inputs if v is not None]
        if not given or node.op_type in _RANDOM | _KEPT or not all(map(is_constant, given)):
            return False
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return False
        limit = sum(_bytes(v) for v in given) + self.growth
        size = sum(_bytes(v) for v in node.outputs if v.name)
        if size > limit:
            return Miss.at(node, f"the folded result would hold {size} bytes, more than {limit}")
        arrays = evaluate_node(rewriter.model, node)
        if arrays is None:
            return Miss.at(node, "it cannot be computed while compiling")
        for value, array in zip(list(node.outputs), arrays, strict=True):
            if array is not None:
                rewriter.replace(value, rewriter.constant(array, f"{value.name}_folded"))
        return True


def _lift(node: ir.Node, rewriter: Rewriter) -> bool:
    tensor = constant_tensor(node.outputs[0])
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return False
    rewriter.replace(node.outputs[0], rewriter.constant(np.asarray(tensor.numpy()), f"{node.outputs[0].name}_lifted"))
    return True


def _known_output(node: ir.Node) -> np.ndarray[Any, Any] | None:
    """The elements of the only output, when inference knows them all as plain numbers."""
    if len(node.outputs) != 1:
        return None
    known = known_value(node.outputs[0])
    if known is None or not all(e.is_constant for e in known.reshape(-1)):
        return None
    numbers = [e.value for e in known.reshape(-1)]
    return np.array(numbers, dtype=type_of(node.outputs[0]).dtype.numpy).reshape(known.shape)


def _bytes(value: ir.Value) -> int:
    tensor_type = type_of(value)
    return tensor_type.elements.value * tensor_type.dtype.bits // 8 if tensor_type.is_static else 2**62
