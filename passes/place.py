"""Placement: which nodes a target's own programs compute, and which its host part does; the graph cut into regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.graph import is_constant
from tilewright.passes.elementwise import ELEMENTWISE

#: Operators that take less time than moving what they read to a device and what they make back: they touch each element
#: a few times at most.
CHEAP = ELEMENTWISE | frozenset(
    """Concat ConstantOfShape Expand Flatten Gather Identity Range ReduceL1 ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Reshape Shape Size Slice Split Squeeze Tile Transpose Unsqueeze""".split()
)
#: Why a node that the device could compute is on the host part.
NEAR_HOST = "cheap, and what it reads and what reads it is on the host"


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes that run together, in the order of the graph.

    Attributes:
        on_host: whether the host part computes them.
        nodes: in order.
        inputs: what they read from outside, but constants.
        outputs: what others, or the caller, read of them.
    """

    on_host: bool
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def near_host(model: ir.Model, on_host: Callable[[ir.Node], bool]) -> tuple[ir.Node, ...]:
    """Nodes of the device that are better on the host part, in the order of the graph.

    Cheap ones (:data:`CHEAP`) between nodes of the host part, whose data would go to the device and come back: all they
    read is made on the host or given by the caller, and all who read it are there. A region of the device is not cut
    for them. Nodes that no node of the host part has to do with stay where they are.
    """
    nodes = [node for node in model.graph if not all(is_constant(o) for o in node.outputs)]
    host = {node for node in nodes if on_host(node)}
    if not host:
        return ()
    near = {n for n in nodes if n not in host and n.domain in ("", "ai.onnx") and n.op_type in CHEAP}
    known = set(nodes)
    before = {n: {p for v in n.inputs if v is not None and (p := v.producer()) in known} for n in nodes}
    after = {n: {u.node for v in n.outputs for u in v.uses()} for n in nodes}
    while away := {n for n in near if not before[n] | after[n] <= near | host}:
        near -= away
    touched: set[ir.Node] = set()
    while found := {n for n in near - touched if (before[n] | after[n]) & (host | touched)}:
        touched |= found
    return tuple(n for n in nodes if n in touched)


def place(model: ir.Model, on_host: Callable[[ir.Node], bool]) -> tuple[Region, ...]:
    """The regions of a graph, in an order in which they can run.

    A node goes into the earliest region of its kind that comes after the regions of what it reads, so that regions
    alternate and are as few as the longest chain of changes.
    """
    level: dict[ir.Node, int] = {}
    for node in model.graph:
        if all(is_constant(o) for o in node.outputs):
            continue
        host = on_host(node)
        before = [level[p] for v in node.inputs if v is not None and (p := v.producer()) in level]
        lowest = max(before, default=0)
        level[node] = lowest if lowest % 2 == host else lowest + 1  # even levels are the device's
    regions = []
    for n in sorted(set(level.values())):
        regions.append(_region(model, bool(n % 2), [node for node in model.graph if level.get(node) == n]))
    return tuple(regions)


def _region(model: ir.Model, on_host: bool, nodes: Sequence[ir.Node]) -> Region:
    inside = set(nodes)
    read = [v for node in nodes for v in node.inputs if v is not None and not is_constant(v)]
    inputs = [v for v in dict.fromkeys(read) if v.producer() not in inside]
    made = [v for node in nodes for v in node.outputs if v.name]
    results = set(model.graph.outputs)
    outputs = [v for v in made if v in results or any(u.node not in inside for u in v.uses())]
    return Region(on_host, tuple(nodes), tuple(inputs), tuple(outputs))
