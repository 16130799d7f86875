"""The choice of layouts as costs: of windows over channels that are not neighbours, of going across, of conversions.

Two labels are chosen for each candidate: how its producer writes it (``made``), and how each node reads it (``read``);
where they differ a Transpose stands between, one for all readers. A node that works position by position has an order
of loops that is free as well (``loop``); a port in another layout costs a walk across memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from tilewright.ir.graph import body_of, is_constant, type_of
from tilewright.ops.lowering.movement import reshape_groups
from tilewright.passes.layout.candidates import FIRST, LAST, Candidate
from tilewright.passes.layout.channels import WINDOWED
from tilewright.passes.layout.choice import Choice
from tilewright.passes.layout.cost import LayoutCost, Window
from tilewright.passes.views import VIEWS, reshape_target

#: Operators that are no kernel: another name for the same memory.
MEMORY = VIEWS | {"Identity"}

#: Seconds that tell equal costs apart.
_TRIFLE = 1e-12

Candidates = Mapping[ir.Value, Candidate]
#: ``made`` or ``read``, the candidate, and the node that reads it (``None``: whoever runs the model).
Port = tuple[str, ir.Value, ir.Node | None]


def made(value: ir.Value) -> Port:
    """Where a candidate is written."""
    return "made", value, None


def read(value: ir.Value, node: ir.Node | None) -> Port:
    """Where ``node`` reads a candidate; ``None``: as an output of the model."""
    return "read", value, node


def candidate_inputs(node: ir.Node, candidates: Candidates) -> list[ir.Value]:
    """The candidates that a node reads, each once."""
    return [v for v in dict.fromkeys(node.inputs) if v is not None and v in candidates]


def build_choice(model: ir.Model, candidates: Candidates, cost: LayoutCost) -> Choice:
    """All costs and constraints of ``model``."""
    choice = Choice()
    nodes = set(model.graph)
    for value, candidate in candidates.items():
        readers = dict.fromkeys(use.node for use in value.uses())
        if value.producer() is None or any(r not in nodes for r in readers):
            choice.fix(made(value), candidate.plain)
        reads = [read(value, reader) for reader in readers if reader in nodes]
        if value.is_graph_output():
            reads.append(read(value, None))
            choice.fix(reads[-1], candidate.plain)
        if not is_constant(value):  # those are put into any order while compiling
            choice.shared(made(value), reads, cost.conversion(candidate.size))
        for port in (made(value), *reads):  # among equal costs values stay as they are
            choice.cost(port, zero=_TRIFLE if candidate.plain else 0, one=0 if candidate.plain else _TRIFLE)
    for node in model.graph:
        _add_node(model, node, candidates, cost, choice)
    return choice


def _add_node(model: ir.Model, node: ir.Node, candidates: Candidates, cost: LayoutCost, choice: Choice) -> None:
    ins = [candidates[v] for v in candidate_inputs(node, candidates)]
    outs = [candidates[v] for v in node.outputs if v in candidates]
    ports = [*((read(c.value, node), c) for c in ins), *((made(c.value), c) for c in outs)]
    body = body_of(model, node)
    if body is None and (node.op_type in MEMORY or node.domain not in ("", "ai.onnx")):
        if node.op_type in MEMORY and ins and outs and keeps_memory(ins[0], outs[0]):
            choice.tie(ports[0][0], ports[1][0])
        else:
            for port, c in ports:
                choice.fix(port, c.plain)
        return
    if body is None and node.op_type == "Transpose":
        if ins and outs and renames_only(node, ins[0], outs[0]):
            choice.differ(ports[0][0], ports[1][0], cost.conversion(ins[0].size))
        return
    windows = dict(_windows(node, body))
    for port, c in ports:
        if not windows:
            choice.differ(("loop", node), port, cost.across(c.size))
        elif port[0] == "read" and c.value in windows:
            operator, reuse = windows[c.value]
            choice.cost(port, zero=cost.window(c.size, _window(operator, reuse, c)))
        else:
            choice.cost(port, zero=cost.across(c.size))


def _window(operator: ir.Node, reuse: float, c: Candidate) -> Window:
    product = operator.op_type == "Conv" and math.prod(_ints(operator, "group")) < c.channels
    steps = {*_ints(operator, "strides"), *_ints(operator, "kernel_shape"), *(p + 1 for p in _ints(operator, "pads"))}
    known = "kernel_shape" in operator.attributes and steps == {1}
    return Window(reuse, c.channels, str(type_of(c.value).dtype), product, known)


def _ints(operator: ir.Node, name: str) -> tuple[int, ...]:
    """Values of an attribute; none where it is left out."""
    if name not in operator.attributes:
        return ()
    attribute = operator.attributes[name]
    return (attribute.as_int(),) if attribute.type == ir.AttributeType.INT else tuple(attribute.as_ints())


def _windows(node: ir.Node, body: ir.Function | None) -> Iterator[tuple[ir.Value, tuple[ir.Node, float]]]:
    """The values of the graph that a window of ``node`` slides over, each with the operator and how often an element is
    read."""
    outer = {} if body is None else dict(zip(body.inputs, node.inputs, strict=False))
    for operator in [node] if body is None else body:
        if operator.op_type not in WINDOWED:
            continue
        reuse = _reuse(operator, outer)
        pending, seen = [operator.inputs[0]], set[ir.Value]()
        while pending:
            value = pending.pop()
            if value is None or value in seen:
                continue
            seen.add(value)
            argument = outer.get(value) if body is not None else value
            if argument is not None:
                yield argument, (operator, reuse)
            elif (producer := value.producer()) is not None:
                pending += producer.inputs


def _reuse(operator: ir.Node, outer: Mapping[ir.Value, ir.Value | None]) -> float:
    strides = operator.attributes["strides"].as_ints() if "strides" in operator.attributes else [1]
    if "kernel_shape" in operator.attributes:
        return math.prod(operator.attributes["kernel_shape"].as_ints()) / math.prod(strides)
    weights = operator.inputs[1]
    weights = None if weights is None else outer.get(weights, weights)
    sizes = [] if weights is None or weights.shape is None else type_of(weights).shape[2:]
    return math.prod(s.value for s in sizes if s.is_constant) / math.prod(strides)


def keeps_memory(x: Candidate, y: Candidate) -> bool:
    """Whether a view keeps the order of elements in both layouts: batch and channels stand alone on both sides."""
    source, target = type_of(x.value).shape, type_of(y.value).shape
    alone = {a[0]: b[0] for a, b in reshape_groups(source, target) if len(a) == len(b) == 1}
    if alone.get(0) != 0 or alone.get(x.channel) != y.channel or x.plain != y.plain:
        return False
    other = FIRST + LAST - x.plain
    moved = x.layout(other).of(source), y.layout(other).of(target)
    return reshape_target(*moved) is not None


def renames_only(node: ir.Node, x: Candidate, y: Candidate) -> bool:
    """Whether a Transpose moves nothing but the channels: with one label on both sides it copies memory as it is."""
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(x.rank)[::-1]
    return tuple(perm[d] for d in y.layout(LAST).order) == x.layout(LAST).order
