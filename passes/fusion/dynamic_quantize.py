"""``fuse-dynamic-quantize``: the scale of each row and the row quantized by it are one kernel.

    x → Abs → ReduceMax → Div → scale,  QuantizeLinear(x, scale)      →      FusedQuantize(x) → q, scale

Check: the scale hangs on the row alone; what computes ``x`` elementwise goes along where nobody else reads it.
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


class FuseDynamicQuantize(Pass):
    """A row is read once and quantized while it is near."""

    name: ClassVar[str] = "fuse-dynamic-quantize"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, frozenset(["QuantizeLinear"]))):
            if node.graph is None or is_constant(required(node, 1)):
                continue
            x = required(node, 0)
            region = quantizers(x)
            if node not in region:
                misses.append(Miss.at(node, "its scale does not hang on the row alone"))
                continue
            shape = type_of(x).shape
            region = grow_backward(region, lambda n, s=shape: is_elementwise(n) and type_of(n.outputs[0]).shape == s)  # type: ignore[misc]
            outputs = visible(region)
            reason = obstacle(order, region, outputs)
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            outline(rewriter, order, region, "FusedQuantize", outputs=outputs)
            modified = True
        return PassResult(modified, misses)
