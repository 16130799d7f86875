"""Placement: which nodes a target's own programs compute, and which its host part does; the graph cut into regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.graph import is_constant


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
