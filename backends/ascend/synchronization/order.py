"""Happens-before in a placed kernel, decided for all sizes at once by following one token along every path.

Take one instance of a statement (the source) and put a token on its end. Who knows that it has ended?

- A pipe starts its statements in order but ends them in any order. A *set* or a *barrier* of the source's pipe waits
  for all that the pipe started before it: the set's message carries the token, and behind the barrier the pipe knows.
- A *wait* hands its message to its pipe: whatever that pipe starts later knows, and so do its later sets.
- A *cross-core wait* holds back the scalar unit, which issues everything: all pipes of the core know from there on.
- An edge of distance d is a queue of d messages, filled in front of its outermost loop and emptied behind it. The wait
  of an iteration takes the message of d iterations ago; the counts of a loop run on when it is entered again.

The statements of all cores stand in one tree, and one order that the hardware may take is that of the tree. So the
token walks the tree: at the end of a loop it goes on in the next iteration and behind the loop, at the beginning into
it and past it, as the bounds of the trip count allow. What is known (a set of pipes and of messages) only grows along a
path, places are finitely many, and a path is given up where another reached the same place knowing no more; so the walk
ends. The sink is ordered after the source *for all trip counts* if its pipe knows wherever a path meets it.

This is the reachability form of the test for redundant synchronisation with iteration distances, in which an arc is
redundant when a chain of others with at most its distance connects its ends, extended by branches for loops that may be
empty: Z. Li and W. Abu-Sufah, On Reducing Data Synchronization in Multiprocessed Loops (1987); S. P. Midkiff and D. A.
Padua, Compiler Algorithms for Synchronization (1987); V. P. Krothapalli and P. Sadayappan, Removal of Redundant
Dependences in DOACROSS Loops with Constant Dependences (1991). Happens-before is Lamport's (Time, Clocks, and the
Ordering of Events in a Distributed System, 1978); the simulator checks the same order on one run with vector clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tilewright.backends.ascend.placed.form import Node, Placed
from tilewright.backends.ascend.placed.stream import PIPE_ORDER
from tilewright.backends.ascend.synchronization.dependence import Count
from tilewright.backends.ascend.synchronization.facts import MANY, Facts
from tilewright.backends.ascend.synchronization.steps import Kind, Name, Steps, shape_of

#: As plain numbers, since the walk compares them all the time.
_SET, _WAIT, _BARRIER, _ENTER, _END, _STOP = (int(k) for k in Kind)
#: State of a walk: place, what the pipes know, what messages carry, iteration of counted loops, counts.
_State = tuple[int, int, int, tuple[int, ...], tuple[int, ...]]
#: Loop, first and period of each count.
_Counts = tuple[tuple[int, int, int | None], ...]
_Seen = dict[tuple[object, ...], list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Query:
    """Whether ``sink`` comes after ``source`` wherever all of ``counts`` hold; ``everywhere``: on every vector core."""

    source: Name
    sink: Name
    counts: tuple[Count, ...]
    everywhere: bool = False


class Order:
    """Walks over ``body``, a synchronised ``placed``; edges that are in ``without`` are passed by.

    Raises :class:`~tilewright.backends.ascend.synchronization.steps.Unbalanced`.
    """

    def __init__(self, placed: Placed, body: tuple[Node, ...], facts: Facts):
        self.shape, self.bare = shape_of(placed, facts), placed.body
        self.without: set[int] = set()
        self.use(body)

    def use(self, body: tuple[Node, ...]) -> None:
        """Walk over ``body`` from now on."""
        self.body = body
        self.programs = {False: Steps(self.shape, False).run(body)}

    def _steps(self, both: bool) -> Steps:
        if both not in self.programs:
            self.programs[both] = Steps(self.shape, both).run(self.body)
        return self.programs[both]

    def proof(self, query: Query) -> set[int] | None:
        """The edges that a proof rests on; None when there is a path on which the sink's pipe does not know."""
        steps = self._steps(query.everywhere)
        source, sink = steps.points[query.source], steps.points[query.sink]
        need = sink.pipe | (sink.pipe << len(PIPE_ORDER) if query.everywhere else 0)
        if source.issues & need == need or any(not self.shape.trips[v].most for v in (*source.loops, *sink.loops)):
            return set()
        starts = [range(1) for _ in self.shape.counted]
        for name in source.loops:
            if name in self.shape.counted:
                # In which of its iterations the source runs is open; the last ones are taken as one.
                starts[self.shape.counted[name]] = range(max(1, self.shape.trips[name].most))
        counts = tuple((self.shape.numbers[c.loop], c.first, c.period) for c in query.counts)
        begin = source.place if isinstance(query.source, int) else source.place + 1
        work: list[_State] = [(begin, source.issues, 0, idx, (0,) * len(counts)) for idx in product(*starts)]
        return self._walk(steps.ops, work, sink.place, need, 0 if source.issues else source.pipe, counts)

    def _walk(
        self,
        ops: list[tuple[int, ...]],
        work: list[_State],
        goal: int,
        need: int,
        own: int,
        counts: _Counts,
    ) -> set[int] | None:
        without, used = self.without, set[int]()
        seen: _Seen = {}
        while work:
            place, know, sent, idx, cnt = work.pop()
            while True:
                if place == goal and all(v == first for v, (_, first, _) in zip(cnt, counts, strict=True)):
                    return None  # a path ends as soon as the sink's pipe knows
                op = ops[place]
                kind = op[0]
                place += 1
                if kind == _SET:
                    if op[1] not in without and (know | own) & op[2]:
                        sent |= op[3]
                elif kind == _WAIT:
                    here = sent & op[3]
                    if here and op[1] not in without:
                        if here & op[2]:
                            if know & op[4] != op[4]:
                                used.add(op[1])
                                know |= op[4]
                            if know & need == need:
                                break
                        sent = sent ^ here | (here & ~op[2]) >> 1
                elif kind == _BARRIER:
                    if own & op[2] and not know & own and op[1] not in without:
                        know |= own
                        used.add(op[1])
                        if know & need == need:
                            break
                elif kind == _STOP:
                    break
                else:
                    step = self._turn(op, place, know, sent, idx, cnt, counts, seen)
                    if not step:
                        break
                    work += step[1:]
                    place, know, sent, idx, cnt = step[0]
        return used

    def _turn(
        self,
        op: tuple[int, ...],
        place: int,
        know: int,
        sent: int,
        idx: tuple[int, ...],
        cnt: tuple[int, ...],
        counts: _Counts,
        seen: _Seen,
    ) -> list[_State]:
        """Where a path goes on from the beginning or the end of a loop, without what leads to nothing new."""
        kind, loop, target, slot, least, most = op
        if kind == _END:
            changed = list(cnt)
            for j, (name, first, period) in enumerate(counts):
                if name == loop:
                    if period is None and changed[j] == first:
                        return []
                    changed[j] = changed[j] + 1
                    if period is not None and changed[j] == first + period:
                        changed[j] = first
            cnt = tuple(changed)
            done = idx[slot] + 1 if slot >= 0 else 1
            again = done < most or most == MANY
            leave = done >= least
            following = []
            if again:
                following.append((target, know, sent, _with(idx, slot, min(done, MANY - 1)), cnt))
            if leave:
                following.append((place, know, sent, _with(idx, slot, 0), cnt))
        else:
            following = [(place, know, sent, idx, cnt)] if most > 0 else []
            if least == 0:
                following.append((target, know, sent, idx, cnt))
        fresh = []
        for state in following:
            reached = seen.setdefault((state[0], state[3], state[4]), [])
            if not any(k & know == k and s & sent == s for k, s in reached):
                reached.append((know, sent))
                fresh.append(state)
        return fresh

    def alternates(self, members: frozenset[int]) -> bool:
        """Whether along every path each set of ``members`` is followed by its own wait before any other of them."""
        ops = self._steps(False).ops
        work: list[tuple[int, int]] = [(0, -1)]
        seen = set(work)
        while work:
            place, open_edge = work.pop()
            op = ops[place]
            following = [place + 1]
            if op[0] in (_SET, _WAIT) and op[1] in members:
                if open_edge != (-1 if op[0] == _SET else op[1]):
                    return False
                open_edge = op[1] if op[0] == _SET else -1
            elif op[0] == _STOP:
                following = []
            elif op[0] == _END:
                following.append(op[2])
            elif op[0] == _ENTER:
                following = [place + 1] if op[4] > 0 else [place + 1, op[2]]
            for target in following:
                if (target, open_edge) not in seen:
                    seen.add((target, open_edge))
                    work.append((target, open_edge))
        return True


def _with(idx: tuple[int, ...], slot: int, value: int) -> tuple[int, ...]:
    return idx if slot < 0 else (*idx[:slot], value, *idx[slot + 1 :])
