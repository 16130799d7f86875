"""``fuse-softmax``: a softmax takes the elementwise operators before and after it.

    Softmax(x · scale + mask)  →  FusedSoftmax(x, mask)

Check: they keep the shape of the softmax and nothing else reads what lies between. Attention comes first.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import grow_backward, grow_forward, keeps_shape
from tilewright.passes.rewrite import Rewriter, candidates


class FuseSoftmax(Pass):
    """Each row is read once."""

    name: ClassVar[str] = "fuse-softmax"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, frozenset(["Softmax", "LogSoftmax"]))):
            accept = keeps_shape(node.outputs[0])
            before = grow_backward([node], accept)
            region, output, reasons = grow_forward(order, before, node.outputs[0], accept)
            misses += reasons
            reason = obstacle(order, region, [output]) if len(region) > 1 else "no elementwise neighbour"
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            outline(rewriter, order, region, "FusedSoftmax", outputs=[output])
            modified = True
        return PassResult(modified, misses)
