"""Insert flags, cross-core flags and barriers into a placed kernel: no more than its dependences need.

Start from every edge that the dependences ask for (:mod:`dependence`), then drop each one that the others imply. What
is implied is decided by replaying clocks, with no data, over probe sizes that give every loop 1, 2, 3 and 5 iterations
where its bound is symbolic. That is enough for any number of iterations: an edge spans at most two iterations of its
loop and orders never run backwards, so whatever path of edges orders two statements lies between their iterations, and
the pattern of edges is the same from one iteration (and slot parity) to the next. Probes use full tiles; a ragged one
touches less memory while its flags stay, so it needs no order that the full one does not. An edge of distance ``d``
around a loop is primed by ``d`` sets in front of the outermost loop and drained by ``d`` waits behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tilewright.backends.ascend.placed.form import Barrier, CrossFlag, Edge, Flag, Loop, Node, Placed, counter
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.dependence import Candidate, candidates
from tilewright.backends.ascend.synchronization.replay import Replay
from tilewright.errors import InternalError
from tilewright.ir.symbolic import ZERO, constant, symbol

Events = dict[int, tuple[int, ...]]


def synchronize(placed: Placed, probes: Sequence[dict[str, int]]) -> Placed:
    """``placed`` with its synchronisation. ``probes``: values of the dimension symbols to try orders on.

    Raises :class:`Refused` when the hardware's events do not suffice.
    """
    found = candidates(placed)
    private: Events = {}
    for number, c in enumerate(found):
        private[number] = tuple(range(1000 * number, 1000 * number + c.slots))
    everything = replace(placed, body=insert(placed.body, dict(enumerate(found)), private))
    replays = [Replay(everything, probe) for probe in probes]
    kept = set(range(len(found)))
    for replay in replays:
        if problem := replay.first_problem(kept, private):
            raise InternalError(f"{placed.kernel.name}: candidate edges do not order everything: {problem}")
    for number in sorted(kept, key=lambda n: _cost(found[n])):
        trial = kept - {number}
        if all(r.first_problem(trial, private) is None for r in replays):
            kept = trial
    order = sorted(kept)
    events = _colour(placed, {n: found[n] for n in order}, replays, private)
    renumbered = {i: found[n] for i, n in enumerate(order)}
    final_events = {i: events[n] for i, n in enumerate(order)}
    edges = tuple(_edge(i, c) for i, c in renumbered.items())
    return replace(placed, body=insert(placed.body, renumbered, final_events), edges=edges)


def _cost(c: Candidate) -> tuple[int, int, int]:
    """What to try to drop first: barriers of transfer pipes, then meetings of cores, then edges that hold back most."""
    if c.is_barrier:
        return (0 if c.source[1] not in ("V", "M") else 3, c.after, 0)
    if c.crosses:
        return (1, -c.distance, c.before - c.after)
    return (2, 0 if c.distance == 1 else 1 if c.distance else 2, c.after - c.before)


def _edge(number: int, c: Candidate) -> Edge:
    kind = "barrier" if c.is_barrier else "cross" if c.crosses else "flag"
    return Edge(number, kind, ".".join(c.source), ".".join(c.sink), c.loop, c.distance, c.reason)  # type: ignore[arg-type]


# -- event numbers -------------------------------------------------------------------------------------------------


def _colour(placed: Placed, kept: dict[int, Candidate], replays: Iterable[Replay], private: Events) -> Events:
    """Event numbers per edge, the lowest that work; an event is shared only where the replay proves it unambiguous."""
    limits = int(placed.target.extra["event_ids"]), int(placed.target.extra["cross_flags"])
    chosen: Events = dict(private)
    done: list[int] = []
    numbers = set(kept)
    for number, c in kept.items():
        if c.is_barrier:
            continue
        limit = limits[1] if c.crosses else limits[0]
        wanted = 1 if c.crosses else c.slots
        same = [o for o in done if _competes(kept[o], c)]
        used = {e for o in same for e in chosen[o]}
        free = [e for e in range(limit) if e not in used][:wanted]
        if len(free) < wanted:
            free = list(_shared(number, wanted, limit, chosen=chosen, numbers=numbers, replays=replays))
        if len(free) < wanted:
            pair = f"{c.source[1]}->{c.sink[1]}"
            raise Refused("event ids", f"{placed.kernel.name}: more than {limit} events {pair} are needed at once")
        chosen[number] = tuple(free)
        done.append(number)
    return chosen


def _shared(
    number: int, wanted: int, limit: int, *, chosen: Events, numbers: set[int], replays: Iterable[Replay]
) -> Iterable[int]:
    for first in range(limit - wanted + 1):
        trial = {**chosen, number: tuple(range(first, first + wanted))}
        if all(r.first_problem(numbers, trial) is None for r in replays):
            return trial[number]
    return ()


def _competes(a: Candidate, b: Candidate) -> bool:
    if a.crosses or b.crosses:
        return a.crosses and b.crosses
    return a.source == b.source and a.sink == b.sink


# -- insertion -----------------------------------------------------------------------------------------------------


def insert(body: tuple[Node, ...], edges: dict[int, Candidate], events: Events) -> tuple[Node, ...]:
    """``body`` with the statements of ``edges``."""
    return _insert(body, (), edges, events)


def _insert(
    body: tuple[Node, ...], path: tuple[int, ...], edges: dict[int, Candidate], events: Events
) -> tuple[Node, ...]:
    result: list[Node] = []
    here = {n: c for n, c in edges.items() if c.body == path}
    for i, node in enumerate(body):
        if not path:
            result += _ends("set", i, edges, events)
        result += [_statement("wait", n, c, events) for n, c in here.items() if c.before == i]
        result.append(
            replace(node, body=_insert(node.body, (*path, i), edges, events)) if isinstance(node, Loop) else node
        )
        result += [_statement("set", n, c, events) for n, c in here.items() if c.after == i and not c.is_barrier]
        if not path:
            result += _ends("wait", i, edges, events)
    return tuple(result)


def _ends(action: str, outermost: int, edges: dict[int, Candidate], events: Events) -> list[Node]:
    """Priming sets in front of, or draining waits behind, the outermost loop of each edge around a loop."""
    nodes: list[Node] = []
    for n, c in edges.items():
        if c.distance and c.body[0] == outermost:
            nodes += [_statement(action, n, c, events, slot) for slot in range(c.distance)]
    return nodes


def _statement(action: str, number: int, c: Candidate, events: Events, slot: int | None = None) -> Node:
    core, pipe = c.source if action == "set" else c.sink
    if c.is_barrier:
        return Barrier(core, pipe, number)
    if c.crosses:
        return CrossFlag(action, core, pipe, events[number][0], number)  # type: ignore[arg-type]
    if slot is not None:
        turn = constant(slot)
    elif c.loop is not None and len(events[number]) > 1:
        turn = symbol(counter(c.loop))
    else:
        turn = ZERO
    return Flag(action, core, c.source[1], c.sink[1], events[number], turn, number)  # type: ignore[arg-type]
