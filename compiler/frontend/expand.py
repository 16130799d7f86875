"""Operators that the ONNX standard defines by other operators are replaced by that definition.

    MeanVarianceNormalization(x)  →  (x - ReduceMean(x)) / (Sqrt(ReduceMean(x²) - ReduceMean(x)²) + ε)

A node is expanded when no lowering of ours computes it and its schema carries a *function body*. Bodies may depend on
the types of the inputs, so :func:`~tilewright.ops.infer.infer_model` asks at each node when it gets there; what a body
holds is asked in its turn. A body that was written for an older opset is converted to the graph's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir
from tilewright.frontend.definition import definition_of
from tilewright.ir.graph import origin_of, set_origin
from tilewright.ops.context import Scope, Unsupported
from tilewright.ops.lower import has_lowering
from tilewright.ops.steps import program_of

#: Passes write these with other operators, better than their bodies do.
_DECOMPOSED = frozenset(["Attention"])

#: Nodes of one body; the largest of the standard (attention with every input) has about a hundred.
_BODY_LIMIT = 5000

#: Nodes that all expansions of a model may add.
_TOTAL_LIMIT = 1_000_000


class Expander:
    """Replaces nodes of one model; see :func:`~tilewright.ops.infer.infer_model` for how it is called."""

    def __init__(self, model: ir.Model):
        self._model = model
        self._names = {v.name for v in _values(model.graph)}
        self._added = 0

    def __call__(self, node: ir.Node, scope: Scope) -> Sequence[ir.Node] | None:
        """The nodes that now stand in place of ``node``; ``None`` when it is to stay as it is.

        The inputs of ``node`` have types in ``scope``. Raises :class:`~tilewright.ops.context.Unsupported` for a
        definition that cannot be used.
        """
        if node.domain in ("", "ai.onnx") and node.op_type in _DECOMPOSED:
            return None
        if node.op_identifier() in self._model.functions or has_lowering(self._model, node) or program_of(node):
            return None
        types = [None if v is None else scope.type_of(v) for v in node.inputs]
        body = definition_of(node, types, self._model.opset_imports)
        if body is None:
            return None
        self._added += len(body.graph.node)
        if len(body.graph.node) > _BODY_LIMIT or self._added > _TOTAL_LIMIT:
            raise Unsupported(f"its definition has {len(body.graph.node)} operators, of at most {_BODY_LIMIT}")
        return self._replace(node, ir.from_proto(body).graph)

    def _replace(self, node: ir.Node, body: ir.Graph) -> list[ir.Node]:
        given = [v for v in node.inputs if v is not None]
        constants = list(body.initializers.values())
        new = list(body)
        origin = origin_of(node) or f"{node.op_type} {node.name or node.outputs[0].name!r}"
        body.initializers.clear()
        results = _results(body, new)
        for value in [*constants, *_made_by(new)]:
            value.name = self._unique(f"{node.outputs[0].name or node.name}/{value.name}")
        for inner in new:
            set_origin(inner, origin)
            inner.name = self._unique(f"{node.name or node.op_type}/{inner.op_type}")
        for formal, argument in zip(body.inputs, given, strict=True):
            for use in formal.uses():
                use.node.replace_input_with(use.idx, argument)
        body.outputs.clear()
        body.remove([n for n in new if n.graph is body])
        graph = self._model.graph
        graph.insert_before(node, new)
        for value in constants:
            graph.register_initializer(value)
        for old, result in zip(list(node.outputs), results, strict=False):
            if old.name:
                result.name, old.name = old.name, f"{old.name}/replaced"
            old.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        return new

    def _unique(self, name: str) -> str:
        candidate, n = name, 0
        while candidate in self._names:
            n += 1
            candidate = f"{name}_{n}"
        self._names.add(candidate)
        return candidate


def _results(body: ir.Graph, nodes: list[ir.Node]) -> list[ir.Value]:
    """The values of a body that take the places of the node's outputs, each made by a node and for one output only."""
    results: list[ir.Value] = []
    for value in body.outputs:
        if value.producer() is not None and value not in results:
            results.append(value)
            continue
        nodes.append(ir.Node("", "Identity", [value]))
        results.append(nodes[-1].outputs[0])
    return results


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    yield from _made_by(graph)


def _made_by(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """The outputs of ``nodes`` and everything that graphs inside them hold."""
    for node in nodes:
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                yield from _values(attribute.as_graph())
            elif attribute.type is ir.AttributeType.GRAPHS:
                for graph in attribute.as_graphs():
                    yield from _values(graph)
