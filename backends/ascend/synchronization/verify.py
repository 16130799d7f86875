"""The proof on a program as it stands: its flags and barriers order every dependence, whatever the sizes are.

Works on the tree alone, however its flags got there, so it also judges programs that somebody has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.backends.ascend.placed.form import CrossFlag, Flag, Placed, statements
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.backends.ascend.synchronization.dependence import Dependence, dependences
from tilewright.backends.ascend.synchronization.events import ahead, may_share, takeovers
from tilewright.backends.ascend.synchronization.facts import facts_of
from tilewright.backends.ascend.synchronization.order import Order, Query
from tilewright.backends.ascend.synchronization.paced import holder
from tilewright.backends.ascend.synchronization.steps import Unbalanced


def unproved(placed: Placed, found: Sequence[Dependence] | None = None) -> str | None:
    """What is not proved of a synchronised program, or None when all is.

    Proved: wherever two statements may touch one byte and one of them writes it, the later in the tree starts after the
    earlier has ended; every wait has a set before it, all flags end as they began, and no event is set again before the
    wait for its last set. ``found`` are the dependences of ``placed``, when they are known already.
    """
    facts = facts_of(placed)
    try:
        order = Order(placed, placed.body, facts)
    except Unbalanced as error:
        return str(error)
    for d in dependences(placed, facts) if found is None else found:
        if order.proof(Query(d.first, d.second, d.counts, d.everywhere)) is None:
            return f"statement {d.second} after statement {d.first}: {d.reason}"
    edges = _edges(placed)
    for n, c in edges.items():
        for query in takeovers(n, c, ahead(placed, c)):
            counted = c.crosses and holder(placed.body, n, ahead(placed, c)) is not None
            if not counted and order.proof(query) is None:
                return f"edge {n} may be set again before it was waited for"
    return _shared(order, placed, edges)


def _edges(placed: Placed) -> dict[int, Candidate]:
    """What the flags in the tree say of each edge, apart from where they stand."""
    known = {e.number: e for e in placed.edges}
    edges: dict[int, Candidate] = {}
    for node in statements(placed.body):
        if isinstance(node, Flag):
            e = known[node.edge]
            ends = (node.core, node.src), (node.core, node.dst)
            edges[node.edge] = Candidate(*ends, (), e.loop, 0, 0, e.distance, len(node.events))
        elif isinstance(node, CrossFlag):
            e = known[node.edge]
            other = "vector" if node.core == "cube" else "cube"
            cores = (node.core, other) if node.action == "set" else (other, node.core)
            edges[node.edge] = Candidate((cores[0], "S"), (cores[1], "S"), (), e.loop, 0, 0, e.distance, 1)  # type: ignore[arg-type]
    return edges


def _shared(order: Order, placed: Placed, edges: Mapping[int, Candidate]) -> str | None:
    """The first edges that have an event in common and may be confused."""
    users: dict[tuple[object, ...], list[int]] = {}
    for node in statements(placed.body):
        if isinstance(node, Flag):
            for event in node.events:
                users.setdefault((node.core, node.src, node.dst, event), []).append(node.edge)
        elif isinstance(node, CrossFlag):
            users.setdefault((node.flag,), []).append(node.edge)
    for members in {tuple(sorted(set(m))): None for m in users.values() if len(set(m)) > 1}:
        if not may_share(order, edges, members):
            return f"edges {', '.join(map(str, members))} share an event and may be confused"
    return None
