"""``eliminate-common-subexpressions``: equal nodes of equal inputs, and equal small constants, become one.

Shape(x), Shape(x)  →  one Shape(x)
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.rewrite import Rewriter, candidates

#: Elements above which constants are not compared: two equal weights are rare and comparing them reads the file.
_LIMIT = 1024
_RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout".split()
)


class EliminateCommonSubexpressions(Pass):
    """Let later nodes read the first node that computes the same."""

    name: ClassVar[str] = "eliminate-common-subexpressions"

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        modified = _merge_constants(model)
        first: dict[tuple[Any, ...], ir.Node] = {}
        misses: list[Miss] = []
        for node in candidates(model, frozenset()):
            if node.op_type in _RANDOM or any(_holds_graph(a) for a in node.attributes.values()):
                continue
            earlier = first.setdefault(_key(node), node)
            if earlier is node:
                continue
            if any(o.is_graph_output() for o in node.outputs):
                misses.append(Miss.at(node, f"it is a graph output of its own beside {earlier.outputs[0].name}"))
                continue
            for old, new in zip(list(node.outputs), earlier.outputs, strict=True):
                old.replace_all_uses_with(new)
            rewriter.drop_if_dead(node)
            modified = True
        return PassResult(modified, misses)


def _key(node: ir.Node) -> tuple[Any, ...]:
    attributes = tuple(sorted((n, _hashable(a)) for n, a in node.attributes.items()))
    inputs = tuple(None if v is None else id(v) for v in node.inputs)
    return node.op_identifier(), inputs, attributes, len(node.outputs)


def _hashable(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype}{tensor.shape}{tensor.tobytes().hex()}"
    return f"{attribute.type}{attribute.value}"


def _holds_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _merge_constants(model: ir.Model) -> bool:
    first: dict[tuple[Any, ...], ir.Value] = {}
    modified = False
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.size > _LIMIT or not is_constant(value) or tensor.dtype == ir.DataType.STRING:
            continue
        array = constant_array(value)
        same = first.setdefault((tensor.dtype, array.shape, array.tobytes()), value)
        if same is not value and not value.is_graph_output():
            value.replace_all_uses_with(same)
            del model.graph.initializers[name]
            modified = True
    return modified
