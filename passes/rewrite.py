"""How a pass changes a graph: make nodes, replace values, drop what nobody reads any more.

A :class:`RewritePass` visits nodes one by one; everything it does goes through a :class:`Rewriter`, which infers the
type of each new value at once, keeps names unique and keeps the names of graph outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.graph import has_type, is_constant, known_value, set_known_value, set_type, type_of
from tilewright.ir.late import is_late
from tilewright.ops.infer import infer_node
from tilewright.passes.base import Miss, Pass, PassResult

#: Rounds after which a pass that still finds something to do is taken for one that undoes its own work.
_MAX_ROUNDS = 100


class Rewriter:
    """Edits of one model."""

    def __init__(self, model: ir.Model):
        self.model = model
        self._names = {v.name for graph in (model.graph, *model.graph.subgraphs()) for v in _values_of(graph)}

    def new(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        before: ir.Node,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """The output of a new node of the default domain, placed before ``before`` and typed."""
        return self.new_all(op_type, inputs, before=before, attributes=attributes, outputs=1)[0]

    def new_all(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        before: ir.Node,
        outputs: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> Sequence[ir.Value]:
        """All outputs of a new node; see :meth:`new`."""
        converted = ir.convenience.convert_attributes(attributes or {})
        node = ir.Node("", op_type, inputs, converted, num_outputs=outputs)
        for value in node.outputs:
            value.name = self.unique(f"{_root(before.outputs[0])}_{op_type.lower()}")
        node.name = node.outputs[0].name
        before.prepend(node)
        infer_node(self.model, node)
        return node.outputs

    def constant(self, array: np.ndarray[Any, Any], name: str = "constant") -> ir.Value:
        """A new initializer that holds ``array``."""
        unique = self.unique(name)
        value = ir.val(unique, const_value=ir.tensor(array, name=unique))
        self.model.graph.register_initializer(value)
        return value

    def unique(self, name: str) -> str:
        """``name``, or ``name_1`` … when a value already has it."""
        candidate, n = name, 0
        while candidate in self._names:
            n += 1
            candidate = f"{name}_{n}"
        self._names.add(candidate)
        return candidate

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of ``old`` read ``new``; what then has no reader goes. Graph outputs keep their names."""
        if old.is_graph_output():
            new = self._as_output(old, new)
        _check_same_type(old, new)
        keep_known(old, new)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        producer = old.producer()
        if producer is not None:
            self.drop_if_dead(producer)

    def drop_if_dead(self, node: ir.Node) -> None:
        """Remove ``node``, and then its producers, as far as nothing reads them."""
        pending = [node]
        while pending:
            current = pending.pop()
            if current.graph is None or any(o.uses() or o.is_graph_output() for o in current.outputs):
                continue
            sources = [v.producer() for v in current.inputs if v is not None]
            assert isinstance(current.graph, ir.Graph | ir.Function)
            current.graph.remove(current, safe=True)
            pending += [s for s in sources if s is not None]

    def _as_output(self, old: ir.Value, new: ir.Value) -> ir.Value:
        """A value that may stand as a graph output in place of ``old``, under its name."""
        producer = old.producer()
        if new.producer() is None or new.is_graph_output() or (producer and new.graph is not old.graph):
            assert producer is not None
            new = self.new("Identity", [new], before=producer)
        name = old.name
        old.name = self.unique(f"{name}_replaced")
        new.name = name
        return new


class RewritePass(Pass):
    """A pass that looks at one node at a time, producers first, until nothing changes any more."""

    #: Operators of the default domain that may be the start of a rewrite; empty: every node.
    operators: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        """Rewrite at ``node`` if it applies. True: the graph changed; a miss: a near candidate, and why not."""

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        misses: dict[str, Miss] = {}
        modified = False
        for _ in range(_MAX_ROUNDS):
            changed = False
            misses.clear()
            for node in candidates(model, self.operators):
                result = self.rewrite(node, rewriter)
                if isinstance(result, Miss):
                    misses[f"{result}"] = result
                else:
                    changed |= result
            modified |= changed
            if not changed:
                return PassResult(modified, list(misses.values()))
        raise InternalError(f"pass {self.name} does not come to rest after {_MAX_ROUNDS} rounds")


def candidates(model: ir.Model, operators: frozenset[str]) -> Iterator[ir.Node]:
    """Nodes of the default domain with one of ``operators``, in order; nodes removed meanwhile are skipped, and so are
    those whose shapes hang on run-time values.

    Bodies of control flow and of fused operators are left alone.
    """
    for node in list(model.graph):
        if node.graph is None or node.domain not in ("", "ai.onnx") or is_late(node):
            continue
        if not operators or node.op_type in operators:
            yield node


def required(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot do without."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise InternalError(f"{node.op_type} {node.name!r} has no input {index}")
    return value


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _root(value: ir.Value) -> str:
    return value.name or "value"


def keep_known(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` have the known elements of ``old``: some may be symbols that are read from it at run time."""
    known = known_value(old)
    if known is not None and not is_constant(new) and known_value(new) is None:
        set_known_value(new, known)


def _check_same_type(old: ir.Value, new: ir.Value) -> None:
    if not has_type(old):
        return
    if not has_type(new):
        set_type(new, type_of(old))
    elif type_of(old).dtype != type_of(new).dtype or type_of(old).rank != type_of(new).rank:
        raise InternalError(f"{old.name}: {type_of(old)} would be replaced by {type_of(new)}")
