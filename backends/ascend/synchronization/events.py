"""Event numbers for edges: few for each ordered pair of pipes, eleven flags between cores.

Edges share numbers only where it is proved, for all trip counts, that their sets and waits cannot be confused: along
every path set and wait of the shared number alternate, and each set comes after the wait before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tilewright.backends.ascend.placed.form import Node, Pipe, Placed
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.backends.ascend.synchronization.dependence import Count
from tilewright.backends.ascend.synchronization.insert import Events, insert
from tilewright.backends.ascend.synchronization.order import Order, Query
from tilewright.backends.ascend.synchronization.paced import holder

#: Events beyond its slots that an edge may take before an edge back is cheaper.
_MORE_EVENTS = 3
#: Iterations that one core may be ahead of another where only the counter of a flag holds it back: to tell each other
#: takes long, so several are under way; a counter holds more.
_CROSS_AHEAD = 2
#: The pipe of every core that runs ahead of the others.
_EARLY: Pipe = "MTE2"


def ahead(placed: Placed, c: Candidate) -> int:
    """How many sets of an edge there may be before a wait: the events that it takes in turn, or a counter's limit."""
    return int(placed.target.extra["cross_count"]) if c.crosses else c.slots


def takeovers(number: int, c: Candidate, events: int) -> Iterator[Query]:
    """What must be ordered for the sets of an edge not to overtake its waits: the set that uses an event again comes
    after the wait for the one before. ``events``: see :func:`ahead`."""
    if c.is_barrier or c.loop is None:
        return
    far = events - c.distance
    count = Count(c.loop, far, 1) if far else Count(c.loop, 0, None)
    yield Query(("wait", number), ("set", number), (count,))


def steady(placed: Placed, order: Order, edges: Mapping[int, Candidate]) -> dict[int, Candidate]:
    """``edges`` with as many events each as its sets can be ahead of its waits; ``order`` walks over ``edges``.

    Where nothing holds the sets back, not even what holds back another counter, an edge in the other direction does.
    """
    result = dict(edges)
    for n, c in edges.items():
        if c.is_barrier or _stays_behind(order, n, c, ahead(placed, c)):
            continue
        if c.crosses and holder(_with_edges(placed, result), n, ahead(placed, c)) is not None:
            continue
        for more in range(1, 0 if c.crosses else _MORE_EVENTS):
            if _stays_behind(order, n, c, c.slots + more):
                result[n] = replace(c, slots=c.slots + more)
                break
        else:
            why = "keeps the sets of an event behind its waits"
            result[n] = replace(c, slots=c.distance + 1)
            # Between cores it says that the wait is over, which holds the whole core back; so a pipe that runs ahead
            # says it, and a core that has no more to do does not wait for the others' last results.
            far, back = (_CROSS_AHEAD, (c.sink[0], _EARLY)) if c.crosses else (1, c.sink)
            result[max(result) + 1] = Candidate(
                back, c.source, c.body, c.loop, c.before, c.after, far, far + (c.before <= c.after), why, pinned=True
            )
    return result


def _with_edges(placed: Placed, edges: dict[int, Candidate]) -> tuple[Node, ...]:
    return insert(placed.body, edges, {n: (0,) * c.slots for n, c in edges.items()})


def _stays_behind(order: Order, n: int, c: Candidate, events: int) -> bool:
    return all(order.proof(q) is not None for q in takeovers(n, c, events))


def may_share(order: Order, edges: Mapping[int, Candidate], members: Sequence[int]) -> bool:
    """Whether edges of one pair of pipes may use the same events in turn.

    With several events each, they take them in turn with one loop, so that those of one iteration are the same.
    """
    first = edges[members[0]]
    if any(edges[n].distance or edges[n].crosses or edges[n].slots != first.slots for n in members):
        return False
    if first.slots > 1 and any(edges[n].loop != first.loop for n in members):
        return False
    if not order.alternates(frozenset(members)):
        return False
    counts = (Count(str(first.loop), 0, first.slots),) if first.slots > 1 else ()
    pairs = ((x, y) for x in members for y in members)
    return all(order.proof(Query(("wait", x), ("set", y), counts)) is not None for x, y in pairs)


@dataclass(slots=True)
class _Group:
    """Edges that share ``count`` numbers."""

    count: int
    members: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TooMany:
    """A pair of pipes whose ``edges`` need ``wanted`` events where there are ``limit``."""

    edges: tuple[int, ...]
    wanted: int
    limit: int


def colour(placed: Placed, order: Order, edges: Mapping[int, Candidate]) -> Events | TooMany:
    """Numbers for each edge that is not a barrier; ``order`` walks over ``edges``."""
    pairs: dict[tuple[object, ...], list[int]] = {}
    for n, c in edges.items():
        if not c.is_barrier:
            pairs.setdefault(("cross",) if c.crosses else (c.source, c.sink), []).append(n)
    chosen: Events = dict.fromkeys(edges, ())
    for key, members in pairs.items():
        limit = int(placed.target.extra["cross_flags" if key == ("cross",) else "event_ids"])
        groups = [_Group(_wanted(edges[n]), [n]) for n in members]
        if sum(g.count for g in groups) > limit:
            groups = _shared(order, edges, members)
        wanted = sum(g.count for g in groups)
        if wanted > limit:
            return TooMany(tuple(members), wanted, limit)
        top = 0
        for g in groups:
            for n in g.members:
                chosen[n] = tuple(range(top, top + g.count))
            top += g.count
    return chosen


def _wanted(c: Candidate) -> int:
    return 1 if c.crosses else c.slots


def _shared(order: Order, edges: Mapping[int, Candidate], members: Sequence[int]) -> list[_Group]:
    """Groups made greedily: each edge joins the first group that it can be proved to get on with."""
    groups: list[_Group] = []
    for n in members:
        for g in groups:
            if may_share(order, edges, [*g.members, n]):
                g.members.append(n)
                break
        else:
            groups.append(_Group(_wanted(edges[n]), [n]))
    return groups
