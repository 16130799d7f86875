"""``quantize-fp8``: products of 8-bit floats (e4m3: 4 bits of exponent, 3 of fraction, up to 448, no infinities).

    MatMul(x, W)    →  MatMul(DQ(Q(x, s)), DQ(W f8, s[N], axis=1))        s = largest |x| on the calibration data / 448
                       MatMul(DQ(Q(x, s[…, 1])), DQ(W f8, s[N], axis=1))  without data: s of each row, at run time

Weights have a scale for each output channel. Where the target does not compute in the type, the numbers are those of
such a computation and the time is not: the report calls that simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.quantize.base import Array, Calibration, Capability, Layer, Runner
from tilewright.passes.quantize.calibrators import require_finite
from tilewright.passes.quantize.contractions import Contraction, contractions, obstacle
from tilewright.passes.quantize.float_range import magnitudes_of
from tilewright.passes.rewrite import Rewriter

F8 = DType.F8E4M3
#: The largest finite number of e4m3 (OCP OFP8 1.0, table 1).
LARGEST = np.float32(448)
#: What a largest magnitude of 0 is taken to be: its 448th part is a normal f32 still.
LEAST = np.float32(448 * 2.0**-126)


@dataclass(slots=True)
class QuantizeFp8(Pass):
    """8-bit floats around products and convolutions with constant weights.

    Attributes:
        capability: whether the target computes in ``f8e4m3``.
        calibration, runner: for the scales of activations; without them rows get theirs at run time, and convolutions,
            which have no rows, stay in f32.
        names: of the nodes that may be quantized; ``None`` is all.
        layers: what became of each layer, once :meth:`run` is done.
    """

    name: ClassVar[str] = "quantize-fp8"
    capability: Capability = field(default_factory=Capability)
    calibration: Calibration | None = None
    runner: Runner | None = None
    names: frozenset[str] | None = None
    layers: list[Layer] = field(default_factory=list)

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        why = {n: self._obstacle(n) for n in contractions(model)}
        chosen = [Contraction(n) for n in why if not why[n]]
        scales = self._scales(model, chosen)
        real = str(F8) in self.capability.floats
        got = "fp8 × fp8" if real else "fp8 × fp8, simulated"
        because = "" if real else f"the target does not compute in {F8}: f32 products of such numbers"
        self.layers = [Layer(n.name or "", n.op_type, "fp8", "f32" if why[n] else got, why[n] or because) for n in why]
        made: dict[ir.Value, ir.Value] = {}
        for layer in chosen:
            x = layer.activation
            if x not in made:
                made[x] = _activation(x, scales.get(str(x.name)), layer.node, rewriter)
            weight = _weight(layer, rewriter)
            layer.node.replace_input_with(0, made[x])
            layer.node.replace_input_with(1, weight)
        EliminateDeadCode().run(model)
        return PassResult(bool(chosen))

    def _obstacle(self, node: ir.Node) -> str:
        found = obstacle(node, ("MatMul", "Conv"), self.names)
        if not found and self._without_data() and node.op_type == "Conv":
            return "without calibration data only rows of products get scales"
        return found

    def _without_data(self) -> bool:
        return self.calibration is None or self.runner is None or not self.calibration.feeds

    def _scales(self, model: ir.Model, chosen: list[Contraction]) -> dict[str, Array]:
        if self.calibration is None or self.runner is None or self._without_data():
            return {}
        names = list(dict.fromkeys(str(c.activation.name) for c in chosen))
        seen = magnitudes_of(model, names, self.calibration, self.runner)
        for name in names:
            if seen[name].infinite:
                require_finite(np.array([np.inf], np.float32), name, 0)
        return {n: np.maximum(np.float32(m.largest), LEAST) / LARGEST for n, m in seen.items()}


def _weight(layer: Contraction, rewriter: Rewriter) -> ir.Value:
    value, axis = layer.weight, layer.output_axis
    array = constant_array(value).astype(np.float32)
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.maximum(np.abs(array).max(others), LEAST) / LARGEST
    spread = scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    stored = rewriter.constant((array / spread).astype(F8.numpy), f"{value.name}_{F8}")
    operands = [stored, rewriter.constant(scale, f"{value.name}_scale")]
    return rewriter.new("DequantizeLinear", operands, before=layer.node, attributes={"axis": axis})


def _activation(x: ir.Value, scale: Array | None, before: ir.Node, rewriter: Rewriter) -> ir.Value:
    """``x`` through Q and DQ: with ``scale``, or with those of its rows."""
    how: dict[str, int] = {}
    if scale is not None:
        by = rewriter.constant(np.asarray(scale), f"{x.name}_scale")
    else:
        how = {"axis": -1, "block_size": type_of(x).shape[-1].value}
        axes = rewriter.constant(np.array([-1], np.int64), "axes")
        largest = rewriter.new("Abs", [x], before=before)
        largest = rewriter.new("ReduceMax", [largest, axes], before=before, attributes={"keepdims": 1})
        above = rewriter.new("Max", [largest, rewriter.constant(np.array(LEAST), "least")], before=before)
        by = rewriter.new("Div", [above, rewriter.constant(np.array(LARGEST), "largest")], before=before)
    stored = rewriter.new("QuantizeLinear", [x, by], before=before, attributes={**how, "output_dtype": F8.onnx})
    return rewriter.new("DequantizeLinear", [stored, by], before=before, attributes=how)
