"""``quantize-weights``: constant operands in 8 or 4 bits, everything else as it was.

    MatMul(x, W)    →  MatMul(x, DequantizeLinear<axis=0, block_size=32>(W i4, scale[K/32, N]))

A sum over K inputs that is no multiple of the group ends in a short block: scales are ``ceil(K/group)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.quantize.base import Capability, Layer, Settings
from tilewright.passes.quantize.block_activations import quantize_blocks
from tilewright.passes.quantize.rounding import I4, I8, U4, Grid, Rounded, round_to_nearest
from tilewright.passes.quantize.weights import Weight, replace, weights_of
from tilewright.passes.rewrite import Rewriter


@dataclass(slots=True)
class QuantizeWeights(Pass):
    """Round weights to the nearest integers, with the scales of the least squared error.

    Attributes:
        settings: method ``int8-weights`` or ``int4``, group, layers, and what becomes of activations.
        asymmetric: 4-bit weights from 0 to 15 with a zero point a block instead of -8 to 7.
        capability: what the target absorbs; ``None`` leaves nothing alone on its account.
        layers: what became of each layer, once :meth:`run` is done.
    """

    name: ClassVar[str] = "quantize-weights"
    settings: Settings = field(default_factory=lambda: Settings("int4", algorithm="rtn"))
    asymmetric: bool = False
    capability: Capability | None = None
    layers: list[Layer] = field(default_factory=list)

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        weights, left = weights_of(model, self.settings, self.capability)
        self.layers = left
        for weight in weights:
            self.layers += put(weight, plain(weight, self.settings, self.asymmetric), self.settings, rewriter)
        return PassResult(bool(weights))


def plain(weight: Weight, settings: Settings, asymmetric: bool = False) -> Rounded:
    """Rounded to nearest. A row of a table has one scale: kernels that look up rows read one."""
    grid, group = grid_of(weight, settings, asymmetric), 0 if weight.role == "Gather" else settings.group
    return round_to_nearest(weight.matrix(), grid, group, store=store_of(weight))


def grid_of(weight: Weight, settings: Settings, asymmetric: bool = False) -> Grid:
    """The integers of a weight. Tables have 8 bits always: what is looked up goes into sums as it is, nothing averages
    its error (MiniLM's three tables in 4 bits cost as much as half of its products).
    """
    if settings.method != "int4" or weight.role == "Gather":
        return I8
    return U4 if asymmetric else I4


def store_of(weight: Weight) -> object:
    """NumPy's type of a weight's scales where that is not f32."""
    dtype = type_of(weight.value).dtype
    return None if dtype is DType.F32 else dtype.numpy


def put(weight: Weight, rounded: Rounded, settings: Settings, rewriter: Rewriter) -> list[Layer]:
    """Write the integers of a weight into the graph, and those of its inputs where asked; one line a reader."""
    replace(weight, rounded, rewriter)
    return [told(node, weight, settings, quantize_blocks(node, weight, settings, rewriter)) for node in weight.nodes]


def told(node: ir.Node, weight: Weight, settings: Settings, why: str | None) -> Layer:
    """The report's line of a reader; ``why`` its activations stay floats, ``None`` where they became integers."""
    kind = "int4" if grid_of(weight, settings) is I4 else "int8"
    got = f"{kind} weights" if why is not None else f"int8 × {kind}"
    asked = settings.method if settings.activations == "float" else f"{settings.method}, int8 activations"
    if settings.method == "int4" and kind == "int8":
        why = "tables are kept in 8 bits"
    return Layer(node.name or "", node.op_type, asked, got, why or "")
