"""What is known of the symbols of a placed kernel, and how often its loops run, whatever the sizes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.form import Let, Loop, Node, Placed, Read, counter
from tilewright.ir.ranges import POSITIVE_INFINITY, Range, bounds
from tilewright.ir.symbolic import Expr, ceildiv

#: Trip counts are told apart up to here; beyond it, one more iteration brings nothing that is not known already.
MANY = 4


@dataclass(frozen=True, slots=True)
class Trips:
    """Least and largest number of iterations of a loop, each cut off at :data:`MANY`: a loop of exactly ``MANY`` or
    more is one that may run any number of times from ``least`` on."""

    least: int
    most: int

    @property
    def counted(self) -> bool:
        """Whether the number of an iteration says if the loop may end or go on."""
        return self.least > 1 or self.most < MANY


@dataclass(frozen=True, slots=True)
class Facts:
    """Ranges of the dimension symbols, loop variables, counters, and the numbers of groups and cores."""

    ranges: Mapping[str, Range]
    _found: dict[Expr, tuple[int, int]] = field(default_factory=dict)

    def bounds(self, e: Expr) -> tuple[int, int]:
        """Inclusive bounds of ``e`` for all values of the symbols."""
        if e.is_constant:
            return e.value, e.value
        if e not in self._found:
            self._found[e] = bounds(e, self.ranges)
        return self._found[e]


def facts_of(placed: Placed) -> Facts:
    """What is known of the symbols in ``placed``."""
    known: dict[str, Range] = dict(placed.kernel.facts)
    subblocks = max(1, int(placed.target.extra["subblocks"]))
    known |= {"_group": Range(0), "_groups": Range(1), "_sub": Range(0, subblocks - 1)}

    def walk(body: tuple[Node, ...]) -> None:
        for node in body:
            if isinstance(node, Loop):
                low, high = bounds(node.lo, known)[0], bounds(node.hi, known)[1]
                known[node.var] = Range(low, high if high == POSITIVE_INFINITY else max(low, high - 1))
                known[counter(node.var)] = Range(0)
                walk(node.body)
            elif isinstance(node, Read):
                known[node.var] = Range(node.bad, max(0, bounds(node.limit, known)[1] - 1))
            elif isinstance(node, Let):
                known[node.var] = Range(0, max(0, bounds(node.limit, known)[1] - 1))

    walk(placed.body)
    return Facts(known)


def trips_of(loop: Loop, facts: Facts) -> Trips:
    """How often ``loop`` may run each time it is reached."""
    if not loop.step.is_constant or loop.step.value <= 0:
        return Trips(0, MANY)
    least, most = facts.bounds(ceildiv(loop.hi - loop.lo, loop.step))
    return Trips(min(MANY, max(0, least)), min(MANY, max(0, most)))
