"""``fuse-elementwise``: a tree of elementwise operators becomes one node.

    Mul(Sub(1, Cast(Unsqueeze(mask))), -10000)   →  FusedElementwise(mask)

Check: every operator has as many elements as the result (nothing is computed once per broadcast copy), movement of the
data (Transpose, Expand, Unsqueeze) comes along, and all uses of each value between are inside.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import Accept, grow_backward, is_elementwise
from tilewright.passes.rewrite import Rewriter, candidates

#: Movement with affine index maps; a Reshape costs nothing by itself and stays outside.
_MOVEMENT = frozenset(["Transpose", "Expand", "Unsqueeze", "Squeeze"])


class FuseElementwise(Pass):
    """Maximal regions with one output, from the last operator backwards."""

    name: ClassVar[str] = "fuse-elementwise"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in reversed(list(candidates(model, frozenset()))):
            if node.graph is None or not is_elementwise(node):
                continue
            region = grow_backward([node], elementwise_producer(node.outputs[0]))
            if sum(is_elementwise(n) for n in region) < 2 and len(region) < 2:
                misses.append(Miss.at(node, "no elementwise producer that only it reads and that has its shape"))
                continue
            reason = obstacle(order, region, node.outputs)
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            outline(rewriter, order, region, "FusedElementwise", outputs=node.outputs)
            modified = True
        return PassResult(modified, misses)


def elementwise_producer(output: ir.Value) -> Accept:
    """Accepts elementwise producers with as many elements as ``output``, and movement of at most so many."""
    elements = type_of(output).elements

    def accept(node: ir.Node) -> bool:
        if node.domain == "" and node.op_type in _MOVEMENT:
            return True
        return is_elementwise(node) and type_of(node.outputs[0]).elements == elements

    return accept
