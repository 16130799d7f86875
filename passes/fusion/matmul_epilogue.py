"""``fuse-matmul-epilogue``: a contraction takes the elementwise operators after it: bias, activation, residual.

    MatMul(x, W) → Add bias → Gelu → Add residual   →   FusedMatMul(x, W, bias, residual)

Check: each operator keeps the shape of the product (so whatever it reads besides is broadcast to it, residuals have its
full shape), all uses of each value between are inside, and no path leaves and returns. Conv likewise (``FusedConv``).
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import grow_forward, keeps_shape
from tilewright.passes.rewrite import Rewriter, candidates


class FuseMatMulEpilogue(Pass):
    """One kernel writes what the chain after a contraction yields; the product is never in memory."""

    name: ClassVar[str] = "fuse-matmul-epilogue"
    contractions: ClassVar[frozenset[str]] = frozenset(["MatMul", "Conv"])

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        # Last first: a residual sum of two products belongs to the one that is ready last.
        for node in reversed(list(candidates(model, self.contractions))):
            start = node.outputs[0]
            region, output, reasons = grow_forward(order, [node], start, keeps_shape(start))
            misses += reasons
            reason = obstacle(order, region, [output]) if len(region) > 1 else "nothing follows that keeps the shape"
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            first = [v for v in node.inputs if v is not None]
            outline(rewriter, order, region, f"Fused{node.op_type}", inputs=first, outputs=[output])
            modified = True
        return PassResult(modified, misses)
