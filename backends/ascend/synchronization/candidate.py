"""The edges that synchronisation is chosen from: one for each dependence."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.backends.ascend.placed.form import Core, Pipe
from tilewright.backends.ascend.synchronization.dependence import Dependence, Site


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edge that may be needed; it takes ``slots`` events in turn.

    ``body`` is the path of the body, ``loop`` its loop, ``after`` and ``before`` its child numbers: set behind child
    ``after``, wait in front of child ``before``. ``pinned`` ones order more than the dependences ask for, so that
    events suffice.
    """

    source: tuple[Core, Pipe]
    sink: tuple[Core, Pipe]
    body: tuple[int, ...]
    loop: str | None
    after: int
    before: int
    distance: int
    slots: int
    reason: str = ""
    pinned: bool = False

    @property
    def is_barrier(self) -> bool:
        return self.source[1] == self.sink[1] and not self.crosses

    @property
    def crosses(self) -> bool:
        return self.source[0] != self.sink[0]


def candidates(found: list[Dependence], everything: list[Site]) -> list[Candidate]:
    """One edge that enforces each dependence, with what another of its kind dominates left out."""
    edges = dict.fromkeys(_edge(d, everything) for d in found)
    return _undominated(list(edges))


def _edge(d: Dependence, everything: list[Site]) -> Candidate:
    first, second = everything[d.first], everything[d.second]
    at = len(d.body)
    source, sink = (first.node.core, first.node.pipe), (second.node.core, second.node.pipe)
    after, before = first.path[at], second.path[at]
    if source == sink and not d.everywhere:
        return Candidate(source, sink, d.body, d.loop, before, before, 0, 1, d.reason)
    if not d.far:
        return Candidate(source, sink, d.body, d.loop, after, before, 0, d.slots, d.reason)
    distance = d.counts[0].first
    if after >= before:
        return Candidate(source, sink, d.body, d.loop, after, before, distance, distance, d.reason)
    if d.near:
        # The edge within the iteration orders later iterations as well.
        return Candidate(source, sink, d.body, d.loop, after, before, 0, 1, d.reason)
    # The set of an iteration stands in front of the wait for an earlier one: one more is under way.
    return Candidate(source, sink, d.body, d.loop, after, before, distance, distance + 1, d.reason)


def _undominated(found: list[Candidate]) -> list[Candidate]:
    """Leave out an edge where another of its kind is set no earlier and waited for no later."""
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for c in found:
        place = c.before if c.is_barrier else None
        groups.setdefault((c.source, c.sink, c.body, c.distance, c.slots, place), []).append(c)
    kept: list[Candidate] = []
    for group in groups.values():
        best: list[Candidate] = []
        for c in group:
            if not any(_dominates(o, c) for o in best):
                best = [o for o in best if not _dominates(c, o)] + [c]
        kept += best
    return sorted(kept, key=lambda c: (c.body, c.before, c.after, c.source, c.sink, c.distance))


def _dominates(a: Candidate, b: Candidate) -> bool:
    if a.is_barrier:
        return a.before == b.before
    return a.after >= b.after and a.before <= b.before
