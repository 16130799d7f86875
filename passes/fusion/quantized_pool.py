"""``fuse-quantized-pool``: an average over dequantized integers reads these, and what quantizes it goes along.

    DQ → GlobalAveragePool → Q      →      FusedPool

Check: nobody else reads what lies between.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import only_consumer
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.matmul_epilogue import is_dequantize
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.quantization import quantizers
from tilewright.passes.fusion.region import grow_backward
from tilewright.passes.rewrite import Rewriter, candidates, required


class FuseQuantizedPool(Pass):
    """No float tensor in memory around a pool of a quantized network."""

    name: ClassVar[str] = "fuse-quantized-pool"
    pools: ClassVar[frozenset[str]] = frozenset(["AveragePool", "GlobalAveragePool", "LpPool", "GlobalLpPool"])

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, self.pools)):
            region, output = grow_backward([node], is_dequantize), node.outputs[0]
            reader = only_consumer(output)
            if reader is not None and quantizers(output) == [reader]:
                region, output = [*region, reader], reader.outputs[0]
            if len(region) == 1:
                misses.append(Miss.at(node, "it neither reads nor makes integers"))
                continue
            reason = obstacle(order, region, [output])
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            maker = required(node, 0).producer()
            first = required(maker, 0) if maker is not None and maker in region else required(node, 0)
            outline(rewriter, order, region, "FusedPool", inputs=[first], outputs=[output])
            modified = True
        return PassResult(modified, misses)
