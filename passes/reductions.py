"""What a Reduce operator reduces."""

from __future__ import annotations

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.passes.rewrite import required

#: Reductions of the default domain.
REDUCTIONS = frozenset(
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceSumSquare".split()
)


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes that ``node`` reduces, counted from the front and sorted; ``None`` when they are not constant."""
    x = required(node, 0)
    rank = type_of(x).rank
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None:
        if not is_constant(axes):
            return None
        numbers = [int(a) for a in constant_array(axes).reshape(-1)]
    else:
        numbers = list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else []
    if not numbers:
        skip = "noop_with_empty_axes" in node.attributes and bool(node.attributes["noop_with_empty_axes"].as_int())
        numbers = [] if skip else list(range(rank))
    return tuple(sorted(a % rank for a in numbers))


def kept_axes(node: ir.Node | None) -> tuple[int, ...] | None:
    """The reduced axes of a reduction that keeps them as sizes of 1; ``None`` otherwise."""
    if node is None or node.op_type not in REDUCTIONS:
        return None
    keep = "keepdims" not in node.attributes or bool(node.attributes["keepdims"].as_int())
    return reduced_axes(node) if keep else None
