"""``compose-transposes``: chains of Transpose become one, also through a Reshape that only merges sizes.

Transpose(Transpose(x))                              →  Transpose(x)
Transpose<0,2,1>(Reshape(x: [B,H,S,D] → [B·H,S,D]))  →  Reshape(Transpose<0,1,3,2>(x))
Reshape(Transpose<0,2,1,3>(Reshape(x: [B,K,G,S,D] → [B,K·G,S,D])) → [B,S,K·G·D])  →  Reshape(Transpose<0,3,1,2,4>(x))
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import only_consumer, type_of
from tilewright.ir.symbolic import product
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import Shape, reshape_target, view


class ComposeTransposes(RewritePass):
    """Movement collects into one Transpose followed by one view, which ``merge-views`` can then cancel."""

    name: ClassVar[str] = "compose-transposes"
    operators: ClassVar[frozenset[str]] = frozenset(["Transpose"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        x = required(node, 0)
        shape, perm = type_of(x).shape, permutation(node)
        if [p for p in perm if shape[p] != 1] == sorted(p for p in perm if shape[p] != 1):
            new = view(rewriter, x, type_of(node.outputs[0]).shape, before=node)  # only sizes of 1 move
            if new is None:
                return False
            rewriter.replace(node.outputs[0], new)
            return True
        inner = x.producer()
        if inner is None or inner.domain != "":
            return False
        if inner.op_type == "Transpose":
            first = permutation(inner)
            new = rewriter.new(
                "Transpose", [inner.inputs[0]], before=node, attributes={"perm": [first[p] for p in perm]}
            )
            rewriter.replace(node.outputs[0], new)
            return True
        return _through_merge(node, inner, perm, rewriter) if inner.op_type == "Reshape" else False


def permutation(node: ir.Node) -> tuple[int, ...]:
    """The permutation of a Transpose; reversed axes when it has no attribute."""
    x = required(node, 0)
    if "perm" in node.attributes:
        return tuple(node.attributes["perm"].as_ints())
    return tuple(reversed(range(type_of(x).rank)))


def _through_merge(node: ir.Node, reshape: ir.Node, perm: tuple[int, ...], rewriter: Rewriter) -> bool | Miss:
    """Only where a Reshape follows: it is there that the two views may cancel."""
    x, follower = reshape.inputs[0], only_consumer(node.outputs[0])
    assert x is not None
    if follower is None or follower.op_type != "Reshape":
        return False
    groups = merged_groups(type_of(x).shape, type_of(reshape.outputs[0]).shape)
    if groups is None:
        return Miss.at(
            node, f"the Reshape before it, {type_of(x)} → {type_of(reshape.outputs[0])}, does not only merge"
        )
    expanded = [axis for p in perm for axis in groups[p]]
    moved, wanted = tuple(type_of(x).shape[a] for a in expanded), type_of(follower.outputs[0]).shape
    target = reshape_target(moved, wanted)
    if merged_groups(moved, wanted) is None or target is None:
        return Miss.at(node, "the Reshape after it neither splits what the Reshape before it merged nor merges more")
    new = rewriter.new("Transpose", [x], before=node, attributes={"perm": expanded})
    if moved != wanted:
        shape = rewriter.constant(np.array(target, np.int64), "shape")
        new = rewriter.new("Reshape", [new, shape], before=node)
    rewriter.replace(follower.outputs[0], new)
    return True


def merged_groups(source: Shape, target: Shape) -> list[list[int]] | None:
    """For each size of ``target`` the consecutive axes of ``source`` whose product it is; ``None`` if it is not so."""
    groups: list[list[int]] = []
    i = 0
    for size in target:
        group: list[int] = []
        while i < len(source) and not (group and product(source[a] for a in group) == size):
            group.append(i)
            i += 1
        if product(source[a] for a in group) != size:
            return None
        groups.append(group)
    if any(source[a] != 1 for a in range(i, len(source))):
        return None
    if i < len(source):
        if not groups:
            return None
        groups[-1] += range(i, len(source))
    return groups
