"""``convert-float``: operators and weights in f16 or bf16, with Casts where they meet what stays in f32.

    Y = MatMul(X, W)         →  Y = Cast<f32>(MatMul(Cast<f16>(X), W f16))           where the target computes in f16
                             →  Y = MatMul(X, Cast<f32>(W f16))                      where it only stores

An operator stays in f32 when a number that it reads or makes on the calibration data is beyond the type's range, when a
whole tensor would be smaller than its least normal number, or when its result is a sum too long or a place too fine for
the type (:data:`KEPT`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.ops.infer import infer_node
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.quantize.base import Calibration, Capability, Layer, Runner
from tilewright.passes.quantize.contractions import CONTRACTIONS
from tilewright.passes.quantize.float_range import Magnitudes, magnitudes_of, misfit
from tilewright.passes.quantize.float_types import converted_inputs
from tilewright.passes.rewrite import Rewriter

#: Spelling of a method to its element type.
TYPES = {"fp16": DType.F16, "bf16": DType.BF16}

#: Weights below this many elements are no smaller model: they stay as they are where the target only stores.
_SMALL = 64


@dataclass(slots=True)
class ConvertFloat(Pass):
    """16-bit floats.

    Attributes:
        method: ``fp16`` or ``bf16``.
        capability: whether the target computes in the type.
        calibration, runner: to look at activations; without them only weights are looked at, and the report says so.
        names: of the nodes that may be converted; ``None`` is all.
        layers: what became of each layer, once :meth:`run` is done: a line for each contraction and for each other
            operator that had to stay in f32.
    """

    name: ClassVar[str] = "convert-float"
    method: str = "fp16"
    capability: Capability = field(default_factory=Capability)
    calibration: Calibration | None = None
    runner: Runner | None = None
    names: frozenset[str] | None = None
    layers: list[Layer] = field(default_factory=list)

    def run(self, model: ir.Model) -> PassResult:
        if str(TYPES[self.method]) not in self.capability.floats:
            return self._store(model)
        return self._compute(model)

    def _store(self, model: ir.Model) -> PassResult:
        rewriter, kind = Rewriter(model), TYPES[self.method]
        stored: dict[ir.Value, ir.Value] = {}
        told: list[Layer] = []
        for node in list(model.graph):
            why = "" if self._named(node) else "not among the layers that were chosen"
            done = False
            for i, value in enumerate(node.inputs):
                if why or value is None or not _is_weight(value) or type_of(value).elements.value < _SMALL:
                    continue
                why = misfit(value, Magnitudes.of(constant_array(value)), kind)
                if why:
                    break
                if value not in stored:
                    narrow = rewriter.constant(constant_array(value).astype(kind.numpy), f"{value.name}_{kind}")
                    stored[value] = rewriter.new("Cast", [narrow], before=node, attributes={"to": DType.F32.onnx})
                node.replace_input_with(i, stored[value])
                done = True
            if done or node.op_type in CONTRACTIONS or (why and self._named(node)):
                got = f"stored {kind}, computed f32" if done else "f32"
                told.append(self._line(node, got, why or f"the target computes in f32, not in {kind}"))
        self.layers = told
        EliminateDeadCode().run(model)
        return PassResult(bool(stored))

    def _compute(self, model: ir.Model) -> PassResult:
        kind = TYPES[self.method]
        nodes = [n for n in model.graph if any(map(_is_f32, n.outputs))]
        seen = self._seen(model, nodes)
        narrowed = _Narrowed(model, kind)
        told: list[Layer] = []
        for node in nodes:
            inputs = converted_inputs(node, kind, model.opset_imports[""])
            why = self._obstacle(node, inputs, kind, seen)
            if not why and inputs:
                narrowed.take(node, inputs)
            if not why and inputs and node.op_type in CONTRACTIONS:
                told.append(
                    self._line(node, str(kind), "" if seen else "activations were not looked at: no calibration data")
                )
            elif why and (inputs or node.op_type in CONTRACTIONS):
                told.append(self._line(node, "f32", why))
        self.layers = told
        EliminateDeadCode().run(model)
        return PassResult(narrowed.any)

    def _named(self, node: ir.Node) -> bool:
        return self.names is None or (node.name or "") in self.names

    def _line(self, node: ir.Node, got: str, why: str) -> Layer:
        return Layer(node.name or "", node.op_type, self.method, got, why)

    def _seen(self, model: ir.Model, nodes: list[ir.Node]) -> dict[str, Magnitudes] | None:
        """What the calibration data make of every f32 value that is computed or given."""
        if self.calibration is None or self.runner is None or not self.calibration.feeds:
            return None
        values = [*model.graph.inputs, *(v for n in nodes for v in n.outputs)]
        names = [str(v.name) for v in values if _is_f32(v) and v.name]
        return magnitudes_of(model, names, self.calibration, self.runner)

    def _obstacle(self, node: ir.Node, inputs: frozenset[int], kind: DType, seen: dict[str, Magnitudes] | None) -> str:
        """Why ``node`` stays in f32; empty when nothing is in the way."""
        if not self._named(node):
            return "not among the layers that were chosen"
        if not inputs:
            return f"{node.op_type} is not defined on {kind}"
        if node.op_type in KEPT:
            return KEPT[node.op_type]
        for value in [*(node.inputs[i] for i in sorted(inputs)), *filter(_is_f32, node.outputs)]:
            if value is None:
                continue
            found = Magnitudes.of(constant_array(value)) if is_constant(value) else (seen or {}).get(str(value.name))
            if found is not None and (why := misfit(value, found, kind)):
                return why
        return ""


#: Operators that stay in f32 whatever the numbers, and why.
KEPT = {
    "Range": "counting in 16 bits stops at 2048 (bf16: 256)",
    "CumSum": "a running sum in 16 bits loses its small terms",
    "CumProd": "a running product in 16 bits leaves its range",
    "Resize": "places in 16 bits are too coarse",
    "GridSample": "places in 16 bits are too coarse",
    "RoiAlign": "places in 16 bits are too coarse",
    "NonMaxSuppression": "places in 16 bits are too coarse",
}


class _Narrowed:
    """The graph while it is converted. Every value keeps its f32 form, which Casts make; those that nobody reads in
    the end are dropped."""

    def __init__(self, model: ir.Model, kind: DType):
        self.model, self.kind, self.rewriter, self.any = model, kind, Rewriter(model), False
        self._narrow: dict[ir.Value, ir.Value] = {}

    def take(self, node: ir.Node, inputs: frozenset[int]) -> None:
        """Let ``node`` read and make the narrow type."""
        for i in sorted(inputs):
            value = node.inputs[i]
            if value is not None:
                node.replace_input_with(i, self._narrow_of(value, node))
        wide = [v for v in node.outputs if _is_f32(v)]
        infer_node(self.model, node)
        for value in wide:
            if not _is_f32(value):
                self._widen(value, node)
        self.any = True

    def _narrow_of(self, value: ir.Value, before: ir.Node) -> ir.Value:
        if value not in self._narrow:
            if is_constant(value):
                array = constant_array(value).astype(self.kind.numpy)
                self._narrow[value] = self.rewriter.constant(array, f"{value.name}_{self.kind}")
            else:
                cast = self.rewriter.new("Cast", [value], before=before, attributes={"to": self.kind.onnx})
                self._narrow[value] = cast
        return self._narrow[value]

    def _widen(self, value: ir.Value, node: ir.Node) -> None:
        """Let all readers of ``value``, narrow by now, read it as f32."""
        uses, name = list(value.uses()), value.name
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", DType.F32.onnx)])
        wide = cast.outputs[0]
        wide.name = self.rewriter.unique(f"{name}_f32")
        node.append(cast)
        infer_node(self.model, cast)
        for use in uses:
            use.node.replace_input_with(use.idx, wide)
        for i, output in enumerate(self.model.graph.outputs):
            if output is value:
                value.name, wide.name = wide.name, name
                self.model.graph.outputs[i] = wide
        cast.name = wide.name
        self._narrow[wide] = value


def _is_f32(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _is_weight(value: ir.Value) -> bool:
    return _is_f32(value) and is_constant(value)
