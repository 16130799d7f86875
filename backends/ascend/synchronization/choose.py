"""Which edges stay: start from one for each dependence, drop each that the others prove to be implied.

Each dependence keeps the edges its proof rests on. An edge goes when everything whose proof uses it has another proof
without it: a transitive reduction (A. V. Aho, M. R. Garey and J. D. Ullman, The Transitive Reduction of a Directed
Graph, 1972) of orders with distances. In the end every dependence has a proof from the edges that are left, and none of
them can go.
"""

from __future__ import annotations

from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.backends.ascend.synchronization.dependence import Dependence
from tilewright.backends.ascend.synchronization.events import ahead, takeovers
from tilewright.backends.ascend.synchronization.facts import Facts
from tilewright.backends.ascend.synchronization.insert import Events, insert
from tilewright.backends.ascend.synchronization.order import Order, Query
from tilewright.backends.ascend.synchronization.paced import holder
from tilewright.errors import InternalError

#: Inactive edges after which the steps of the walk are made anew.
_STALE = 24


def choose(placed: Placed, found: list[Dependence], edges: dict[int, Candidate], facts: Facts) -> dict[int, Candidate]:
    """Those of ``edges`` that the dependences need."""
    private: Events = {n: tuple(range(c.slots)) for n, c in edges.items()}
    order = Order(placed, insert(placed.body, edges, private), facts)
    proofs: dict[Query, set[int]] = {}
    owner: dict[Query, int] = {}
    for d in found:
        query = Query(d.first, d.second, d.counts, d.everywhere)
        proofs[query] = _prove(placed, order, query, d.reason)
    for n, c in edges.items():
        for query in takeovers(n, c, ahead(placed, c)):
            proofs[query] = _held_back(placed, order, query, n, c)
            owner[query] = n
    users: dict[int, dict[Query, None]] = {n: {} for n in edges}
    for query, used in proofs.items():
        for n in used:
            users[n][query] = None
    stale = 0
    for n in sorted((n for n, c in edges.items() if not c.pinned), key=lambda n: _cost(edges[n])):
        order.without.add(n)
        anew: dict[Query, set[int]] = {}
        for query in users[n]:
            if owner.get(query) == n or query not in proofs:
                continue
            other = order.proof(query)
            if other is None:
                order.without.remove(n)
                break
            anew[query] = other
        else:
            for query in [q for q, o in owner.items() if o == n]:
                del proofs[query], owner[query]
            for query, used in anew.items():
                proofs[query] = used
                for m in used:
                    users[m][query] = None
            stale += 1
            if stale == _STALE:
                left = {m: c for m, c in edges.items() if m not in order.without}
                order.use(insert(placed.body, left, private))
                stale = 0
    return {n: c for n, c in edges.items() if n not in order.without}


def _held_back(placed: Placed, order: Order, query: Query, n: int, c: Candidate) -> set[int]:
    """The edges that keep the sets of an edge behind its waits, by a walk or, between cores, by counting turns."""
    if c.crosses and order.proof(query) is None:
        other = holder(order.body, n, ahead(placed, c))
        if other is not None:
            return {other}
    return _prove(placed, order, query, f"the events of edge {n}")


def _prove(placed: Placed, order: Order, query: Query, reason: str) -> set[int]:
    used = order.proof(query)
    if used is None:
        raise InternalError(
            f"{placed.kernel.name}: the edges do not order {query.source} before {query.sink}: {reason}"
        )
    return used


def _cost(c: Candidate) -> tuple[object, ...]:
    """What to try to drop first: barriers of transfer pipes, then meetings of cores, then edges that hold back most."""
    if c.is_barrier:
        return (0 if c.source[1] not in ("V", "M") else 3, 0, (*c.body, c.before))
    if c.crosses:
        return (1, -c.distance, (c.before - c.after,))
    return (2, 0 if c.distance == 1 else 1 if c.distance else 2, (c.after - c.before,))
