"""Growing the set of nodes that will become one fused node, from an anchor, only by what types prove.

Forwards, a region takes elementwise consumers that keep its shape, as long as it comes back to one output value.
Backwards, it takes producers that nobody else reads.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.late import is_late
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.compose_transposes import merged_groups
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.fusion.order import Order

#: Nodes that a region may hold open (more than one output) before it has to come back to one.
_MAX_OPEN = 12
#: Nodes in one region at most: lowering goes as deep as a region, and Python's stack is not endless.
_MAX_NODES = 200

#: Operators that move elements or repeat them. A Concat says which of several values is read.
_MOVEMENT = frozenset(["Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Slice", "Concat"])

Accept = Callable[[ir.Node], bool]


def grow_forward(
    order: Order, region: list[ir.Node], output: ir.Value, accept: Accept
) -> tuple[list[ir.Node], ir.Value, list[Miss]]:
    """Extend ``region``, whose only output is ``output``, by consumers that ``accept`` takes.

    Nodes are tried in graph order; one that hangs on a refused node is refused, which keeps the region convex. The
    longest extension with exactly one output is returned, with that output and why growth ended.
    """
    best, best_output = list(region), output
    inside, refused, misses = set(region), set[ir.Node](), list[Miss]()
    opened: list[ir.Node] = []
    waiting = _Waiting(order)
    for start in region:
        waiting.add_readers(start, wanted=True)
    while len(inside) < _MAX_NODES and (node := waiting.next()) is not None:
        if node in inside:
            continue
        sources = node.predecessors()
        if any(p in refused for p in sources) or not accept(node):
            if not any(p in refused for p in sources):
                misses.append(Miss.at(node, f"it cannot follow {region[0].op_type} {region[0].outputs[0].name}"))
            refused.add(node)
            waiting.add_readers(node, wanted=False)
            if best_output in node.inputs and not opened:
                break
            continue
        inside.add(node)
        waiting.add_readers(node, wanted=True)
        opened.append(node)
        outputs = visible(inside)
        if len(outputs) == 1:
            best, best_output, opened = [*best, *opened], outputs[0], []
        elif len(opened) > _MAX_OPEN:
            break
    return best, best_output, misses


class _Waiting:
    """Nodes that come after a region, first in the graph first, as long as one of them reads the region itself."""

    def __init__(self, order: Order):
        self.order = order
        self._heap: list[int] = []
        self._nodes: dict[int, ir.Node] = {}
        self._wanted: set[int] = set()

    def add_readers(self, node: ir.Node, wanted: bool) -> None:
        """Readers of ``node`` wait; those of the region are ``wanted``."""
        for reader in (r for o in node.outputs for r in self.order.readers(o)):
            at = self.order.at(reader)
            if at not in self._nodes:
                self._nodes[at] = reader
                heapq.heappush(self._heap, at)
            if wanted:
                self._wanted.add(at)

    def next(self) -> ir.Node | None:
        """The next node; ``None`` when only nodes are left that hang on refused ones alone."""
        if not self._wanted:
            return None
        at = heapq.heappop(self._heap)
        self._wanted.discard(at)
        return self._nodes[at]


def grow_backward(region: Collection[ir.Node], accept: Accept) -> list[ir.Node]:
    """Extend ``region`` by producers that ``accept`` takes and whose outputs only the region reads."""
    inside = dict.fromkeys(region)
    pending = list(region)
    while pending:
        node = pending.pop()
        for producer in node.predecessors():
            if len(inside) >= _MAX_NODES:
                return list(inside)
            if producer not in inside and _only_read_by(producer, inside) and accept(producer):
                inside[producer] = None
                # What was passed over because of this outside reader is among its producers.
                pending.append(producer)
    return list(inside)


def _only_read_by(node: ir.Node, inside: Collection[ir.Node]) -> bool:
    return all(
        not o.is_graph_output() and o.uses() and all(use.node in inside for use in o.uses()) for o in node.outputs[:1]
    ) and not any(o.uses() or o.is_graph_output() for o in node.outputs[1:])


def visible(nodes: Collection[ir.Node]) -> list[ir.Value]:
    """The values made by ``nodes`` that something else reads."""
    inside = set(nodes)
    return [
        o for n in nodes for o in n.outputs if o.is_graph_output() or any(use.node not in inside for use in o.uses())
    ]


#: Position by position as well, each with the scale that belongs to it.
_QUANTIZING = frozenset(["QuantizeLinear", "DequantizeLinear"])


def is_elementwise(node: ir.Node) -> bool:
    """True for operators that work position by position."""
    return (
        node.domain == "" and node.op_type in ELEMENTWISE | _QUANTIZING and len(node.outputs) == 1 and not is_late(node)
    )


def moves(node: ir.Node) -> bool:
    """True for operators that only say where an element is read, by index maps without divisions by run-time sizes."""
    if node.domain != "" or node.op_type not in _MOVEMENT or len(node.outputs) != 1 or is_late(node):
        return False
    if (t := type_of(node.outputs[0])).dtype.is_integer and t.rank < 2:
        return False  # sizes and axes: structure that other operators ask for, not data
    if node.op_type == "Slice":
        return all(v is None or is_constant(v) for v in node.inputs[1:])
    return node.op_type != "Reshape" or _regroups(node)


def _regroups(reshape: ir.Node) -> bool:
    """True for a Reshape that splits axes, or merges axes of constant sizes (their index is divided by those)."""
    source, target = reshape.inputs[0], reshape.outputs[0]
    if source is None:
        return False
    before, after = type_of(source).shape, type_of(target).shape
    if merged_groups(after, before) is not None:
        return True
    groups = merged_groups(before, after)
    return groups is not None and all(
        sum(before[a] != 1 for a in group) < 2 or all(before[a].is_constant for a in group) for group in groups
    )


def keeps_shape(value: ir.Value) -> Accept:
    """Accepts elementwise nodes whose output has the shape of ``value``: what else they read is broadcast to it."""
    shape = type_of(value).shape
    return lambda node: is_elementwise(node) and type_of(node.outputs[0]).shape == shape
