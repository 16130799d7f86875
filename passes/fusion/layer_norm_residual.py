"""``fuse-layer-norm-residual``: layer normalization takes the sum in front of it, down to embedding look-ups.

    LayerNormalization(Add(x, residual), w, b)                              →  FusedLayerNorm(x, residual, w, b)
    LayerNormalization(Gather(T, ids) + Gather(P, positions) + …, w, b)     →  FusedLayerNorm(T, ids, P, positions, …)

Check: what it takes has at most the shape of the normalized value and is read by nothing else; a sum that something
else reads as well (the residual stream of a pre-norm block) becomes a second output. What quantizes the normalized rows
goes along: their scales are known while they are in registers.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.quantization import quantizers
from tilewright.passes.fusion.region import grow_backward, is_elementwise, visible
from tilewright.passes.rewrite import Rewriter, candidates, required

_NORMS = frozenset(["LayerNormalization", "RMSNormalization"])
_SUMS = frozenset(["Add", "Mul", "Cast", "Sub"])
#: What computes which row is looked up: positions are counted, not read.
_ROWS = frozenset(["Range", "Slice", "Shape", "Squeeze", "Unsqueeze", "Expand", "Cast", "Add"])


class FuseLayerNormResidual(Pass):
    """The row that is normalized is computed on the way in."""

    name: ClassVar[str] = "fuse-layer-norm-residual"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, _NORMS)):
            if node.graph is None:
                continue
            region = _region(node)
            region = [*region, *(n for n in quantizers(node.outputs[0]) if n not in region)]
            outputs = visible(region)
            reason = _reason(order, node, region, outputs)
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            outputs.sort(key=lambda v: v is not node.outputs[0])
            outline(rewriter, order, region, "FusedLayerNorm", outputs=outputs)
            modified = True
        return PassResult(modified, misses)


def _region(node: ir.Node) -> list[ir.Node]:
    x = required(node, 0)
    shape = type_of(x).shape

    def accept(producer: ir.Node) -> bool:
        value = producer.outputs[0]
        if value in node.inputs[1:]:
            return False
        if is_look_up(producer):
            return type_of(value).shape[-1:] == shape[-1:]
        if type_of(value).dtype.is_integer:
            return producer.domain == "" and producer.op_type in _ROWS
        return is_elementwise(producer) and producer.op_type in _SUMS and type_of(value).shape == shape

    start = [node]
    shared = x.producer()
    if shared is not None and x.uses() and len({u.node for u in x.uses()}) > 1 and accept(shared):
        start.append(shared)
    return grow_backward(start, accept)


def is_look_up(node: ir.Node) -> bool:
    """True for rows of a constant table chosen by an integer tensor."""
    table = node.inputs[0] if node.op_type == "Gather" and node.domain == "" else None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return table is not None and is_constant(table) and type_of(table).rank == 2 and axis == 0


def _reason(order: Order, node: ir.Node, region: list[ir.Node], outputs: list[ir.Value]) -> str | None:
    if len(region) == 1:
        return "no sum in front of it that only it reads, and nothing quantizes it"
    if not outputs or any(v in outputs for v in node.outputs[1:]):
        return "its mean or deviation is read, or nothing reads it"
    return obstacle(order, region, outputs)
