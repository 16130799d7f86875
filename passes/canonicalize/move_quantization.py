"""``move-quantization``: what only moves elements, or picks the largest, works on integers.

    MatMul(x, Transpose(DQ(W, s, z)))       →  MatMul(x, DQ(Transpose(W), s, z))     W is transposed while compiling
    MaxPool(DQ(x, s, z))                    →  DQ(MaxPool(x), s, z)
    Concat(DQ(a, s, z), DQ(b, s, z))        →  DQ(Concat(a, b), s, z)
    Q(Transpose(Reshape(x)), s, z)          →  Transpose(Reshape(Q(x, s, z)))

So a DequantizeLinear stands next to what computes with its numbers, a QuantizeLinear next to what made them, and
what is between moves a byte an element. Check: one scale, or scales along an axis that the movement leaves whole;
MaxPool and Concat: one scale, a positive constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.compose_transposes import merged_groups, permutation
from tilewright.passes.quantized import (
    dequantize_of,
    dequantized,
    is_ordinary,
    is_quantize,
    parameters,
    same_parameters,
)
from tilewright.passes.rewrite import RewritePass, Rewriter, required

#: Where an axis of the input of a movement is in its output; ``None`` where it is not whole.
_Axis = Callable[[ir.Node, int], int | None]


class MoveQuantization(RewritePass):
    """DequantizeLinear goes down, QuantizeLinear up."""

    name: ClassVar[str] = "move-quantization"
    operators: ClassVar[frozenset[str]] = frozenset(
        "Concat Expand Flatten Gather MaxPool Reshape Slice Split Squeeze Transpose Unsqueeze QuantizeLinear".split()
    )

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if is_quantize(node):
            return _quantize_first(node, rewriter)
        if node.op_type == "Concat":
            return _concatenated(node, rewriter)
        if node.op_type == "Gather" and dequantize_of(node.inputs[1]) is not None:
            return False
        inner = dequantize_of(required(node, 0))
        if inner is None or len([o for o in node.outputs if o.uses() or o.is_graph_output()]) == 0:
            return False
        p = parameters(inner)
        if node.op_type == "MaxPool" and (len(node.outputs) > 1 or p.axis is not None or not is_ordinary(p.scale)):
            return Miss.at(node, "several scales, or one that is no positive constant, do not keep the order")
        if type_of(required(inner, 0)).dtype.bits > 8 and node.op_type == "MaxPool":
            return Miss.at(node, "of integers it takes 8 bits only")
        axis = None if p.axis is None else _AXES.get(node.op_type, _nowhere)(node, p.axis)
        if p.axis is not None and (axis is None or p.block):
            return Miss.at(node, "its scales lie along an axis that is not whole afterwards")
        attributes = {name: a.value for name, a in node.attributes.items()}
        inputs = [required(inner, 0), *node.inputs[1:]]
        moved = rewriter.new_all(node.op_type, inputs, before=node, outputs=len(node.outputs), attributes=attributes)
        for old, new in zip(list(node.outputs), moved, strict=True):
            rewriter.replace(old, dequantized(rewriter, new, p, before=node, axis=axis))
        return True


# -- where an axis goes --------------------------------------------------------------------------------------------


def _transposed(node: ir.Node, axis: int) -> int | None:
    return permutation(node).index(axis)


def _viewed(node: ir.Node, axis: int) -> int | None:
    """The axis of the result that is this one and no other."""
    before, after = type_of(required(node, 0)).shape, type_of(node.outputs[0]).shape
    merged = merged_groups(before, after)
    if merged is not None:
        found = [d for d, group in enumerate(merged) if axis in group]
        return found[0] if found and all(g == axis or before[g] == 1 for g in merged[found[0]]) else None
    split = merged_groups(after, before)
    if split is None or axis >= len(split):
        return None
    own = [d for d in split[axis] if after[d] != 1]
    return own[0] if len(own) == 1 and after[own[0]] == before[axis] else None


def _sliced(node: ir.Node, axis: int) -> int | None:
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    rank = type_of(required(node, 0)).rank
    if axes is None:
        starts = type_of(required(node, 1)).shape[0]
        return axis if starts.is_constant and axis >= starts.value else None
    if not is_constant(axes):
        return None
    return axis if axis not in [a % rank for a in constant_array(axes).reshape(-1).tolist()] else None


def _gathered(node: ir.Node, axis: int) -> int | None:
    rank = type_of(required(node, 0)).rank
    along = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank
    if axis == along:
        return None
    return axis if axis < along else axis + type_of(required(node, 1)).rank - 1


def _split(node: ir.Node, axis: int) -> int | None:
    rank = type_of(required(node, 0)).rank
    return axis if axis != (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank else None


def _nowhere(node: ir.Node, axis: int) -> int | None:
    return None


_AXES: dict[str, _Axis] = {
    "Transpose": _transposed,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _viewed),
    "Slice": _sliced,
    "Gather": _gathered,
    "Split": _split,
}


# -- several operands ----------------------------------------------------------------------------------------------


def _concatenated(node: ir.Node, rewriter: Rewriter) -> bool | Miss:
    inner = [dequantize_of(v) for v in node.inputs]
    given = [n for n in inner if n is not None]
    if not given or len(given) < len(inner):
        return False
    each = [parameters(n) for n in given]
    same = all(same_parameters(each[0], p) for p in each) and len({type_of(required(n, 0)).dtype for n in given}) == 1
    if each[0].axis is not None or not same:
        return Miss.at(node, "its operands have different scales or zero points")
    axis = {"axis": node.attributes["axis"].as_int()}
    joined = rewriter.new("Concat", [required(n, 0) for n in given], before=node, attributes=axis)
    rewriter.replace(node.outputs[0], dequantized(rewriter, joined, each[0], before=node))
    return True


# -- up ------------------------------------------------------------------------------------------------------------

_MOVES = frozenset("Flatten Reshape Squeeze Transpose Unsqueeze".split())


def _quantize_first(node: ir.Node, rewriter: Rewriter) -> bool:
    """Let a movement that only a Q reads move integers."""
    mover = required(node, 0).producer()
    if mover is None or mover.domain != "" or mover.op_type not in _MOVES:
        return False
    if only_consumer(mover.outputs[0]) is not node or parameters(node).axis is not None:
        return False
    attributes = {name: a.value for name, a in node.attributes.items()}
    inputs = [required(mover, 0), *node.inputs[1:]]
    quantized = rewriter.new("QuantizeLinear", inputs, before=mover, attributes=attributes)
    moves = {name: a.value for name, a in mover.attributes.items()}
    moved = rewriter.new(mover.op_type, [quantized, *mover.inputs[1:]], before=mover, attributes=moves)
    rewriter.replace(node.outputs[0], moved)
    return True
