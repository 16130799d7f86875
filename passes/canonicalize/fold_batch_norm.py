"""``fold-batch-norm``: a BatchNormalization at inference goes into the constants of the Conv before it.

BatchNormalization(Conv(x, W, c), scale, bias, mean, var)  →  Conv(x, W·s, (c - mean)·s + bias),  s = scale / √(var + ε)
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter


class FoldBatchNorm(RewritePass):
    """Scale the filters, shift the bias; in f64, rounded once."""

    name: ClassVar[str] = "fold-batch-norm"
    operators: ClassVar[frozenset[str]] = frozenset(["BatchNormalization"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        x = node.inputs[0]
        conv = x.producer() if x is not None else None
        if conv is None or conv.op_type != "Conv":
            return False
        if only_consumer(conv.outputs[0]) is not node:
            return Miss.at(node, "something else reads the convolution too")
        weights = [v for v in (*conv.inputs[1:], *node.inputs[1:]) if v is not None]
        if not all(map(is_constant, weights)):
            return Miss.at(node, "filters or statistics are no constants")
        if len(node.outputs) > 1 or ("training_mode" in node.attributes and node.attributes["training_mode"].as_int()):
            return Miss.at(node, "it is in training mode")
        filters = constant_array(weights[0])
        scale, bias, mean, variance = (constant_array(v).astype(np.float64) for v in weights[-4:])
        start = constant_array(weights[1]).astype(np.float64) if len(weights) == 6 else 0.0
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        factor = scale / np.sqrt(variance + epsilon)
        folded = filters * factor.reshape(-1, *[1] * (filters.ndim - 1))
        new = rewriter.new(
            "Conv",
            [
                conv.inputs[0],
                rewriter.constant(folded.astype(filters.dtype), f"{weights[0].name}_bn"),
                rewriter.constant(((start - mean) * factor + bias).astype(filters.dtype), f"{weights[0].name}_bn_bias"),
            ],
            before=node,
            attributes={name: a.value for name, a in conv.attributes.items()},
        )
        rewriter.replace(node.outputs[0], new)
        return True
