"""What quantizes a value, as fusion sees it: QuantizeLinear, and what computes a scale from the value itself."""

from __future__ import annotations

import onnx_ir as ir
from tilewright.ir.graph import consumers, is_constant, type_of
from tilewright.ir.late import is_late
from tilewright.passes.reductions import reduced_axes

#: What a scale of a row is made of.
_SCALE = frozenset("Abs ReduceMax ReduceMin Max Min Div Mul Add Sub Neg Sqrt Cast Reciprocal".split())
_MOST_NODES = 12


def quantizers(value: ir.Value) -> list[ir.Node]:
    """The nodes that quantize ``value``, with those that compute the scale of each row of it from nothing else."""
    found: dict[ir.Node, None] = {}
    for reader in consumers(value):
        if reader.op_type != "QuantizeLinear" or reader.domain != "" or is_late(reader):
            continue
        if reader.inputs[0] is not value:
            continue
        parameters = [v for v in reader.inputs[1:] if v is not None and not is_constant(v)]
        chains = [_from(value, parameter) for parameter in parameters]
        if all(chain is not None for chain in chains):
            found.update(dict.fromkeys(n for chain in chains for n in chain or ()))
            found[reader] = None
    return list(found)


def _from(value: ir.Value, scale: ir.Value) -> list[ir.Node] | None:
    """The nodes that make ``scale`` of ``value`` and constants, row by row; ``None`` where it hangs on more."""
    found: dict[ir.Node, None] = {}
    pending = [scale]
    while pending:
        current = pending.pop()
        if current is value or is_constant(current):
            continue
        node = current.producer()
        if node is None or node.op_type not in _SCALE or node.domain != "" or is_late(node):
            return None
        if node.op_type.startswith("Reduce") and not _over_rows(node):
            return None
        found[node] = None
        if len(found) > _MOST_NODES:
            return None
        pending += [v for v in node.inputs if v is not None]
    return list(found)


def _over_rows(node: ir.Node) -> bool:
    """Whether a reduction is over the last axis alone."""
    axes, x = reduced_axes(node), node.inputs[0]
    return axes is not None and x is not None and tuple(axes) == (type_of(x).rank - 1,)
