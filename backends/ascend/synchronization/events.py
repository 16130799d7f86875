"""Event numbers for edges: at most eight for each ordered pair of pipes, eleven flags between cores.

Edges share numbers only where it is proved, for all trip counts, that their sets and waits cannot be confused: along
every path set and wait of the shared number alternate, and each set comes after the wait before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.backends.ascend.synchronization.dependence import Count
from tilewright.backends.ascend.synchronization.insert import Events
from tilewright.backends.ascend.synchronization.order import Order, Query


@dataclass(slots=True)
class _Group:
    """Edges that share ``count`` numbers."""

    count: int
    members: list[int] = field(default_factory=list)


def colour(placed: Placed, edges: Mapping[int, Candidate], taken: Mapping[int, int]) -> Events:
    """Numbers for each edge that is not a barrier; ``taken`` says how many each takes in turn.

    Raises :class:`Refused` when the hardware has too few.
    """
    pairs: dict[tuple[object, ...], list[int]] = {}
    for n, c in edges.items():
        if not c.is_barrier:
            pairs.setdefault(("cross",) if c.crosses else (c.source, c.sink), []).append(n)
    order: Order | None = None
    chosen: Events = dict.fromkeys(edges, ())
    for key, members in pairs.items():
        limit = int(placed.target.extra["cross_flags" if key == ("cross",) else "event_ids"])
        wanted = {n: 1 if edges[n].crosses else taken[n] for n in members}
        groups = [_Group(wanted[n], [n]) for n in members]
        if sum(g.count for g in groups) > limit:
            order = order or Order(placed, edges)
            groups = _shared(order, edges, members, wanted)
        if sum(g.count for g in groups) > limit:
            first = edges[members[0]]
            pair = "between cores" if first.crosses else f"{first.source[1]}->{first.sink[1]}"
            raise Refused("event ids", f"{placed.kernel.name}: more than {limit} events {pair} are needed at once")
        top = 0
        for g in groups:
            for n in g.members:
                chosen[n] = tuple(range(top, top + g.count))
            top += g.count
    return chosen


def _shared(
    order: Order, edges: Mapping[int, Candidate], members: list[int], wanted: Mapping[int, int]
) -> list[_Group]:
    """Groups made greedily: each edge joins the first group that it can be proved to get on with."""
    groups: list[_Group] = []
    for n in members:
        for g in groups:
            if g.count == wanted[n] and may_share(order, edges, [*g.members, n], g.count):
                g.members.append(n)
                break
        else:
            groups.append(_Group(wanted[n], [n]))
    return groups


def may_share(order: Order, edges: Mapping[int, Candidate], members: list[int], count: int) -> bool:
    """Whether edges may use the same ``count`` events in turn."""
    kinds = {(edges[n].loop if count > 1 else None, edges[n].distance, edges[n].crosses) for n in members}
    if len(kinds) > 1 or any(edges[n].distance or edges[n].crosses for n in members):
        return False
    if not _alternate(order, members):
        return False
    return all(order.proof(q) is not None for q in _takeovers(edges, members, count))


def _takeovers(edges: Mapping[int, Candidate], members: list[int], count: int) -> Iterator[Query]:
    """Every set of the group after every wait of it that comes before it and has the same number."""
    for x in members:
        for y in members:
            loop = edges[x].loop
            yield Query(("wait", x), ("set", y), (Count(str(loop), 0, count),) if count > 1 else ())


def _alternate(order: Order, members: list[int]) -> bool:
    """Whether each set of the group meets its own wait before any other statement of the group, on every path."""
    return order.alternates(frozenset(members))
