"""``correct-bias``: what quantized weights shift the mean of a layer's outputs by is taken off its bias.

Rounded weights change each output by an amount whose mean over the data is not zero (Nagel et al. 2019, "Data-Free
Quantization", section 4.2). It is measured where it arises: each layer with its weights as they were and as they are
quantized, on the same input, over all positions of all samples, so layers do not correct one another's errors. What
clipped activations lose is left alone: a few outlying rows lose it, and its mean would be taken off all the others.
On MiniLM that lowered the mean cosine from 0.998 to 0.996.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array, is_constant, only_consumer
from tilewright.ops.infer import infer_node
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.quantize.base import Calibration, Runner
from tilewright.passes.quantize.calibrators import require_finite
from tilewright.passes.rewrite import Rewriter

Array = NDArray[Any]


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Options: by layer name, what the mean of each output channel is to be moved by."""

    name: ClassVar[str] = "correct-bias"
    shifts: Mapping[str, Array] = field(default_factory=dict)

    def run(self, model: ir.Model) -> PassResult:
        rewriter, modified = Rewriter(model), False
        for node in [n for n in model.graph if n.name in self.shifts]:
            _shift(rewriter, node, self.shifts[node.name or ""].astype(np.float32))
            modified = True
        EliminateDeadCode().run(model)
        return PassResult(modified)


def measure_shifts(
    before: ir.Model, after: ir.Model, layers: list[str], calibration: Calibration, runner: Runner
) -> dict[str, Array]:
    """For each of ``layers``, the mean of each output channel as it was less that with quantized weights, ``[N]``.

    Args:
        before: the graph as it was.
        after: the same, quantized: nodes of the same names whose weights come out of DequantizeLinear.
        layers: names of contractions in both.
        calibration, runner: the samples, and what runs them.
    """
    probe = _Probe(before, {str(n.name): n for n in after.graph})
    outputs = {layer: probe.add(layer) for layer in layers}
    sums: dict[str, Array] = {}
    rows: dict[str, int] = {}
    for number, found in enumerate(
        runner(probe.model, calibration.feeds, [v for pair in outputs.values() for v in pair])
    ):
        for layer, (total, elements) in outputs.items():
            require_finite(found[total], total, number)
            sums[layer] = sums.get(layer, 0) + found[total].astype(np.float64)
            rows[layer] = rows.get(layer, 0) + int(found[elements]) // found[total].size
    return {layer: total / rows[layer] for layer, total in sums.items() if rows[layer]}


class _Probe:
    """The graph as it was, and beside each layer the same with quantized weights."""

    def __init__(self, before: ir.Model, quantized: Mapping[str, ir.Node]):
        self.model = before.clone()
        self.model.graph.outputs.clear()
        self._nodes = {str(n.name): n for n in self.model.graph}
        self._quantized = quantized

    def add(self, layer: str) -> tuple[str, str]:
        """Names of two outputs: per channel, the sum of what the layer's output loses; the number of its elements."""
        node, other = self._nodes[layer], self._quantized[layer]
        inputs = [node.inputs[0], *(None if v is None else self._value(v) for v in other.inputs[1:])]
        quantized = self._new(node.op_type, inputs, list(node.attributes.values()))
        lost = self._new("Sub", [node.outputs[0], quantized])
        rank = len(lost.shape) if lost.shape is not None else 0
        channel = 1 if node.op_type == "Conv" else rank - 1
        axes = self._constant(np.array([i for i in range(rank) if i != channel], np.int64))
        total = self._new("ReduceSum", [lost, axes], [ir.AttrInt64("keepdims", 0)])
        elements = self._new("Size", [lost])
        self.model.graph.outputs.extend([total, elements])
        return str(total.name), str(elements.name)

    def _value(self, value: ir.Value) -> ir.Value:
        """A constant of the quantized graph, or what DequantizeLinear makes of some, copied."""
        if value.const_value is not None:
            return self._constant(constant_array(value))
        node = value.producer()
        assert node is not None and node.op_type == "DequantizeLinear", f"{value.name} is computed at run time"
        inputs = [None if v is None else self._value(v) for v in node.inputs]
        return self._new(node.op_type, inputs, list(node.attributes.values()))

    def _new(self, op_type: str, inputs: list[ir.Value | None], attributes: list[ir.Attr] | None = None) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes or [])
        node.name = node.outputs[0].name = f"probe_{len(self.model.graph)}"
        self.model.graph.append(node)
        infer_node(self.model, node)
        return node.outputs[0]

    def _constant(self, array: Array) -> ir.Value:
        name = f"probe_constant_{len(self.model.graph.initializers)}"
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self.model.graph.register_initializer(value)
        return value


def _shift(rewriter: Rewriter, node: ir.Node, shift: Array) -> None:
    """Add ``shift`` to the outputs of a contraction: into its bias where it has one, else by a new one."""
    if node.op_type == "Conv":
        _shift_convolution(rewriter, node, shift)
        return
    product = node.outputs[0]
    reader = only_consumer(product)
    if reader is not None and reader.op_type == "Add" and reader.domain in ("", "ai.onnx"):
        for i, bias in enumerate(reader.inputs):
            if bias is not None and is_constant(bias) and _is_row(bias, shift):
                reader.replace_input_with(i, rewriter.constant(constant_array(bias) + shift, f"{bias.name}_corrected"))
                return
    _add_behind(rewriter, product, shift)


def _is_row(bias: ir.Value, shift: Array) -> bool:
    """True for one number a channel, along the last axis."""
    shape = constant_array(bias).shape
    return shape[-1:] == shift.shape and int(np.prod(shape)) == len(shift)


def _add_behind(rewriter: Rewriter, product: ir.Value, shift: Array) -> None:
    node = product.producer()
    assert node is not None and node.graph is not None
    added = ir.Node("", "Add", [product, rewriter.constant(shift, f"{product.name}_bias")])
    added.outputs[0].name = added.name = rewriter.unique(f"{product.name}_corrected")
    for use in [u for u in product.uses() if u.node is not added]:
        use.node.replace_input_with(use.idx, added.outputs[0])
    node.append(added)
    infer_node(rewriter.model, added)
    outputs = rewriter.model.graph.outputs
    for i, output in enumerate(outputs):
        if output is product:
            product.name, added.outputs[0].name = added.outputs[0].name, product.name
            outputs[i] = added.outputs[0]


def _shift_convolution(rewriter: Rewriter, node: ir.Node, shift: Array) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        value = rewriter.constant(shift, f"{node.inputs[1].name if node.inputs[1] else node.name}_bias")
        node.resize_inputs(3)
        node.replace_input_with(2, value)
        return
    if is_constant(bias):
        node.replace_input_with(2, rewriter.constant(constant_array(bias) + shift, f"{bias.name}_corrected"))
        return
    source = bias.producer()
    assert source is not None and source.op_type == "DequantizeLinear"
    integers, scale = source.inputs[0], source.inputs[1]
    assert integers is not None and scale is not None
    steps = np.rint(shift.astype(np.float64) / constant_array(scale))
    moved = np.clip(constant_array(integers) + steps, -(2**31) + 1, 2**31 - 1).astype(np.int32)
    source.replace_input_with(0, rewriter.constant(moved, f"{integers.name}_corrected"))
