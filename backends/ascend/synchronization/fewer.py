"""Stronger synchronisation that needs fewer events, for kernels that would need more than the hardware has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.backends.ascend.synchronization.events import TooMany, may_share, takeovers
from tilewright.backends.ascend.synchronization.insert import insert
from tilewright.backends.ascend.synchronization.order import Order

Edges = dict[int, Candidate]


def fewer(placed: Placed, order: Order, edges: Edges, over: TooMany) -> Edges:
    """``edges`` changed so that those in ``over`` need fewer events: the first change that costs least.

    In this order: fewer events where nothing is lost; two edges of one body as one; an edge that makes
    room for another; one slot ahead instead of several. Raises :class:`Refused` when nothing is left to do.
    """
    for way in (_few_events, _merged, _after_another, _one_slot):
        for changed in way(order, edges, list(over.edges), over.limit):
            return changed
    c = edges[over.edges[0]]
    pair = "flags between cores" if c.crosses else f"events {c.source[1]}->{c.sink[1]}"
    text = f"{placed.kernel.name}: {over.wanted} {pair} are needed at once, {placed.target.spelling} has {over.limit}"
    raise Refused("event ids", text)


def _few_events(order: Order, edges: Edges, here: list[int], limit: int) -> Iterator[Edges]:
    """Edges whose sets stay behind their waits with fewer events as well: with as few as may be."""
    changed: Edges = {}
    for n in here:
        c = edges[n]
        for events in range(1, c.slots if not c.distance else 1):
            if all(order.proof(q) is not None for q in takeovers(n, c, events)):
                changed[n] = replace(c, slots=events)
                break
    if changed:
        yield {**edges, **changed}


def _merged(order: Order, edges: Edges, here: list[int], limit: int) -> Iterator[Edges]:
    """Two edges of one body as one, set where the later is and waited for where the earlier is.

    Within an iteration the one with fewer events lends its own: what keeps its sets behind its waits holds for both.
    """
    found: list[tuple[int, int, int]] = []
    for a, b in combinations(here, 2):
        x, y = edges[a], edges[b]
        alike = (x.source, x.sink, x.body, x.distance) == (y.source, y.sink, y.body, y.distance)
        if alike and (x.slots == y.slots if x.distance else max(x.after, y.after) < min(x.before, y.before)):
            found.append((abs(x.after - y.after) + abs(x.before - y.before), a, b))
    for _, a, b in sorted(found):
        x, y = edges[a], edges[b]
        places = max(x.after, y.after), min(x.before, y.before)
        one = replace(x, after=places[0], before=places[1], slots=min(x.slots, y.slots))
        yield {n: one if n == a else c for n, c in edges.items() if n != b}


def _after_another(order: Order, edges: Edges, here: list[int], limit: int) -> Iterator[Edges]:
    """An edge back, so that one edge's set comes after the wait of an earlier one, whose event it then takes."""
    inside = sorted((n for n in here if not edges[n].distance and edges[n].slots == 1), key=lambda n: edges[n].after)
    for a, b in zip(inside, inside[limit:], strict=False):
        x, y = edges[a], edges[b]
        if x.body == y.body and x.before < y.after and not may_share(order, edges, [a, b]):
            why = f"makes room for another event {y.source[1]}->{y.sink[1]}"
            back = Candidate(x.sink, x.source, x.body, x.loop, x.before, y.after, 0, 1, why, pinned=True)
            changed = {**edges, max(edges) + 1: back}
            order.use(insert(order.bare, changed, {n: (0,) * c.slots for n, c in changed.items()}))
            if may_share(order, changed, [a, b]):
                yield changed


def _one_slot(order: Order, edges: Edges, here: list[int], limit: int) -> Iterator[Edges]:
    """One slot ahead instead of several: correct, but what was to overlap does so no longer."""
    for n in here:
        c = edges[n]
        if c.distance and c.slots > 1:
            one = replace(c, distance=1 if c.after >= c.before else 0, slots=1)
            # What is brought in a turn ahead is set once more before the wait.
            if not one.distance or all(order.proof(q) is not None for q in takeovers(n, one, 1)):
                yield {**edges, n: one}
        elif c.slots > 1:
            why = "keeps the sets of one event behind its waits"
            back = Candidate(c.sink, c.source, c.body, c.loop, c.before, c.after, 1, 1, why, pinned=True)
            yield {**edges, n: replace(c, slots=1), max(edges) + 1: back}
