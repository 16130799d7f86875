"""The layers that methods quantize: products and convolutions with constant weights, and why others are none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, constant_tensor, is_constant
from tilewright.ir.late import is_late

#: Operators that sum products; each is a line of a report.
CONTRACTIONS = frozenset(["MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"])
#: Why a product of two computed tensors (the scores of an attention) is not quantized by any method: it has none.
NO_WEIGHTS = "its weights are computed at run time"


@dataclass(frozen=True, slots=True)
class Contraction:
    """A node whose second operand is a constant f32 matrix (``MatMul``) or filter (``Conv``)."""

    node: ir.Node

    @property
    def name(self) -> str:
        """What a report and ``Settings.layers`` call it."""
        return self.node.name or ""

    @property
    def activation(self) -> ir.Value:
        """What weights are multiplied with."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weight(self) -> ir.Value:
        """The constant: ``[K, N]`` of a product, ``[O, C, …]`` of a convolution."""
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def output_axis(self) -> int:
        """The axis of the weight that output channels lie along."""
        return 0 if self.node.op_type == "Conv" else 1


def contractions(model: ir.Model) -> list[ir.Node]:
    """Every node that sums products, in order: the lines of a report."""
    return [n for n in model.graph if n.domain in ("", "ai.onnx") and n.op_type in CONTRACTIONS]


def obstacle(node: ir.Node, absorbed: Collection[str], layers: Collection[str] | None) -> str:
    """Why ``node`` is not quantized; empty when it can be.

    Args:
        node: one of :func:`contractions`.
        absorbed: operators whose integer form the target has.
        layers: names that may be quantized; ``None`` is all.
    """
    if has_no_weights(node):
        return NO_WEIGHTS  # whatever layers were chosen
    if layers is not None and (node.name or "") not in layers:
        return "not among the layers that were chosen"
    if node.op_type not in absorbed:
        return f"the target has no kernel for {node.op_type} on integers"
    if node.op_type not in ("MatMul", "Conv"):
        return f"{node.op_type} is not quantized"
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or not is_constant(weight):
        return "it is quantized already"
    if is_constant(x):
        return "both operands are constants"
    if is_late(node):
        return "its shape hangs on run-time values"
    return _weight_obstacle(node.op_type, weight)


def has_no_weights(node: ir.Node) -> bool:
    """Whether the second factor of a product is computed, and it is not quantized already."""
    if node.op_type not in ("MatMul", "Conv"):
        return node.op_type == "Attention"
    weight = node.inputs[1]
    return (weight is None or not is_constant(weight)) and not _integer(node)


def _weight_obstacle(op_type: str, weight: ir.Value) -> str:
    tensor = constant_tensor(weight)
    assert tensor is not None
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weights are {tensor.dtype.short_name()}, not f32"
    if (op_type == "MatMul" and tensor.shape.rank() != 2) or tensor.size == 0:
        return f"its weights have the shape {list(tensor.shape.numpy())}"
    if not np.isfinite(constant_array(weight)).all():
        return "its weights are not all finite"
    return ""


def _integer(node: ir.Node) -> bool:
    """True when an operand comes out of a DequantizeLinear."""
    return any(v is not None and (p := v.producer()) and p.op_type == "DequantizeLinear" for v in node.inputs)
