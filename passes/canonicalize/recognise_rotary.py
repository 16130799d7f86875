"""``recognise-rotary``: rotary position embedding, however it is written, becomes the operator (opset 23).

    x · cos + Concat(-x[h:], x[:h]) · sin                           →  RotaryEmbedding(x, cos[:h], sin[:h])
    Concat(x[:h] · cos - x[h:] · sin, x[h:] · cos + x[:h] · sin)    →  RotaryEmbedding(x, cos, sin)
    the same with even and odd elements for the two halves          →  RotaryEmbedding<interleaved=1>(x, cos, sin)

Canonical form: x is [B, H, S, D] (another order of axes gets Transposes, which cancel with those around it), cos and
sin are [B, S, D/2] as the operator defines them; tables that repeat their numbers for both halves are cut in half at
their source. Exporters also write cos and sin for one row of the batch, which the operator's text does not allow and
ONNX Runtime refuses: these get an Expand. ``num_heads`` says nothing where x has four axes, and goes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import constant
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.rotary import Found, find, half
from tilewright.passes.views import view


class RecogniseRotary(RewritePass):
    """One operator instead of seven, and half the cosines and sines."""

    name: ClassVar[str] = "recognise-rotary"
    operators: ClassVar[frozenset[str]] = frozenset(["Add", "Concat", "Reshape", "RotaryEmbedding"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if node.op_type == "RotaryEmbedding":
            return _spelled_out(node, rewriter)
        found = find(node)
        if not isinstance(found, Found):
            return Miss.at(node, found) if found else False
        x = type_of(found.x)
        if x.rank != 4 or type_of(node.outputs[0]) != x:
            return Miss.at(node, f"what is turned is {x}, not [batch, heads, sequence, head size]")
        tables = [_table(found, t, node, rewriter) for t in (found.cos, found.sin)]
        reason = next((t for t in tables if isinstance(t, str)), None)
        if reason is not None:
            return Miss.at(node, reason)
        axes = {t[1] for t in tables if not isinstance(t, str)}
        if len(axes) != 1:
            return Miss.at(node, "cosines and sines run over different axes")
        order = {"perm": [0, 2, 1, 3]}
        swap = axes.pop() == 2
        source = rewriter.new("Transpose", [found.x], before=node, attributes=order) if swap else found.x
        angles = [_expanded(t[0](), source, node, rewriter) for t in tables if not isinstance(t, str)]
        attributes = {"interleaved": 1} if found.interleaved else {}
        new = rewriter.new("RotaryEmbedding", [source, *angles], before=node, attributes=attributes)
        if swap:
            new = rewriter.new("Transpose", [new], before=node, attributes=order)
        rewriter.replace(node.outputs[0], new)
        return True


def _table(found: Found, table: ir.Value, node: ir.Node, rewriter: Rewriter) -> tuple[Any, int] | str:
    """How to make [B, S, D/2] of a table, and which axis of x has the heads; or why it cannot be done."""
    shape = type_of(table).shape
    if not 2 <= len(shape) <= 4:
        return f"{table.name} is {type_of(table)}"
    aligned = (*[None] * (4 - len(shape)), *shape)
    x = type_of(found.x).shape
    if shape[-1] * (1 if found.doubled else 2) != x[-1]:
        return f"{table.name}: {type_of(table)} does not have one angle for each pair of {x[-1]} elements"
    if aligned[1] in (None, 1) and aligned[2] == x[2]:
        heads = 1
    elif aligned[2] == 1 and aligned[1] == x[1]:
        heads = 2
    else:
        return f"{table.name}: {type_of(table)} does not have one angle for each position"
    build = half(table, found.interleaved, node, rewriter) if found.doubled else lambda: table
    if build is None:
        return f"{table.name} is not known to repeat its elements in both halves"

    def make() -> ir.Value:
        value = build()
        sizes = [*[constant(1)] * (4 - type_of(value).rank), *type_of(value).shape]
        sizes.pop(heads)
        result = view(rewriter, value, tuple(sizes), before=node)
        assert result is not None  # only sizes of 1 come or go
        return result

    return make, heads


def _expanded(table: ir.Value, x: ir.Value, node: ir.Node, rewriter: Rewriter) -> ir.Value:
    """A table for one row of the batch as a table for all."""
    batch = type_of(x).shape[0]
    if type_of(table).shape[0] == batch:
        return table
    if batch.is_constant:
        size = rewriter.constant(np.array([batch.value], np.int64), "batch")
    else:
        size = rewriter.new("Shape", [x], before=node, attributes={"start": 0, "end": 1})
    ones = rewriter.constant(np.array([1, 1], np.int64), "ones")
    target = rewriter.new("Concat", [size, ones], before=node, attributes={"axis": 0})
    return rewriter.new("Expand", [table, target], before=node)


def _spelled_out(node: ir.Node, rewriter: Rewriter) -> bool:
    """The operator itself, in its canonical form."""
    x = required(node, 0)
    if len(node.inputs) > 3 or type_of(x).rank != 4:
        return False
    tables = [_expanded(required(node, i), x, node, rewriter) for i in (1, 2)]
    attributes = {n: a.value for n, a in node.attributes.items() if n != "num_heads" and a.value != 0}
    if tables == list(node.inputs[1:3]) and attributes.keys() == node.attributes.keys():
        return False
    new = rewriter.new("RotaryEmbedding", [x, *tables], before=node, attributes=attributes)
    rewriter.replace(node.outputs[0], new)
    return True
