"""``sink-expand``: operators broadcast by themselves, so an Expand before them is superfluous or can wait.

Add(scores, Expand(mask))     →  Add(scores, mask)                  where the sum has the same shape either way
Where(Expand(c), 0, -inf)     →  Expand(Where(c, 0, -inf))          computed once instead of once per copy
And(Expand(True), x)          →  Expand(x)
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr, constant
from tilewright.passes.base import Miss
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.match import is_number
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import Shape


class SinkExpand(RewritePass):
    """Move Expand behind elementwise operators, and drop it where broadcasting does the same."""

    name: ClassVar[str] = "sink-expand"
    operators: ClassVar[frozenset[str]] = ELEMENTWISE - {"PRelu"}  # its slope may not be wider than its input

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        inputs = [v for v in node.inputs if v is not None]
        narrow = [_before_expand(v) for v in inputs]
        if len(inputs) != len(node.inputs) or all(n is v for n, v in zip(narrow, inputs, strict=True)):
            return False
        output = type_of(node.outputs[0])
        for i, (wide, source) in enumerate(zip(inputs, narrow, strict=True)):
            others = [type_of(v).shape for j, v in enumerate(inputs) if j != i]
            if source is not wide and broadcast([type_of(source).shape, *others]) == output.shape:
                new = _again(node, [source if j == i else v for j, v in enumerate(inputs)], rewriter)
                rewriter.replace(node.outputs[0], new)
                return True
        small = broadcast([type_of(n).shape for n in narrow])
        if small is None or small == output.shape:
            return False
        covering = next((v for v in inputs if _covers(v, small, output.shape)), None)
        expand = covering.producer() if covering is not None else None
        if expand is None:
            return Miss.at(node, f"no one Expand before it reaches {output}")
        kept = _neutral_operand(node, narrow)
        new = kept if kept is not None else _again(node, narrow, rewriter)
        rewriter.replace(node.outputs[0], rewriter.new("Expand", [new, expand.inputs[1]], before=node))
        return True


def _covers(value: ir.Value, small: Shape, output: Shape) -> bool:
    """True when the Expand that makes ``value`` would take something of shape ``small`` to ``output`` as well."""
    return _before_expand(value) is not value and broadcast([small, type_of(value).shape]) == output


def broadcast(shapes: list[Shape]) -> Shape | None:
    """The shape that NumPy's rules give for sizes known to be equal or 1; ``None`` when it would be a guess."""
    rank = max(map(len, shapes), default=0)
    result: list[Expr] = [constant(1)] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if result[axis] == 1:
                result[axis] = size
            elif size not in (1, result[axis]):
                return None
    return tuple(result)


def _before_expand(value: ir.Value) -> ir.Value:
    node = value.producer()
    if node is None or node.op_type != "Expand" or node.domain != "":
        return value
    return required(node, 0)


def _neutral_operand(node: ir.Node, narrow: list[ir.Value]) -> ir.Value | None:
    """``x`` in And(True, x) and Or(False, x)."""
    neutral = {"And": True, "Or": False}.get(node.op_type)
    if neutral is None:
        return None
    for a, b in (narrow, narrow[::-1]):
        if is_number(a, neutral) and broadcast([type_of(a).shape, type_of(b).shape]) == type_of(b).shape:
            return b
    return None


def _again(node: ir.Node, inputs: list[ir.Value], rewriter: Rewriter) -> ir.Value:
    """The same operator on other inputs."""
    attributes = {name: a.value for name, a in node.attributes.items()}
    return rewriter.new(node.op_type, inputs, before=node, attributes=attributes)
