"""A counter between cores that needs no edge of its own back, since the one of another counter holds both back.

Where two loops run equally often in each turn of a body around both, a sender that may be only so many turns ahead in
one of them is no further ahead in the other. The walk of :mod:`order` does not see that: it follows every path, those
too on which only one of two loops with the same condition is entered. Here turns are counted.

Let ``n`` be the edge whose counter is asked for, ``m`` one in the other direction whose wait the sender of ``n`` does
and whose set its receiver. In each turn in which their loops are entered at all, let there be ``a`` sets of ``n`` and
``b`` of ``m``, and ``d`` sets of ``m`` in front of everything. When the sender sets ``n`` in turn ``p``, it has waited
for ``m`` in all turns before, at least ``b * (p - 1)`` times, so the receiver is in turn ``q >= p - 1 - d // b``, and
has waited for ``n`` in all turns before that one: at most ``a * p - a * (q - 1) <= a * (2 + d // b)`` sets are not yet
waited for. That holds for any number of turns, and wherever in a turn the statements stand, since a wait between cores
holds back all that its core issues later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.form import CrossFlag, Loop, Node
from tilewright.ir.symbolic import Expr, ceildiv

#: Values of a loop's variable that are looked at one by one at most.
_VALUES = 1 << 12


@dataclass(slots=True)
class _Found:
    """The statements of an edge between cores: loops around those inside of loops, sets outside of all."""

    sets: list[tuple[Loop, ...]] = field(default_factory=list)
    waits: list[tuple[Loop, ...]] = field(default_factory=list)
    first: int = 0
    sender: str = ""

    @property
    def loops(self) -> tuple[Loop, ...] | None:
        """The loops around its one set and its one wait, where both are in one body."""
        alike = len(self.sets) == len(self.waits) == 1 and _same(self.sets[0], self.waits[0])
        return self.sets[0] if alike else None


def holder(body: tuple[Node, ...], number: int, limit: int) -> int | None:
    """An edge that keeps the sets of ``number`` less than or as many as ``limit`` ahead of its waits, for all sizes;
    None where none is known to."""
    found: dict[int, _Found] = {}
    _collect(body, (), found)
    mine = found.get(number)
    loops = mine.loops if mine is not None else None
    if mine is None or loops is None:
        return None
    for other, theirs in found.items():
        around = theirs.loops
        if other == number or around is None or theirs.sender == mine.sender:
            continue
        shared = next((i for i, (x, y) in enumerate(zip(loops, around, strict=False)) if x is not y), None)
        shared = min(len(loops), len(around)) if shared is None else shared
        turns = [_turns(chain[shared:], loops[:shared]) for chain in (loops, around)]
        if turns[0] is None or turns[1] is None or turns[0][1] != turns[1][1]:
            continue
        if turns[0][0] * (2 + theirs.first // turns[1][0]) + mine.first <= limit:
            return other
    return None


def _collect(body: tuple[Node, ...], loops: tuple[Loop, ...], found: dict[int, _Found]) -> None:
    for node in body:
        if isinstance(node, Loop):
            _collect(node.body, (*loops, node), found)
        elif isinstance(node, CrossFlag):
            edge = found.setdefault(node.edge, _Found())
            if node.action == "set":
                edge.sender = node.core
                edge.first += not loops
            if loops:
                (edge.sets if node.action == "set" else edge.waits).append(loops)


def _same(x: tuple[Loop, ...], y: tuple[Loop, ...]) -> bool:
    return len(x) == len(y) and all(a is b for a, b in zip(x, y, strict=True))


def _turns(chain: tuple[Loop, ...], around: tuple[Loop, ...]) -> tuple[int, frozenset[Expr]] | None:
    """How often the body of the innermost of ``chain`` runs in a turn of the loops ``around`` if it does at all, and
    the conditions of that: expressions that are 0 or 1 and that nothing within the turn changes."""
    count, conditions = 1, set[Expr]()
    for loop in chain:
        if not loop.step.is_constant or loop.step.value <= 0:
            return None
        trips = ceildiv(loop.hi - loop.lo, loop.step)
        if trips.is_constant:
            count *= trips.value
        elif _once_at_most(trips, around):
            conditions.add(trips)
        else:
            return None
    return (count, frozenset(conditions)) if count > 0 else None


def _once_at_most(trips: Expr, around: tuple[Loop, ...]) -> bool:
    """Whether ``trips`` is 0 or 1 in every turn of the one loop ``around`` that it depends on."""
    loop = next((o for o in around if trips.symbols == {o.var}), None)
    if loop is None or not (loop.lo.is_constant and loop.hi.is_constant and loop.step.is_constant):
        return False
    values = range(loop.lo.value, loop.hi.value, loop.step.value)
    return len(values) <= _VALUES and all(trips.evaluate({loop.var: v}) in (0, 1) for v in values)
