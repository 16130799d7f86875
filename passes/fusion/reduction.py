"""``fuse-reduction``: reductions over the same axes, with what feeds them and what reads them, become one node.

    ReduceSum(h · m, 1) / Max(ReduceSum(m, 1), ε)        →  FusedReduction(h, m)        masked mean pooling
    x / Max(Sqrt(ReduceSum(x · x, -1)), ε)               →  FusedReduction(x)           L2 normalization

Check: all reductions of a node reduce the same axes of the same index domain (sizes equal or 1), elementwise operators
have the shape of that domain or of the result, and nothing else reads what lies between.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import Accept, grow_backward, grow_forward, is_elementwise, visible
from tilewright.passes.reductions import REDUCTIONS, reduced_axes
from tilewright.passes.rewrite import Rewriter, candidates, required
from tilewright.passes.views import Shape

_MOVEMENT = frozenset(["Expand", "Unsqueeze", "Squeeze"])
#: Nodes after a reduction among which another one may join it: what one formula is made of stands together.
_NEAR = 40


class FuseReduction(Pass):
    """One pass over the domain per reduction, nothing of its size in memory."""

    name: ClassVar[str] = "fuse-reduction"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, REDUCTIONS)):
            if node.graph is None:
                continue
            region, reason = _region(order, node)
            outputs = visible(region)
            reason = reason or obstacle(order, region, outputs)
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            outline(rewriter, order, region, "FusedReduction", outputs=outputs)
            modified = True
        return PassResult(modified, misses)


def _region(order: Order, node: ir.Node) -> tuple[list[ir.Node], str | None]:
    """The largest region with one output: with all reductions like ``node``, else with ``node`` alone."""
    axes = reduced_axes(node)
    if axes is None:
        return [node], "its axes are not constant"
    accept = _accept(node, axes)
    for anchors in ([node, *_like(order, node, axes)], [node]):
        before = grow_backward(anchors, accept)
        region, _, _ = grow_forward(order, before, node.outputs[0], accept)
        region = grow_backward(region, accept)
        if len(visible(region)) == 1 and len(region) > 1:
            return region, None
    return [node], "no elementwise neighbour that only it touches"


def _like(order: Order, node: ir.Node, axes: tuple[int, ...]) -> list[ir.Node]:
    """Reductions soon after ``node`` over the same axes of the same domain that do not depend on it."""
    domain = _domain(node)
    after: set[ir.Node] = {node}
    found = []
    for other in order.following(node, _NEAR):
        if any(p in after for p in other.predecessors()):
            after.add(other)
        elif _reduces(other, axes) and _same_domain(_domain(other), domain):
            found.append(other)
    return found


def _reduces(node: ir.Node, axes: tuple[int, ...]) -> bool:
    return node.op_type in REDUCTIONS and node.domain == "" and reduced_axes(node) == axes


def _same_domain(a: Shape, b: Shape) -> bool:
    return _fits(a, b) or _fits(b, a)


def _domain(node: ir.Node) -> Shape:
    x = required(node, 0)
    return type_of(x).shape


def _fits(shape: Shape, domain: Shape) -> bool:
    """True when ``shape`` is ``domain`` with some sizes replaced by 1 (leading ones may be missing)."""
    tail = domain[len(domain) - len(shape) :] if len(shape) <= len(domain) else ()
    return len(tail) == len(shape) and all(s in (1, d) for s, d in zip(shape, tail, strict=True))


def _accept(node: ir.Node, axes: tuple[int, ...]) -> Accept:
    domain = _domain(node)
    kept = tuple(size for axis, size in enumerate(domain) if axis not in axes)

    def accept(other: ir.Node) -> bool:
        shape = type_of(other.outputs[0]).shape
        movement = other.domain == "" and other.op_type in _MOVEMENT
        return (movement or is_elementwise(other)) and (_fits(shape, domain) or _fits(shape, kept))

    return accept
