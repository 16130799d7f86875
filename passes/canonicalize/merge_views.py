"""``merge-views``: chains of Reshape, Squeeze, Unsqueeze and Flatten become one view with a constant target.

Reshape(Reshape(x, Concat(B, S, -1, 16)), …)  →  Reshape(x, [0, 0, 4, 16])
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import VIEWS, inserted_ones, reshape_target, view


class MergeViews(RewritePass):
    """The last view of a chain reads the chain's source, spelled as :func:`tilewright.passes.views.view` does."""

    name: ClassVar[str] = "merge-views"
    operators: ClassVar[frozenset[str]] = VIEWS

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        source, length = _source(node)
        shape = type_of(node.outputs[0]).shape
        if length == 1 and _is_canonical(node):
            return False
        new = view(rewriter, source, shape, before=node)
        if new is None:
            return Miss.at(node, f"{type_of(source)} → {type_of(node.outputs[0])} has two sizes that only a run knows")
        rewriter.replace(node.outputs[0], new)
        return True


def _source(node: ir.Node) -> tuple[ir.Value, int]:
    """What the chain of views that ends at ``node`` starts from, and how long it is."""
    length = 0
    current: ir.Node | None = node
    value = node.outputs[0]
    while current is not None and current.op_type in VIEWS and current.domain == "":
        value, length = required(current, 0), length + 1
        current = value.producer()
    return value, length


def _is_canonical(node: ir.Node) -> bool:
    x, target = type_of(required(node, 0)).shape, type_of(node.outputs[0]).shape
    if x == target or node.op_type == "Flatten" or len(node.inputs) < 2:
        return False
    added, removed = inserted_ones(x, target), inserted_ones(target, x)
    expected = added or removed or reshape_target(x, target)
    operator = "Unsqueeze" if added else "Squeeze" if removed else "Reshape"
    if expected is None:
        return False
    second = required(node, 1)
    return node.op_type == operator and is_constant(second) and constant_array(second).tolist() == expected
