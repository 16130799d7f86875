"""``quantize-dynamic``: products on 8-bit integers whose rows get their scales while the model runs.

    MatMul(x, W)  →  s = Max(ReduceMax(Abs(x), -1), least) / 127
                     MatMul(DQ(Q(x, s[…, 1]), s), DQ(W, s[n], axis=1))         Q and DQ with block_size = row length

Symmetric i8; nothing is calibrated. One Q for each tensor that is read, whatever the number of products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.quantize.base import Capability
from tilewright.passes.quantize.contractions import Contraction, contractions, obstacle
from tilewright.passes.quantize.encoding import SMALLEST_SCALE, encode_columns
from tilewright.passes.quantize.insert import Inserter
from tilewright.passes.rewrite import Rewriter

Array = NDArray[Any]

#: Of a row of zeros, instead of 0: its 127th part is a normal number still.
LEAST = np.float32(127 * SMALLEST_SCALE)


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Options: what is absorbed, how weights are scaled, the names of products that may be quantized, and the largest
    integer of a weight."""

    name: ClassVar[str] = "quantize-dynamic"
    capability: Capability
    clip: bool = False
    layers: frozenset[str] | None = None
    largest: int = 127

    def run(self, model: ir.Model) -> PassResult:
        misses, chosen = [], []
        for node in contractions(model):
            reason = dynamic_obstacle(node, self.capability, self.layers)
            if reason:
                misses.append(Miss.at(node, reason))
            else:
                chosen.append(Contraction(node))
        inserter = Inserter(model)
        readers: dict[ir.Value, list[ir.Node]] = {}
        for layer in chosen:
            columns = encode_columns(constant_array(layer.weight), layer.output_axis, self.clip, self.largest)
            inserter.weight(layer.node, layer.weight, columns)
            readers.setdefault(layer.activation, []).append(layer.node)
        for value, nodes in readers.items():
            quantize_rows(inserter.rewriter, value, nodes)
        EliminateDeadCode().run(model)
        return PassResult(bool(chosen), misses)


def dynamic_obstacle(node: ir.Node, capability: Capability, layers: frozenset[str] | None) -> str:
    """Why rows that ``node`` reads are not quantized at run time; empty when they can be."""
    if node.op_type != "MatMul" and node.op_type not in capability.dynamic:
        return f"{node.op_type} has no rows to scale at run time; use int8 with calibration data"
    return obstacle(node, capability.dynamic, layers)


def row_round_trip(rows: Array) -> Array:
    """Rows ``[R, K]`` as the quantized graph reads them."""
    scales = (np.maximum(np.abs(rows).max(axis=1, keepdims=True), LEAST) / np.float32(127)).astype(np.float32)
    return np.asarray(np.clip(np.rint(rows / scales), -128, 127) * scales, np.float32)


def quantize_rows(rewriter: Rewriter, value: ir.Value, readers: Sequence[ir.Node]) -> None:
    """Let ``readers``, in order, read the rows of ``value`` as i8 with a scale of each row's own."""
    first = readers[0]
    assert value.shape is not None and isinstance(value.shape[-1], int)
    row = {"axis": -1, "block_size": value.shape[-1]}
    magnitude = rewriter.new("Abs", [value], before=first)
    axes = rewriter.constant(np.array([-1], np.int64), "axes")
    largest = rewriter.new("ReduceMax", [magnitude, axes], before=first, attributes={"keepdims": 1})
    above = rewriter.new("Max", [largest, rewriter.constant(np.array(LEAST), "least")], before=first)
    scale = rewriter.new("Div", [above, rewriter.constant(np.array(127, np.float32), "levels")], before=first)
    attributes = {**row, "output_dtype": int(ir.DataType.INT8)}
    integers = rewriter.new("QuantizeLinear", [value, scale], before=first, attributes=attributes)
    integers.name = rewriter.unique(f"{value.name}_i8")
    for reader in readers:
        real = rewriter.new("DequantizeLinear", [integers, scale], before=reader, attributes=row)
        for i, v in enumerate(reader.inputs):
            if v is value:
                reader.replace_input_with(i, real)
