"""``fuse-gated-matmul``: two products of the same rows whose results meet element by element become one kernel.

    Mul(Mul(g, Sigmoid(g)), u)  with  g = MatMul(x, W1), u = MatMul(x, W3)   →   FusedGatedMatMul(x, W1, W3)    (SwiGLU)

Check: both read the same rows, have constant weights and the same shape, and between them and the one result there are
only elementwise operators of that shape which nothing else reads. Each block of rows is read once for both products
and neither product is in memory whole; one after the other, the second kernel would read the first one's result.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import Accept, grow_backward, grow_forward, keeps_shape, visible
from tilewright.passes.rewrite import Rewriter, candidates, required


class FuseGatedMatMul(Pass):
    """One kernel with two sums over the same rows."""

    name: ClassVar[str] = "fuse-gated-matmul"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        # Last first: where the branches meet, the product that is ready last has the other one behind it.
        for node in reversed(list(candidates(model, frozenset(["MatMul"])))):
            if node.graph is None:
                continue
            region = _region(order, node)
            products = [n for n in order.sorted(region) if n.op_type == "MatMul"]
            if len(products) < 2:
                misses.append(Miss.at(node, "its result meets no other product of the same rows, or not only"))
                continue
            outputs = visible(region)
            reason = obstacle(order, region, outputs) if len(outputs) == 1 else "it has more than one result"
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            first = [required(node, 0), *(required(p, 1) for p in products)]
            outline(rewriter, order, region, "FusedGatedMatMul", inputs=first, outputs=outputs)
            modified = True
        return PassResult(modified, misses)


def _region(order: Order, node: ir.Node) -> list[ir.Node]:
    """What follows ``node``, what else feeds that with at most one more product, and what follows the two."""
    start = node.outputs[0]
    accept = keeps_shape(start)
    region, _, _ = grow_forward(order, [node], start, accept)
    if len(region) == 1 or not is_constant(required(node, 1)):
        return region
    region = grow_backward(region, _sibling(node, accept))
    outputs = visible(region)
    if len(outputs) == 1:
        region, _, _ = grow_forward(order, region, outputs[0], accept)
    return region


def _sibling(node: ir.Node, elementwise: Accept) -> Accept:
    """Accepts elementwise producers, and one product that reads the same rows as ``node``."""
    rows, shape = required(node, 0), type_of(node.outputs[0]).shape
    found: list[ir.Node] = []

    def accept(other: ir.Node) -> bool:
        if other.op_type != "MatMul" or other.domain != "":
            return elementwise(other)
        if other.inputs[0] is not rows or not is_constant(required(other, 1)) or found:
            return False
        if type_of(other.outputs[0]).shape != shape:
            return False
        found.append(other)
        return True

    return accept
