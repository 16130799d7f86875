"""``sink-flattening``: rows of a matrix keep the axes that they are made of.

    Reshape(MatMul(Reshape(x: [B,S,K] → [B·S,K]), W) + b: [B·S,N] → [B,S,N])  →  MatMul(x, W) + b

A Reshape that merges leading axes moves behind the operators that treat rows one by one (products with a matrix,
elementwise operators, softmax and norms over the last axis), until it meets the Reshape that undoes it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.compose_transposes import merged_groups
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import Shape, reshape_target

_LAST_AXIS = frozenset(["Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"])


class SinkFlattening(RewritePass):
    """Batch and sequence stay apart, as head splitting and residuals have them."""

    name: ClassVar[str] = "sink-flattening"
    operators: ClassVar[frozenset[str]] = ELEMENTWISE | _LAST_AXIS | {"MatMul"}

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        rows = next((r for r in map(unflattened, node.inputs[:3]) if r is not None), None)
        if rows is None or len(node.outputs) > 1 or type_of(node.outputs[0]).rank != 2:
            return False
        reason = _obstacle(node, rows)
        if reason:
            return Miss.at(node, reason)
        output = type_of(node.outputs[0]).shape
        target = reshape_target((*rows[:-1], output[-1]), output)
        if target is None:
            return False
        inputs = [_operand(v, node, rewriter) for v in node.inputs]
        attributes = {n: a.value for n, a in node.attributes.items()}
        if node.op_type in _LAST_AXIS:
            attributes["axis"] = -1
        new = rewriter.new(node.op_type, inputs, before=node, attributes=attributes)
        rewriter.replace(node.outputs[0], _reshaped(new, target, node, rewriter))
        return True


def unflattened(value: ir.Value | None) -> Shape | None:
    """[…, K] when ``value`` is a Reshape to [M, K] of something whose leading axes have M rows, two axes or more."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Reshape" or node.domain != "" or type_of(value).rank != 2:
        return None
    shape, columns = type_of(required(node, 0)).shape, type_of(value).shape[1]
    groups = merged_groups(shape, type_of(value).shape)
    if groups is None or len(groups[0]) < 2:
        return None
    rows = (*(shape[a] for a in groups[0]), columns)
    return rows if rows == shape or reshape_target(shape, rows) is not None else None


def _obstacle(node: ir.Node, rows: Shape) -> str:
    """Why an operand cannot have the axes ``rows``; empty when all can."""
    first = unflattened(node.inputs[0])
    if node.op_type == "MatMul":
        fits = first is not None and type_of(required(node, 1)).rank == 2
        return "" if fits else "the flattened operand is not the one whose rows are multiplied"
    if node.op_type in _LAST_AXIS:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return "" if first is not None and axis in (-1, 1) else "it does not run over the last axis of what is flat"
    for value in node.inputs:
        own = unflattened(value)
        if value is None or (own is not None and own[:-1] == rows[:-1]):
            continue
        if type_of(value).rank > 1 and type_of(value).shape[0] != 1:
            return f"{value.name} has rows that are not split"
    return ""


def _operand(value: ir.Value | None, node: ir.Node, rewriter: Rewriter) -> ir.Value | None:
    """``value`` as it was before its rows were flattened."""
    rows = unflattened(value)
    if value is None or rows is None:
        return value
    producer = value.producer()
    assert producer is not None
    source = required(producer, 0)
    if type_of(source).shape == rows:
        return source
    target = reshape_target(type_of(source).shape, rows)
    assert target is not None  # unflattened has asked
    return _reshaped(source, target, node, rewriter)


def _reshaped(value: ir.Value, target: list[int], node: ir.Node, rewriter: Rewriter) -> ir.Value:
    shape = rewriter.constant(np.array(target, np.int64), "shape")
    return rewriter.new("Reshape", [value, shape], before=node)
