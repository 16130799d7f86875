"""``share-heads``: key and value heads that several query heads share are read where they are, not repeated.

    k: [B, KV, T, D], repeated G times to [B, KV·G, T, D] by Unsqueeze, Expand and Reshape
    MatMul(Softmax(MatMul(q, Transpose(repeated k)) · scale + mask), repeated v)
        →  MatMul(Softmax(MatMul(q as [B, KV, G, S, D], Unsqueeze(Transpose(k), 2)) · scale + mask), Unsqueeze(v, 2))
           as [B, KV·G, S, D]

Canonical form of grouped-query attention: five axes [batch, shared heads, group, query, key]; keys and values have 1 in
the group's place and are broadcast by the product, masks get an axis of 1 there. Everything between the two products
is elementwise or the softmax; a mask with one plane for each query head is split where constants can say it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.compose_transposes import permutation
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import reshape_target

_GROUP = 2


class _No(Exception):
    """What is between the products cannot be written with five axes; the message says why."""


class ShareHeads(RewritePass):
    """No copies of keys and values, however many query heads read them."""

    name: ClassVar[str] = "share-heads"
    operators: ClassVar[frozenset[str]] = frozenset(["MatMul"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        values = _repeated(required(node, 1))
        if values is None:
            return False
        try:
            plan = _Plan(type_of(values).shape[1].value, type_of(required(node, 1)).shape[1].value)
            plan.visit(required(node, 0))
        except _No as no:
            return Miss.at(node, str(no))
        build = _Build(node, rewriter, plan)
        result = build.product(build.grouped(required(node, 0)), values)
        output = type_of(node.outputs[0]).shape
        target = reshape_target(type_of(result).shape, output)
        assert target is not None  # the head size is known
        joined = rewriter.new("Reshape", [result, build.integers(target)], before=node)
        rewriter.replace(node.outputs[0], joined)
        return True


def _repeated(value: ir.Value) -> ir.Value | None:
    """[B, KV, T, D] when ``value`` is [B, KV·G, T, D] with each head repeated G > 1 times."""
    join = value.producer()
    if join is None or join.op_type != "Reshape" or type_of(value).rank != 4:
        return None
    expand = required(join, 0).producer()
    if expand is None or expand.op_type != "Expand":
        return None
    insert = required(expand, 0).producer()
    if insert is None or insert.op_type not in ("Unsqueeze", "Reshape"):
        return None
    source = required(insert, 0)
    shape, wide = type_of(source).shape, type_of(expand.outputs[0]).shape
    if len(shape) != 4 or type_of(insert.outputs[0]).shape != (*shape[:2], shape[0] * 0 + 1, *shape[2:]):
        return None
    if len(wide) != 5 or wide != (*shape[:2], wide[_GROUP], *shape[2:]) or not wide[_GROUP].is_constant:
        return None
    joined = (shape[0], shape[1] * wide[_GROUP], *shape[2:])
    known = shape[1].is_constant and shape[3].is_constant
    return source if type_of(value).shape == joined and known else None


@dataclass(slots=True)
class _Plan:
    """Which values between the two products get five axes: ``done`` holds them, producers first."""

    shared: int
    heads: int
    done: dict[ir.Value, ir.Node] = field(default_factory=dict)

    def visit(self, value: ir.Value) -> None:
        """Plan ``value``: [B, H, S, T]. Raises :class:`_No`."""
        if value in self.done:
            return
        node = value.producer()
        if node is None or node.domain != "" or value.is_graph_output():
            raise _No(f"{value.name} is an input, a constant or an output of the graph")
        if node.op_type == "MatMul":
            transposed = keys_of(node)
            if transposed is None or type_of(transposed).shape[1] != self.shared:
                raise _No(f"the keys of {value.name} are not repeated as the values are")
            if reshape_target(type_of(required(node, 0)).shape, self.split(required(node, 0))) is None:
                raise _No(f"{type_of(required(node, 0))} cannot be split by constants")
        elif node.op_type == "Softmax":
            if "axis" in node.attributes and node.attributes["axis"].as_int() not in (-1, 3):
                raise _No("the softmax does not run over the last axis")
            self.visit(required(node, 0))
        elif node.op_type in ELEMENTWISE:
            for operand in node.inputs:
                if operand is not None:
                    self._operand(operand)
        else:
            raise _No(f"{node.op_type} stands between the products")
        self.done[value] = node

    def _operand(self, operand: ir.Value) -> None:
        shape = type_of(operand).shape
        if len(shape) < 3 or (len(shape) == 4 and shape[1] == 1) or (len(shape) == 3 and shape[0] == 1):
            return
        before = dict(self.done)
        try:
            self.visit(operand)
        except _No:
            if len(shape) != 4 or reshape_target(shape, self.split(operand)) is None:
                raise
            self.done = before

    def split(self, value: ir.Value) -> tuple[ir.Expr, ...]:  # type: ignore[name-defined]
        """The shape of a value with H in its second place, with KV and G there."""
        shape = type_of(value).shape
        group = self.heads // self.shared
        return (shape[0], shape[0] * 0 + self.shared, shape[0] * 0 + group, *shape[2:])


def keys_of(product: ir.Node) -> ir.Value | None:
    """[B, KV, T, D] when the right operand of ``product`` is the transpose of its repetition."""
    transpose = required(product, 1).producer()
    if transpose is None or transpose.op_type != "Transpose" or permutation(transpose) != (0, 1, 3, 2):
        return None
    return _repeated(required(transpose, 0))


@dataclass(slots=True)
class _Build:
    """Makes what was planned."""

    node: ir.Node
    rewriter: Rewriter
    plan: _Plan
    made: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def integers(self, values: list[int]) -> ir.Value:
        return self.rewriter.constant(np.array(values, np.int64), "integers")

    def product(self, left: ir.Value, right: ir.Value) -> ir.Value:
        wide = self.rewriter.new("Unsqueeze", [right, self.integers([_GROUP])], before=self.node)
        return self.rewriter.new("MatMul", [left, wide], before=self.node)

    def split(self, value: ir.Value) -> ir.Value:
        target = reshape_target(type_of(value).shape, self.plan.split(value))
        assert target is not None
        return self.rewriter.new("Reshape", [value, self.integers(target)], before=self.node)

    def grouped(self, value: ir.Value) -> ir.Value:
        """``value`` with five axes."""
        if value not in self.made:
            self.made[value] = self._make(self.plan.done[value])
        return self.made[value]

    def _make(self, node: ir.Node) -> ir.Value:
        keys = keys_of(node) if node.op_type == "MatMul" else None
        if keys is not None:
            order = {"perm": [0, 1, 3, 2]}
            transposed = self.rewriter.new("Transpose", [keys], before=self.node, attributes=order)
            return self.product(self.split(required(node, 0)), transposed)
        attributes = {n: a.value for n, a in node.attributes.items()} | (
            {"axis": -1} if node.op_type == "Softmax" else {}
        )
        inputs = [None if v is None else self._operand(v) for v in node.inputs]
        return self.rewriter.new(node.op_type, inputs, before=self.node, attributes=attributes)

    def _operand(self, value: ir.Value) -> ir.Value:
        shape = type_of(value).shape
        if value in self.plan.done:
            return self.grouped(value)
        if len(shape) < 3:
            return value
        if len(shape) == 4 and shape[1] != 1:
            return self.split(value)
        axes = self.integers([_GROUP if len(shape) == 4 else 0])
        return self.rewriter.new("Unsqueeze", [value, axes], before=self.node)
