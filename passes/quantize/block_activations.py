"""Rows of activations as integers, a scale for each block of them, found while the model runs.

MatMul(x, W)    →  s = Max(ReduceMax(Abs(Reshape(x, […, K/g, g])), -1), least) / 127
                   MatMul(DQ(Q(x, s, 0i8)), W)            axis=-1, block_size=group
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.types import DType
from tilewright.passes.quantize.base import Settings
from tilewright.passes.quantize.weights import Weight
from tilewright.passes.rewrite import Rewriter

#: The largest magnitude that a block of zeros is taken to have: its 127th part is a normal f32 still.
_LEAST = np.float32(127 * 2.0**-126)


def quantize_blocks(node: ir.Node, weight: Weight, settings: Settings, rewriter: Rewriter) -> str | None:
    """Let ``node`` read integers; else why its activations stay floats (empty: nobody asked).

    Nodes that read the same value share its integers.
    """
    if settings.activations == "float":
        return ""
    if weight.role != "MatMul":
        return "only rows of a matrix product are quantized at run time"
    x = node.inputs[0]
    assert x is not None
    depth = type_of(x).shape[-1].value
    group = settings.group or depth
    if type_of(x).dtype is not DType.F32:
        return f"activations in {type_of(x).dtype}"
    if depth % group:
        return f"rows of {depth} are no multiple of the group of {group}"
    node.replace_input_with(0, _existing(x, group) or _blocks(x, group, node, rewriter))
    return None


def _existing(x: ir.Value, group: int) -> ir.Value | None:
    """What an earlier reader of ``x`` was given."""
    for use in x.uses():
        if use.node.op_type != "QuantizeLinear" or use.idx != 0:
            continue
        block = use.node.attributes.get("block_size")
        for reader in use.node.outputs[0].uses():
            if block is not None and block.as_int() == group and reader.node.op_type == "DequantizeLinear":
                return reader.node.outputs[0]
    return None


def _blocks(x: ir.Value, group: int, before: ir.Node, rewriter: Rewriter) -> ir.Value:
    tensor = type_of(x)
    rank, depth = tensor.rank, tensor.shape[-1].value
    sizes = np.array([0] * (rank - 1) + [depth // group, group], np.int64)  # 0: the size of x
    blocks = rewriter.new("Reshape", [x, rewriter.constant(sizes, f"{x.name}_blocks")], before=before)
    axis = rewriter.constant(np.array([-1], np.int64), "last_axis")
    largest = rewriter.new("Abs", [blocks], before=before)
    largest = rewriter.new("ReduceMax", [largest, axis], before=before, attributes={"keepdims": 0})
    above = rewriter.new("Max", [largest, rewriter.constant(np.array(_LEAST), "least")], before=before)
    scale = rewriter.new("Div", [above, rewriter.constant(np.array(127, np.float32), "levels")], before=before)
    how = {"axis": -1, "block_size": group}
    integers = rewriter.new(
        "QuantizeLinear", [x, scale], before=before, attributes={**how, "output_dtype": DType.I8.onnx}
    )
    return rewriter.new("DequantizeLinear", [integers, scale], before=before, attributes=how)
