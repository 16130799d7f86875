"""The order in which a graph lists its nodes, kept while a pass replaces regions by single nodes.

A linked list does not say where a node stands. Counting anew for every region would make a pass quadratic; here nodes
are counted once, and a fused node takes the place of the last node that went into it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir


class Order:
    """Positions of the nodes of one graph. Only :meth:`replace` changes the graph while it is in use."""

    def __init__(self, graph: ir.Graph):
        self.graph = graph
        self._listed: list[ir.Node] = []
        self._at: dict[ir.Node, int] = {}
        self._holder: dict[ir.Node, ir.Node] = {}
        self._count()

    def at(self, node: ir.Node) -> int:
        """The position of ``node``; no two nodes share one."""
        return self._at[node]

    def sorted(self, nodes: Collection[ir.Node]) -> list[ir.Node]:
        """``nodes`` in the order of the graph."""
        return sorted(nodes, key=self._at.__getitem__)

    def following(self, node: ir.Node, count: int) -> list[ir.Node]:
        """At most ``count`` nodes after ``node``."""
        found: list[ir.Node] = []
        for position in range(self._at[node] + 1, len(self._listed)):
            if len(found) == count:
                break
            if (other := self._listed[position]) in self._at:
                found.append(other)
        return found

    def readers(self, value: ir.Value) -> Iterator[ir.Node]:
        """The nodes of the graph that read ``value``; a use inside a branch counts for the node that has the branch."""
        for use in value.uses():
            node = self._holder.get(use.node, use.node)
            if node in self._at:
                yield node

    def hanging(self, nodes: Collection[ir.Node], before: int) -> list[ir.Node]:
        """``nodes`` and what depends on them, as far as it stands before position ``before``, in order."""
        seen: set[ir.Node] = set()
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node not in seen and self._at[node] < before:
                seen.add(node)
                pending += [r for o in node.outputs for r in self.readers(o)]
        return self.sorted(seen)

    def replace(self, region: Sequence[ir.Node], fused: ir.Node) -> None:
        """Put ``fused``, whose outputs are read already, where the last of ``region`` stands, and take ``region`` out.

        Readers that stand before that place move behind it, with what depends on them.
        """
        last = self._at[region[-1]]
        late = self.hanging([r for o in fused.outputs for r in self.readers(o)], last)
        region[-1].append([fused, *late])
        self.graph.remove(region, safe=True)
        for node in region:
            del self._at[node]
        self._at[fused], self._listed[last] = last, fused
        if late:
            self._count()

    def _count(self) -> None:
        self._listed = list(self.graph)
        self._at = {node: i for i, node in enumerate(self._listed)}
        self._holder = {inner: node for node in self.graph for inner in _inside(node)}


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    """Every node in the branches of ``node``."""
    for attribute in node.attributes.values():
        if attribute.is_ref() or attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        for graph in [attribute.value] if attribute.type is ir.AttributeType.GRAPH else attribute.value:
            for inner in graph:
                yield inner
                yield from _inside(inner)
