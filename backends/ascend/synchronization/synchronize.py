"""Insert flags, cross-core flags and barriers into a placed kernel: no more than its dependences need.

1. :mod:`dependence` finds the pairs of statements that must be ordered, with iteration distances.
2. One candidate edge enforces each; :mod:`choose` drops every edge that the others imply. :mod:`order` proves it by
   following one token along every path through the tree, so it holds for all trip counts that the bounds of the loops
   allow, loops that run zero times included. Ragged tiles touch less memory while their flags stay, so they need no
   order that full ones do not.
3. :mod:`events` numbers the events within the limits of the hardware; :mod:`insert` puts the statements in.

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
from tilewright.backends.ascend.synchronization.candidate import Candidate, candidates
from tilewright.backends.ascend.synchronization.choose import choose
from tilewright.backends.ascend.synchronization.dependence import dependences, sites
from tilewright.backends.ascend.synchronization.events import colour
from tilewright.backends.ascend.synchronization.facts import facts_of
from tilewright.backends.ascend.synchronization.insert import insert


def synchronize(placed: Placed) -> Placed:
    """``placed`` with its synchronisation.

    Raises :class:`~tilewright.backends.ascend.simulator.memory.Refused` when the hardware's events do not suffice.
    """
    found = dependences(placed, facts_of(placed))
    edges = dict(enumerate(candidates(found, list(sites(placed.body)))))
    cross = int(placed.target.extra["cross_count"])
    taken = {n: cross if c.crosses else c.slots for n, c in edges.items()}
    kept = choose(placed, found, edges, taken)
    numbered = dict(enumerate(kept.values()))
    events = colour(placed, numbered, {i: taken[n] for i, n in enumerate(kept)})
    listed = tuple(_edge(i, c) for i, c in numbered.items())
    return replace(placed, body=insert(placed.body, numbered, events), edges=listed)


def _edge(number: int, c: Candidate) -> Edge:
    kind = "barrier" if c.is_barrier else "cross" if c.crosses else "flag"
    return Edge(number, kind, ".".join(c.source), ".".join(c.sink), c.loop, c.distance, c.reason)  # type: ignore[arg-type]
