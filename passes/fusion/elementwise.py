"""``fuse-elementwise``: a tree of operators that compute or move elements one by one becomes one node.

    Mul(Sub(1, Cast(Unsqueeze(mask))), -10000)                       →  FusedElementwise(mask)
    Concat(past, Add(Mul(x, cos), Mul(Concat(-x[h:], x[:h]), sin)))  →  FusedElementwise(past, x, cos, sin)

Movement (Transpose, Slice, Expand, views) is a way to read; a Concat is stored piece by piece. So a rotary embedding,
turned into heads and put behind the keys of the past, is one kernel for each of query and key. (They may have different
numbers of heads. In the product before it, the embedding would need both halves of a head in one register tile; in the
attention behind it, keys would be turned again for every block of queries.)

Check: every elementwise operator has as many elements as the result or as a piece of it (nothing is computed once per
broadcast copy), and all uses of each value between are inside.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import Accept, grow_backward, is_elementwise, moves
from tilewright.passes.rewrite import Rewriter, candidates
from tilewright.passes.views import VIEWS


class FuseElementwise(Pass):
    """Maximal regions with one output, from the last operator backwards."""

    name: ClassVar[str] = "fuse-elementwise"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in reversed(list(candidates(model, frozenset()))):
            if node.graph is None or not (is_elementwise(node) or _works(node)):
                continue
            region = _region(node)
            if len(region) < 2:
                misses.append(Miss.at(node, "no elementwise producer that only it reads and that has its shape"))
                continue
            reason = obstacle(order, region, node.outputs)
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            outline(rewriter, order, region, "FusedElementwise", outputs=node.outputs)
            modified = True
        return PassResult(modified, misses)


def _works(node: ir.Node) -> bool:
    """True for movement that has to be executed: views are not."""
    return (moves(node) and node.op_type not in VIEWS) or _is_rotation(node)


def _is_rotation(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "RotaryEmbedding"


def _region(node: ir.Node) -> list[ir.Node]:
    """``node`` and what it takes along; a Reshape in front of everything costs nothing by itself and stays outside."""
    region = dict.fromkeys(grow_backward([node], _producer(node)))
    pending = [n for n in region if n.op_type == "Reshape"]
    while pending:
        view = pending.pop()
        if not any(p in region for p in view.predecessors()):
            del region[view]
            pending += [n for n in view.successors() if n in region and n.op_type == "Reshape"]
    return list(region)


def _producer(root: ir.Node) -> Accept:
    """Accepts movement, and elementwise producers with as many elements as ``root`` or as a piece of it."""
    sizes: set[Expr] = {type_of(root.outputs[0]).elements} | set(_pieces(root))

    def accept(node: ir.Node) -> bool:
        if moves(node):
            sizes.update(_pieces(node))
            return True
        return (is_elementwise(node) or _is_rotation(node)) and type_of(node.outputs[0]).elements in sizes

    return accept


def _pieces(node: ir.Node) -> Collection[Expr]:
    """Numbers of elements of what a Concat joins."""
    if node.op_type != "Concat" or node.domain != "":
        return ()
    return {type_of(v).elements for v in node.inputs if v is not None}
