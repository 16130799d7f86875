"""Control flow that can be written without it: branches that are known or pure, loops that run a known number of times.

- ``If``: the branch that is taken, where the condition is known. Otherwise both branches, and Where between their
  results, which must have the same types: operators have no effects, so computing too much changes nothing.
- ``Scan`` and ``Loop``: the body, as often as it runs. A loop is unrolled one turn at a time, as its condition may be
  known only when the turn before is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.ops.context import Scope, Unsupported

#: Turns of one loop; each adds the nodes of its body to the graph.
TURNS_LIMIT = 512

_TURNS = "tilewright.turns"
_CHOICE = "tilewright.choice"


@dataclass(slots=True)
class Part:
    """Nodes that are to stand before a node, and constants that they read.

    Attributes:
        results: what takes the places of the node's outputs; ``None`` when the node stays and is looked at again.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    results: list[ir.Value] | None = None

    def new(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        node = ir.Node("", op_type, inputs, ir.convenience.convert_attributes(attributes))
        node.outputs[0].name = op_type.lower()
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, value: Any, dtype: type) -> ir.Value:
        """A new constant."""
        made = ir.val("constant", const_value=ir.tensor(np.array(value, dtype)))
        self.constants.append(made)
        return made

    def take(self, graph: ir.Graph, arguments: Sequence[ir.Value | None]) -> list[ir.Value]:
        """The outputs of ``graph``, whose nodes become part of this; nothing else may hold it."""
        given = dict(zip(graph.inputs, arguments, strict=True))
        outputs = [given.get(v, v) for v in graph.outputs]
        for formal, argument in given.items():
            for use in formal.uses():
                use.node.replace_input_with(use.idx, argument)
        nodes = list(graph)
        self.constants += graph.initializers.values()
        graph.initializers.clear()
        graph.outputs.clear()
        graph.inputs.clear()
        graph.remove(nodes)
        self.nodes += nodes
        if any(v is None for v in outputs):
            raise Unsupported("an output of its body is an input that is left out")
        return [v for v in outputs if v is not None]

    def call(self, graph: ir.Graph, arguments: Sequence[ir.Value | None]) -> list[ir.Value]:
        """The outputs of a copy of ``graph``."""
        if len(arguments) != len(graph.inputs):
            raise Unsupported(f"its body takes {len(graph.inputs)} inputs and is given {len(arguments)}")
        return self.take(graph.clone(allow_outer_scope_values=True), arguments)


def written_out(node: ir.Node, scope: Scope) -> Part | None:
    """What ``node`` is without control flow, or ``None`` for an operator that has none.

    Raises :class:`~tilewright.ops.context.Unsupported` for what only a run can tell.
    """
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return None if rule is None else rule(node, scope)


def check_choice(node: ir.Node, scope: Scope) -> None:
    """Both branches of an ``If`` must give the same type, when only a run tells which is taken."""
    if node.meta.get(_CHOICE):
        a, b = (scope.type_of(v) for v in node.inputs[1:] if v is not None)
        if a != b:
            raise Unsupported(f"its branches give {a} and {b}, and only a run tells which: make them equal")


def _graph(node: ir.Node, name: str) -> ir.Graph:
    return node.attributes[name].as_graph()


def _known(value: ir.Value | None, scope: Scope) -> int | None:
    """The only element of a value, where it is a plain number."""
    known = None if value is None else scope.known_value(value)
    if known is None or known.size != 1:
        return None
    (element,) = known.flat
    return element.value if element.is_constant else None


def _branches(node: ir.Node, scope: Scope) -> Part:
    part = Part()
    condition = node.inputs[0]
    known = _known(condition, scope)
    if known is not None:
        part.results = part.call(_graph(node, "then_branch" if known else "else_branch"), [])
        return part
    results = [part.call(_graph(node, name), []) for name in ("then_branch", "else_branch")]
    scalar = part.new("Squeeze", condition)
    part.results = [part.new("Where", scalar, a, b) for a, b in zip(*results, strict=False)]
    for result in part.results:
        choice = result.producer()
        assert choice is not None
        choice.meta[_CHOICE] = True
    return part


def _scanned(node: ir.Node, scope: Scope) -> Part:
    def integers(name: str, count: int) -> list[int]:
        attribute = node.attributes.get(name)
        values = [0] * count if attribute is None else list(attribute.as_ints())
        if len(values) != count:
            raise Unsupported(f"attribute {name!r} has {len(values)} entries for {count}")
        return values

    count = node.attributes["num_scan_inputs"].as_int()
    states: list[ir.Value | None] = list(node.inputs[: len(node.inputs) - count])
    sources = [v for v in node.inputs[len(states) :] if v is not None]
    body = _graph(node, "body")
    stacked = len(body.outputs) - len(states)
    if not 0 < count <= len(node.inputs) or len(sources) < count or stacked < 0:
        raise Unsupported(f"{count} inputs to scan of {len(node.inputs)}")
    axes, backwards = integers("scan_input_axes", count), integers("scan_input_directions", count)
    turns = _turns(sources[0], axes[0], scope)
    part = Part()
    stacks: list[list[ir.Value]] = [[] for _ in range(stacked)]
    for n in range(turns):
        slices = [
            part.new("Gather", x, part.constant(turns - 1 - n if back else n, np.int64), axis=axis)
            for x, axis, back in zip(sources, axes, backwards, strict=True)
        ]
        results = part.call(body, [*states, *slices])
        states = [*results[: len(states)]]
        for stack, value in zip(stacks, results[len(states) :], strict=True):
            stack.append(value)
    out_axes, out_back = integers("scan_output_axes", stacked), integers("scan_output_directions", stacked)
    joined = [
        _stacked(part, stack[::-1] if back else stack, axis)
        for stack, axis, back in zip(stacks, out_axes, out_back, strict=True)
    ]
    part.results = [*(v for v in states if v is not None), *joined]
    return part


def _turns(source: ir.Value, axis: int, scope: Scope) -> int:
    type_ = scope.type_of(source)
    assert type_ is not None
    if not -type_.rank <= axis < type_.rank:
        raise Unsupported(f"it scans axis {axis} of {type_}")
    size = type_.shape[axis]
    if not size.is_constant:
        raise Unsupported(f"it runs {size} times: give the input a fixed size with --input-shape")
    if not 1 <= size.value <= TURNS_LIMIT:
        raise Unsupported(f"it runs {size.value} times, and 1 to {TURNS_LIMIT} turns can be written out")
    return size.value


def _stacked(part: Part, values: Sequence[ir.Value], axis: int) -> ir.Value:
    at = part.constant([axis], np.int64)
    return part.new("Concat", *(part.new("Unsqueeze", v, at) for v in values), axis=axis)


@dataclass(slots=True)
class _Turns:
    """How far a loop is unrolled: its turns so far, and what they left."""

    condition: ir.Value | None
    states: list[ir.Value | None]
    stacks: list[list[ir.Value]]
    done: int = 0


def _repeated(node: ir.Node, scope: Scope) -> Part:
    """One more turn of a loop, or its end."""
    body = _graph(node, "body")
    given: list[ir.Value | None] = [*node.inputs, None, None][: max(2, len(node.inputs))]
    states = given[2:]
    stacked = len(body.outputs) - 1 - len(states)
    if stacked < 0 or len(body.inputs) != 2 + len(states):
        raise Unsupported("its body does not fit its inputs")
    turns = node.meta.setdefault(_TURNS, _Turns(given[1], states, [[] for _ in range(stacked)]))
    goes_on = True if turns.condition is None else _known(turns.condition, scope)
    limit = None if given[0] is None else _known(given[0], scope)
    if goes_on is None or (limit is None and given[0] is not None):
        raise Unsupported("only a run tells how often it runs: make the number of turns and its condition constants")
    part = Part()
    if not goes_on or (limit is not None and turns.done >= limit):
        if turns.stacks and not turns.done:
            raise Unsupported("it never runs, so what it stacks has no size")
        part.results = [*(v for v in turns.states if v is not None)]
        part.results += [_stacked(part, stack, 0) for stack in turns.stacks]
        return part
    if turns.done == TURNS_LIMIT:
        raise Unsupported(f"it runs more often than {TURNS_LIMIT} times")
    count, condition = part.constant(turns.done, np.int64), turns.condition or part.constant(True, np.bool_)
    turns.condition, *results = part.call(body, [count, condition, *turns.states])
    turns.states = [*results[: len(states)]]
    for stack, value in zip(turns.stacks, results[len(states) :], strict=True):
        stack.append(value)
    turns.done += 1
    return part


_RULES: Mapping[str, Callable[[ir.Node, Scope], Part]] = {"If": _branches, "Scan": _scanned, "Loop": _repeated}

#: Operators that are written out.
CONTROL_FLOW = frozenset(_RULES)
