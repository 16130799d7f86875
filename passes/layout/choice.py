"""Choosing one of two labels for each of many things at the least total cost, exactly: a minimum cut.

Every cost here is one that a cut can express: of a label alone, of two things that differ, of a copy that is made once
for all readers that want the other label. So the least cost is found, not approximated (Greig, Porteous, Seheult 1989:
Exact maximum a posteriori estimation for binary images; Kolmogorov, Zabih 2004: What energy functions can be minimized
via graph cuts?). Among equal costs the answer with the fewest ones is taken, which is unique.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import networkx
from tilewright.errors import InternalError

#: Costs are rounded to this many seconds, so that sums are exact and every machine gives the same answer.
_RESOLUTION = 1e-12

_ZERO, _ONE = ("side", 0), ("side", 1)


@dataclass(slots=True)
class Choice:
    """Costs in seconds, collected; then :meth:`solve`."""

    _edges: dict[tuple[Hashable, Hashable], int] = field(default_factory=dict)
    _never: list[tuple[Hashable, Hashable]] = field(default_factory=list)
    _copies: int = 0

    def cost(self, thing: Hashable, *, zero: float = 0.0, one: float = 0.0) -> None:
        """What the labels of one thing cost."""
        self._edge(_ZERO, thing, one)
        self._edge(thing, _ONE, zero)

    def fix(self, thing: Hashable, label: int) -> None:
        """Give one thing its label."""
        self._never.append((thing, _ONE) if label else (_ZERO, thing))

    def differ(self, a: Hashable, b: Hashable, cost: float) -> None:
        """What it costs when two labels differ."""
        self._edge(a, b, cost)
        self._edge(b, a, cost)

    def tie(self, a: Hashable, b: Hashable) -> None:
        """Two labels that have to be equal."""
        self._never += [(a, b), (b, a)]

    def shared(self, source: Hashable, readers: Iterable[Hashable], cost: float) -> None:
        """What it costs, once, when at least one of ``readers`` has another label than ``source``."""
        self._copies += 1
        to_one, to_zero = ("copy", 1, self._copies), ("copy", 0, self._copies)
        self._edge(source, to_one, cost)
        self._edge(to_zero, source, cost)
        for reader in readers:
            self._never += [(to_one, reader), (reader, to_zero)]

    def solve(self) -> dict[Hashable, int]:
        """The labels of least cost. Raises :class:`InternalError` when fixed and tied labels disagree."""
        network = networkx.DiGraph()
        network.add_nodes_from([_ZERO, _ONE])
        for (a, b), capacity in self._edges.items():
            network.add_edge(a, b, capacity=capacity)
        never = 1 + sum(self._edges.values())
        for a, b in self._never:
            network.add_edge(a, b, capacity=never)
        total, (zeros, _) = networkx.minimum_cut(network, _ZERO, _ONE)
        if total >= never:
            raise InternalError("labels that are fixed or tied contradict one another")
        return {thing: 0 if thing in zeros else 1 for thing in network if thing not in (_ZERO, _ONE)}

    def _edge(self, a: Hashable, b: Hashable, cost: float) -> None:
        """``cost`` when ``a`` is zero and ``b`` is one."""
        if cost > 0:
            self._edges[a, b] = self._edges.get((a, b), 0) + max(1, round(cost / _RESOLUTION))
