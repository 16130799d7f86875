"""Insert flags, cross-core flags and barriers into a placed kernel: no more than its dependences need.

1. :mod:`dependence` finds the pairs of statements that must be ordered, with iteration distances.
2. One candidate edge enforces each; :mod:`choose` drops every edge that the others imply. :mod:`order` proves it by
   following one token along every path through the tree, so it holds for all trip counts that the bounds of the loops
   allow, loops that run zero times included. Ragged tiles touch less memory while their flags stay, so they need no
   order that full ones do not. Where counters between cores keep step because their loops do, :mod:`paced` counts.
3. :mod:`events` numbers the events within the limits of the hardware; where they do not suffice, :mod:`fewer` takes
   stronger synchronisation that needs fewer. :mod:`insert` puts the statements in.
4. :mod:`verify` proves the finished tree once more, with the events as they were given out.

What is proved: for each pair of statements that may touch one byte, one of them writing, the second starts after the
first has ended, in every run; and no event is set again before the wait for its last set. An edge of distance d around
a loop is primed by d sets in front of the outermost loop and drained by d waits behind it. The proof rests on what the
Ascend C reference says of SetFlag/WaitFlag, CrossCoreSetFlag/CrossCoreWaitFlag and PipeBarrier, and on bounds of
addresses that :mod:`conflict` finds; that groups of cores do not meet in global memory is the placing's business.

Barriers stand between dependent statements of one pipe, of any pipe but the scalar one: "This synchronization needs to
be inserted between the same pipelines with data dependencies", and the order of scalar instructions "is automatically
ensured by the hardware" (Ascend C reference, PipeBarrier, CANN 9.0). No pipe is excepted there: neither the vector unit
nor sums of Mmad in one place of L0C, nor transfers of one pipe to places that overlap.
"""

from __future__ import annotations

from dataclasses import replace

from tilewright.backends.ascend.placed.form import Edge, Placed
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.candidate import Candidate, candidates
from tilewright.backends.ascend.synchronization.choose import choose
from tilewright.backends.ascend.synchronization.dependence import dependences, sites
from tilewright.backends.ascend.synchronization.events import TooMany, colour, steady
from tilewright.backends.ascend.synchronization.facts import facts_of
from tilewright.backends.ascend.synchronization.fewer import fewer
from tilewright.backends.ascend.synchronization.insert import Events, insert
from tilewright.backends.ascend.synchronization.order import Order
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.errors import InternalError

#: Changes that may be tried to do with fewer events; each saves one, and a kernel has not that many.
_CHANGES = 100


def synchronize(placed: Placed) -> Placed:
    """``placed`` with its synchronisation.

    Raises :class:`~tilewright.backends.ascend.simulator.memory.Refused` when the hardware's events do not suffice.
    """
    facts = facts_of(placed)
    found = dependences(placed, facts)
    edges = dict(enumerate(candidates(found, list(sites(placed.body)))))
    edges = steady(placed, Order(placed, insert(placed.body, edges, _private(edges)), facts), edges)
    for _ in range(_CHANGES):
        edges = dict(enumerate(choose(placed, found, edges, facts).values()))
        order = Order(placed, insert(placed.body, edges, _private(edges)), facts)
        events = colour(placed, order, edges)
        if not isinstance(events, TooMany):
            listed = tuple(_edge(n, c) for n, c in edges.items())
            done = replace(placed, body=insert(placed.body, edges, events), edges=listed)
            if (problem := unproved(done, found)) is not None:
                raise InternalError(f"{placed.kernel.name}: the synchronised tree is not proved: {problem}")
            return done
        edges = fewer(placed, order, edges, events)
    raise Refused(
        "event ids", f"{placed.kernel.name}: no way to do with the events of {placed.target.spelling} was found"
    )


def _private(edges: dict[int, Candidate]) -> Events:
    """Events of its own for each edge: walks look at edges, not at events."""
    return {n: (0,) * c.slots for n, c in edges.items()}


def _edge(number: int, c: Candidate) -> Edge:
    kind = "barrier" if c.is_barrier else "cross" if c.crosses else "flag"
    return Edge(number, kind, ".".join(c.source), ".".join(c.sink), c.loop, c.distance, c.reason)  # type: ignore[arg-type]
