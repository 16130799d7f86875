"""Operators that the ONNX standard defines by other operators are replaced by that definition, and control flow by what
it does (:mod:`~tilewright.frontend.control`).

    MeanVarianceNormalization(x)  →  (x - ReduceMean(x)) / (Sqrt(ReduceMean(x²) - ReduceMean(x)²) + ε)

A node is expanded when no lowering of ours computes it and its schema carries a *function body*. Bodies may depend on
the types of the inputs, so :func:`~tilewright.ops.infer.infer_model` asks at each node when it gets there; what a body
holds is asked in its turn. A body that was written for an older opset is converted to the graph's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx_ir as ir
from tilewright.frontend.blocks import in_blocks
from tilewright.frontend.contrib import expanded
from tilewright.frontend.control import Part, check_choice, written_out
from tilewright.frontend.definition import definition_of, has_definition
from tilewright.ir.graph import origin_of, set_origin
from tilewright.ir.types import TensorType
from tilewright.ops.context import Scope, Unsupported
from tilewright.ops.infer import infer_model
from tilewright.ops.lower import has_lowering
from tilewright.ops.steps import program_of

#: Nodes of one definition; the largest of the standard (attention with every input) has about a hundred.
_DEFINITION_LIMIT = 5000

#: Nodes that all expansions of a model may add.
_TOTAL_LIMIT = 50_000


def expand_unknown(model: ir.Model, computes: Callable[[ir.Node], bool]) -> bool:
    """Replace what ``computes`` denies by its definition, where that comes down to operators that it knows; the rest
    stays. Whether there was any."""
    if all(map(computes, model.graph)):
        return False
    expander = _Willing(model, computes)
    infer_model(model, expander)
    return expander.changed


class Expander:
    """Replaces nodes of one model; see :func:`~tilewright.ops.infer.infer_model` for how it is called."""

    def __init__(self, model: ir.Model):
        self._model = model
        self._names: dict[str, int] = {v.name or "": 0 for v in _values(model.graph)}
        self._added = 0

    def __call__(self, node: ir.Node, scope: Scope) -> Sequence[ir.Node] | None:
        """The nodes to look at in place of ``node``, which stand in its graph; ``None`` when it is to stay as it is.

        The inputs of ``node`` have types in ``scope``. Raises :class:`~tilewright.ops.context.Unsupported` for a
        definition that cannot be used, and for control flow that only a run can follow.
        """
        check_choice(node, scope)
        if node.op_identifier() in self._model.functions or self._computes(node):
            return None
        part = written_out(node, scope) or expanded(node, scope) or in_blocks(node, scope)
        if part is None:
            types = [None if v is None else scope.type_of(v) for v in node.inputs]
            part = None if _is_decomposed(node, types) else self._definition(node, types)
        return None if part is None else self._put(node, part)

    def _computes(self, node: ir.Node) -> bool:
        return has_lowering(self._model, node) or program_of(node) is not None

    def _definition(self, node: ir.Node, types: Sequence[TensorType | None]) -> Part | None:
        model = definition_of(node, types, self._model.opset_imports)
        if model is None:
            return None
        if len(model.graph.node) > _DEFINITION_LIMIT:
            raise Unsupported(f"its definition has {len(model.graph.node)} operators, of at most {_DEFINITION_LIMIT}")
        part = Part()
        part.results = part.take(ir.from_proto(model).graph, [v for v in node.inputs if v is not None])
        return part

    def _put(self, node: ir.Node, part: Part) -> list[ir.Node]:
        self._added += len(part.nodes)
        if self._added > _TOTAL_LIMIT:
            raise Unsupported(f"definitions and loops would add more than {_TOTAL_LIMIT} nodes to the graph")
        results = None if part.results is None else _made_once(part)
        if results is not None and len(results) < len(node.outputs):
            raise Unsupported(f"it has {len(node.outputs)} outputs, and its body gives {len(results)}")
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        origin = origin_of(node) or f"{operator} {node.name or node.outputs[0].name!r}"
        root = node.outputs[0].name or node.name
        for value in [*part.constants, *_made_by(part.nodes)]:
            value.name = self._unique(f"{root}/{(value.name or 'value').rpartition('/')[2]}")
        for inner in part.nodes:
            set_origin(inner, origin)
            inner.name = self._unique(f"{node.name or node.op_type}/{inner.op_type}")
        graph = self._model.graph
        graph.insert_before(node, part.nodes)
        for value in part.constants:
            graph.register_initializer(value)
        if results is None:
            return [*part.nodes, node]
        for old, result in zip(list(node.outputs), results, strict=False):
            if old.name:
                result.name, old.name = old.name, f"{old.name}/replaced"
            old.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        return part.nodes

    def _unique(self, name: str) -> str:
        candidate = name
        while candidate in self._names:
            self._names[name] = self._names.get(name, 0) + 1
            candidate = f"{name}_{self._names[name]}"
        self._names[candidate] = 0
        return candidate


class _Willing(Expander):
    """Replaces what somebody else does not compute, and leaves what it cannot replace."""

    def __init__(self, model: ir.Model, computes: Callable[[ir.Node], bool]):
        super().__init__(model)
        self._knows = computes
        self.changed = False

    def __call__(self, node: ir.Node, scope: Scope) -> Sequence[ir.Node] | None:
        if node.op_identifier() in self._model.functions or self._computes(node):
            return None
        types = [None if v is None else scope.type_of(v) for v in node.inputs]
        try:
            part = self._definition(node, types)
            if part is None or not all(map(self._comes_down, part.nodes)):
                return None
            found = self._put(node, part)
        except Unsupported:
            return None
        self.changed = True
        return found

    def _computes(self, node: ir.Node) -> bool:
        return self._knows(node)

    def _comes_down(self, node: ir.Node) -> bool:
        """Whether a node of a definition is computed, or has a definition itself."""
        opset = self._model.opset_imports.get("" if node.domain == "ai.onnx" else node.domain, 0)
        return self._computes(node) or has_definition(node.domain, node.op_type, opset)


def _is_decomposed(node: ir.Node, types: Sequence[TensorType | None]) -> bool:
    """Whether ``decompose-attention`` takes the node, which does better than the definition."""
    if node.domain not in ("", "ai.onnx") or node.op_type != "Attention":
        return False
    given = [t for t in types[:3] if t is not None and t.rank in (3, 4)]
    return all(t.shape[-1].is_constant and (t.rank == 3 or t.shape[1].is_constant) for t in given)


def _made_once(part: Part) -> list[ir.Value]:
    """The results of a part, each made by a node of it and for one output only."""
    made: list[ir.Value] = []
    nodes = set(part.nodes)
    for value in part.results or ():
        own = value.producer() in nodes and value not in made
        made.append(value if own else part.new("Identity", value))
    return made


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
