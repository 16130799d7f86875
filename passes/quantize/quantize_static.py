"""``quantize-static``: products and convolutions on 8-bit integers whose ranges are known before the run.

    Conv(x, W, b)  →  Conv(DQ(Q(x, s, z), s, z), DQ(W, s[o], axis=0), DQ(b, s·s[o]))
    MatMul(x, W)   →  MatMul(DQ(Q(x, s, z), s, z), DQ(W, s[n], axis=1))

Which tensors pass through Q and DQ is :mod:`~tilewright.passes.quantize.placement`'s matter. Biases behind a product
stay f32: they are added to the accumulator on its way out. That of a convolution is i32, where runtimes expect it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.quantize.base import Capability
from tilewright.passes.quantize.contractions import Contraction
from tilewright.passes.quantize.encoding import Encoding, Range, encode_columns
from tilewright.passes.quantize.insert import Inserter
from tilewright.passes.quantize.placement import Placement, place


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Options: what is absorbed, the range of each tensor that is to be quantized, how ranges become encodings.

    Attributes:
        capability: of the target.
        ranges: by name, of every tensor of the placement.
        element: of activations, ``u8`` or ``i8``.
        symmetric: activations with the zero point in the middle.
        clip: choose the scales of weights by their squared error, not by the largest.
        layers: names of contractions that may be quantized; ``None`` is all.
        largest: integer of a weight.
    """

    name: ClassVar[str] = "quantize-static"
    capability: Capability
    ranges: Mapping[str, Range] = field(default_factory=dict)
    element: str = "u8"
    symmetric: bool = False
    clip: bool = False
    layers: frozenset[str] | None = None
    largest: int = 127

    def run(self, model: ir.Model) -> PassResult:
        placement = place(model, self.capability, self.layers)
        encodings = self._encodings(placement)
        inserter = Inserter(model)
        for layer in placement.layers:
            self._weights(inserter, layer, encodings[layer.activation])
        for tensor in placement.tensors:
            inserter.activation(tensor.value, encodings[tensor.value], tensor.readers, tensor.group)
        EliminateDeadCode().run(model)
        return PassResult(bool(placement.layers), [Miss.at(n, why) for n, why in placement.refused.items()])

    def _encodings(self, placement: Placement) -> dict[ir.Value, Encoding]:
        """Of every tensor: of the range of its group."""
        ranges: dict[int, Range] = {}
        for t in placement.tensors:
            found = self.ranges[str(t.value.name)]
            ranges[t.group] = ranges[t.group].union(found) if t.group in ranges else found
        return {t.value: Encoding.of(ranges[t.group], self.element, self.symmetric) for t in placement.tensors}

    def _weights(self, inserter: Inserter, layer: Contraction, activation: Encoding) -> None:
        node = layer.node
        columns = encode_columns(constant_array(layer.weight), layer.output_axis, self.clip, self.largest)
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and is_constant(bias):
            inserter.bias(node, bias, np.float32(activation.scale) * columns.scales)
        inserter.weight(node, layer.weight, columns)
