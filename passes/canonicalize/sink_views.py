"""``sink-views``: a view that merges rows moves behind what works row by row, to cancel with the next view.

    Reshape(MatMul(Reshape(x: [B,S,H] → [B·S,H]), W) + b → [B,S,N])   →   MatMul(x, W) + b: [B,S,N]
    Gelu(Reshape(p: [B,S,N] → [B·S,N]))                               →   Reshape(Gelu(p))

Exporters flatten the rows of a batch in front of a product and split them again behind it (``Conv1D``); between the two
views no residual and no activation finds its product. Check: the view only merges sizes, the operator works on rows
(products with a matrix, elementwise, quantization, normalization and softmax of the last axis, splits of it), whatever
else it reads is one row or another such view of the same sizes, and the moved view needs no sizes that only a run
knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.compose_transposes import merged_groups
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.quantized import parameters
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import Shape, reshape_target, view

#: Operators that work on each row of the last axis when their ``axis`` is that axis; their parameters are one row.
_LAST_AXIS = {"LayerNormalization": -1, "RMSNormalization": -1, "Softmax": -1, "LogSoftmax": -1, "Split": 0}
#: Elementwise with one scale; with a scale a column, on each row.
_QUANTIZATION = frozenset(["QuantizeLinear", "DequantizeLinear"])


@dataclass(frozen=True, slots=True)
class _Merged:
    """A value whose rows were merged: what it is a view of, and the shape that this has with its rows apart."""

    source: ir.Value
    rows: Shape


class SinkViews(RewritePass):
    """Rows keep the sizes they come with."""

    name: ClassVar[str] = "sink-views"
    operators: ClassVar[frozenset[str]] = ELEMENTWISE | _LAST_AXIS.keys() | _QUANTIZATION | {"MatMul"}

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        merged = [None if v is None else _merged(v) for v in node.inputs]
        first = next((i for i, m in enumerate(merged) if m is not None), None)
        if first is None or (found := merged[first]) is None:
            return False
        flat = type_of(required(node, first)).shape
        if not _works_on_rows(node, merged, found.rows, flat):
            return Miss.at(node, f"it does not work on each row of {type_of(found.source)} by itself")
        shapes = [type_of(o).shape for o in node.outputs]
        if any(shape[:-1] != flat[:-1] for shape in shapes):
            return Miss.at(node, "its result has other rows")
        if any(reshape_target((*found.rows[:-1], shape[-1]), shape) is None for shape in shapes):
            return Miss.at(node, f"two sizes of {type_of(node.outputs[0])} are known at run time only")
        inputs = [
            v if m is None else view(rewriter, m.source, m.rows, before=node)
            for v, m in zip(node.inputs, merged, strict=True)
        ]
        attributes = {name: a.value for name, a in node.attributes.items()}
        if node.op_type in _LAST_AXIS:
            attributes["axis"] = -1
        elif "axis" in attributes:  # of one that quantizes
            attributes["axis"] = len(found.rows) - 1
        results = rewriter.new_all(node.op_type, inputs, before=node, outputs=len(node.outputs), attributes=attributes)
        moved = [view(rewriter, new, shape, before=node) for new, shape in zip(results, shapes, strict=True)]
        for old, new in zip(list(node.outputs), moved, strict=True):
            assert new is not None
            rewriter.replace(old, new)
        return True


def _merged(value: ir.Value) -> _Merged | None:
    """``value`` as a view that merges rows, if it is one. What it joins into the last axis is joined without rows."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in ("Reshape", "Squeeze", "Flatten"):
        return None
    source, shape = required(node, 0), type_of(value).shape
    before = type_of(source).shape
    groups = merged_groups(before, shape)
    if not groups or not groups[-1]:
        return None
    rows = (*before[: groups[-1][0]], shape[-1])
    if len(rows) <= len(shape) or reshape_target(before, rows) is None:
        return None
    return _Merged(source, rows)


def _works_on_rows(node: ir.Node, merged: Sequence[_Merged | None], rows: Shape, flat: Shape) -> bool:
    """True when ``node`` does the same to each row of its merged operands, whatever sizes the rows are counted by."""
    if node.op_type == "MatMul":
        return merged[0] is not None and merged[1] is None and type_of(required(node, 1)).rank == 2
    if node.op_type in _LAST_AXIS:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else _LAST_AXIS[node.op_type]
        alone = merged[0] is not None and not any(m is not None for m in merged[1:])
        return alone and axis % len(flat) == len(flat) - 1 and not any(_is_read(o) for o in _statistics(node))
    if node.op_type in _QUANTIZATION:
        p = parameters(node)
        if merged[0] is None or p.block or p.axis not in (None, len(flat) - 1):
            return False
    for value, m in zip(node.inputs, merged, strict=True):
        if value is None:
            continue
        shape = type_of(value).shape
        if m is not None and m.rows[:-1] == rows[:-1] and shape[:-1] == flat[:-1]:
            continue
        if m is not None or any(s != 1 for s in shape[:-1]) or len(shape) > len(rows):
            return False
    return True


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _statistics(node: ir.Node) -> list[ir.Value]:
    """Outputs besides the normalized rows: they have no last axis."""
    return list(node.outputs[1:]) if node.op_type.endswith("Normalization") else []
