"""``decompose-attention``: ONNX ``Attention`` (opset 23) becomes the operators that older exports write.

    Attention<scale>(q, k, v, mask)  →  MatMul(Softmax(MatMul(q, Transpose(k)) · scale + mask), v)

So attention has one form in front of ``fuse-attention``, whatever the opset. Semantics: ONNX operator reference.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required

#: Attributes that this decomposition does not spell out.
_REFUSED = {"is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0}


class DecomposeAttention(RewritePass):
    """Attention without cache, causal limit or soft cap; the others are left to whoever can run them."""

    name: ClassVar[str] = "decompose-attention"
    operators: ClassVar[frozenset[str]] = frozenset(["Attention"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        reason = _refusal(node)
        if reason:
            return Miss.at(node, reason)
        q, k, v = (_split_heads(node, i, rewriter) for i in range(3))
        depth = type_of(q).shape[-1]
        if type_of(q).shape[1] != type_of(k).shape[1] or not depth.is_constant:
            return Miss.at(node, "query heads share key and value heads, or the head size is not known")
        scale = node.attributes["scale"].as_float() if "scale" in node.attributes else 1 / math.sqrt(depth.value)
        dtype = type_of(q).dtype.numpy
        transposed = rewriter.new("Transpose", [k], before=node, attributes={"perm": [0, 1, 3, 2]})
        scores = rewriter.new("MatMul", [q, transposed], before=node)
        scores = rewriter.new("Mul", [scores, rewriter.constant(np.array(scale, dtype), "scale")], before=node)
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is not None:
            scores = rewriter.new("Add", [scores, _additive(mask, dtype, node, rewriter)], before=node)
        weights = rewriter.new("Softmax", [scores], before=node, attributes={"axis": -1})
        result = rewriter.new("MatMul", [weights, v], before=node)
        if type_of(node.outputs[0]).rank == 3:
            joined = rewriter.new("Transpose", [result], before=node, attributes={"perm": [0, 2, 1, 3]})
            size = type_of(node.outputs[0]).shape[-1].value
            result = rewriter.new("Reshape", [joined, _shape(rewriter, [0, 0, size])], before=node)
        rewriter.replace(node.outputs[0], result)
        return True


def _refusal(node: ir.Node) -> str:
    for name, harmless in _REFUSED.items():
        if name in node.attributes and node.attributes[name].value != harmless:
            return f"{name} = {node.attributes[name].value}"
    if any(v is not None for v in node.inputs[4:]):
        return "it has past keys and values, or lengths"
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return "present keys or scores are read"
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    key = required(node, 1)
    sizes = type_of(mask).shape if mask is not None else ()
    if sizes and sizes[-1] not in (1, type_of(key).shape[-2]):
        return "the mask is shorter than the keys"
    output = type_of(node.outputs[0])
    return "" if output.rank == 4 or output.shape[-1].is_constant else "the size of the output is not known"


def _split_heads(node: ir.Node, index: int, rewriter: Rewriter) -> ir.Value:
    """An operand as [B, H, S, D]; three axes hold the heads side by side."""
    x = required(node, index)
    if type_of(x).rank == 4:
        return x
    heads = node.attributes["q_num_heads" if index == 0 else "kv_num_heads"].as_int()
    size = type_of(x).shape[-1].value
    split = rewriter.new("Reshape", [x, _shape(rewriter, [0, 0, heads, size // heads])], before=node)
    return rewriter.new("Transpose", [split], before=node, attributes={"perm": [0, 2, 1, 3]})


def _additive(mask: ir.Value, dtype: np.dtype[np.generic], node: ir.Node, rewriter: Rewriter) -> ir.Value:
    """A boolean mask as 0 and -inf."""
    if type_of(mask).dtype is not DType.BOOL:
        return mask
    kept = rewriter.constant(np.array(0, dtype), "kept")
    masked = rewriter.constant(np.array(-np.inf, dtype), "masked")
    return rewriter.new("Where", [mask, kept, masked], before=node)


def _shape(rewriter: Rewriter, sizes: list[int]) -> ir.Value:
    return rewriter.constant(np.array(sizes, np.int64), "heads")
