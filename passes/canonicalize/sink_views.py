"""``sink-views``: a view that only merges leading sizes moves behind what works row by row, to cancel with the next view.

    Reshape(MatMul(Reshape(x: [B,S,H] → [B·S,H]), W) + b → [B,S,N])   →   MatMul(x, W) + b: [B,S,N]
    Gelu(Reshape(p: [B,S,N] → [B·S,N]))                               →   Reshape(Gelu(p))

Exporters flatten the rows of a batch in front of a product and split them again behind it (``Conv1D``); between the two
views no residual and no activation finds its product. Check: the view keeps the last size, the operator works on rows
(products with a matrix, elementwise, normalization and softmax of the last axis, splits of it), whatever else it reads
is one row or another such view of the same sizes, and the moved view needs no sizes that only a run knows.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.compose_transposes import merged_groups
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import Shape, reshape_target, view

#: Operators that work on each row of the last axis when their ``axis`` is that axis; their parameters are one row.
_LAST_AXIS = {"LayerNormalization": -1, "RMSNormalization": -1, "Softmax": -1, "LogSoftmax": -1, "Split": 0}


class SinkViews(RewritePass):
    """Rows keep the sizes they come with."""

    name: ClassVar[str] = "sink-views"
    operators: ClassVar[frozenset[str]] = ELEMENTWISE | _LAST_AXIS.keys() | {"MatMul"}

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        sources = [None if v is None else _before_merge(v) for v in node.inputs]
        source = next((s for s in sources if s is not None), None)
        if source is None:
            return False
        rows, flat = type_of(source).shape, _flat_shape(node, sources)
        inputs = _unflattened(node, sources, rows, flat)
        if inputs is None:
            return Miss.at(node, f"it does not work on each row of {type_of(source)} by itself")
        shapes = [type_of(o).shape for o in node.outputs]
        if any(shape[:-1] != flat[:-1] for shape in shapes):
            return Miss.at(node, "its result has other rows")
        if any(reshape_target((*rows[:-1], shape[-1]), shape) is None for shape in shapes):
            return Miss.at(node, f"two sizes of {type_of(node.outputs[0])} are known at run time only")
        attributes = {name: a.value for name, a in node.attributes.items()}
        if node.op_type in _LAST_AXIS:
            attributes["axis"] = -1
        results = rewriter.new_all(node.op_type, inputs, before=node, outputs=len(node.outputs), attributes=attributes)
        moved = [view(rewriter, new, shape, before=node) for new, shape in zip(results, shapes, strict=True)]
        for old, new in zip(list(node.outputs), moved, strict=True):
            assert new is not None
            rewriter.replace(old, new)
        return True


def _before_merge(value: ir.Value) -> ir.Value | None:
    """What ``value`` is a view of, if that view merges leading sizes and keeps the last one."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in ("Reshape", "Squeeze", "Flatten"):
        return None
    source, shape = required(node, 0), type_of(value).shape
    before = type_of(source).shape
    if not shape or len(before) <= len(shape) or before[-1] != shape[-1]:
        return None
    return source if merged_groups(before[:-1], shape[:-1]) is not None else None


def _flat_shape(node: ir.Node, sources: list[ir.Value | None]) -> Shape:
    """The shape of the first merged operand."""
    first = next(i for i, s in enumerate(sources) if s is not None)
    return type_of(required(node, first)).shape


def _unflattened(
    node: ir.Node, sources: list[ir.Value | None], rows: Shape, flat: Shape
) -> list[ir.Value | None] | None:
    """The operands of ``node`` on rows as they were before they were merged; ``None`` if it does not work on rows."""
    if node.op_type in _LAST_AXIS or node.op_type == "MatMul":
        return _row_operands(node, sources, len(flat))
    inputs: list[ir.Value | None] = []
    for value, source in zip(node.inputs, sources, strict=True):
        if value is None:
            inputs.append(None)
        elif source is not None and type_of(source).shape[:-1] == rows[:-1] and type_of(value).shape[:-1] == flat[:-1]:
            inputs.append(source)
        elif all(s == 1 for s in type_of(value).shape[:-1]) and type_of(value).rank <= len(rows):
            inputs.append(value)
        else:
            return None
    return inputs


def _row_operands(node: ir.Node, sources: list[ir.Value | None], rank: int) -> list[ir.Value | None] | None:
    """Operands of a product with a matrix or of an operator along the last axis; only the first may be merged rows."""
    if sources[0] is None or (node.op_type == "MatMul" and type_of(required(node, 1)).rank != 2):
        return None
    if node.op_type in _LAST_AXIS:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else _LAST_AXIS[node.op_type]
        if axis % rank != rank - 1 or any(o.uses() or o.is_graph_output() for o in _statistics(node)):
            return None
    return [sources[0], *node.inputs[1:]]


def _statistics(node: ir.Node) -> list[ir.Value]:
    """Outputs besides the normalized rows: they have no last axis."""
    return list(node.outputs[1:]) if node.op_type.endswith("Normalization") else []
