"""What is known of the symbols of a placed kernel, and how often its loops run, whatever the sizes are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.evaluate import compiled
from tilewright.backends.ascend.placed.form import Let, Loop, Node, Placed, Read, counter, statements
from tilewright.ir.ranges import POSITIVE_INFINITY, Range, bounds
from tilewright.ir.symbolic import BUILDERS, ZERO, Atom, Expr, Operation, Symbol, ceildiv, constant, symbol

#: Trip counts are told apart up to here; beyond it, one more iteration brings nothing that is not known already.
MANY = 4
#: Cases that are looked at one by one at most.
_CASES = 1 << 13
#: The expression whose values the cases are.
_LEAF = "_case"


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
    """Ranges of the dimension symbols, loop variables, counters, and the numbers of groups and cores.

    ``left``: what is left of each loop in a turn of it, which is at least 1.
    """

    ranges: Mapping[str, Range]
    left: frozenset[Expr] = frozenset()
    _found: dict[Expr, tuple[int, int]] = field(default_factory=dict)
    _least: dict[Expr, int | None] = field(default_factory=dict)

    def bounds(self, e: Expr) -> tuple[int, int]:
        """Inclusive bounds of ``e`` for all values of the symbols."""
        if e.is_constant:
            return e.value, e.value
        if e not in self._found:
            self._found[e] = bounds(e, self.ranges)
        return self._found[e]

    def least(self, e: Expr) -> int | None:
        """The least value of ``e``, case by case, where it depends on one expression of few values; else None.

        So ``64 - 16 * (c // 16) - c % 16`` is at least 0 where ``c`` is at most 64, which intervals do not see.
        """
        if e not in self._least:
            self._least[e] = self._case_by_case(e)
        return self._least[e]

    def _case_by_case(self, e: Expr) -> int | None:
        found: list[int] = []
        for leaf in dict.fromkeys(_below(e)):
            low, high = self._ends(leaf)
            alone = replaced(e, {leaf: symbol(_LEAF)}) if high - low < _CASES else None
            if alone is not None and alone.symbols == {_LEAF}:
                value = compiled((alone,))
                try:
                    found.append(min(value({_LEAF: v})[0] for v in range(low, high + 1)))
                except ZeroDivisionError:
                    continue
        return max(found, default=None)

    def _ends(self, leaf: Atom) -> tuple[int, int]:
        """Inclusive bounds of ``leaf``."""
        low, high = self.bounds(Expr([(((leaf, 1),), 1)]))
        if isinstance(leaf, Operation) and leaf.op == "min":
            low = max(low, min(1 if a in self.left else self.bounds(a)[0] for a in leaf.args))
        return low, high


def _below(e: Expr) -> Iterator[Atom]:
    """Every atom of ``e`` in which all of its symbols are."""
    for atom in e.atoms:
        inner = (atom.name,) if isinstance(atom, Symbol) else frozenset().union(*(a.symbols for a in atom.args))
        if e.symbols <= set(inner):
            yield atom
        if isinstance(atom, Operation):
            for a in atom.args:
                if e.symbols <= a.symbols:
                    yield from _below(a)


def replaced(e: Expr, values: Mapping[Atom, Expr]) -> Expr:
    """``e`` with other expressions for some of its atoms, at any depth."""
    total = ZERO
    for monomial, coefficient in e.terms:
        product = constant(coefficient)
        for atom, power in monomial:
            if atom in values:
                other = values[atom]
            elif isinstance(atom, Operation):
                other = BUILDERS[atom.op](*(replaced(a, values) for a in atom.args))
            else:
                other = Expr([(((atom, 1),), 1)])
            for _ in range(power):
                product = product * other
        total = total + product
    return total


def facts_of(placed: Placed) -> Facts:
    """What is known of the symbols in ``placed``."""
    known: dict[str, Range] = dict(placed.kernel.facts)
    subblocks = max(1, int(placed.target.extra["subblocks"]))
    changing = {n.var for n in statements(placed.body) if isinstance(n, Read | Let)}
    left: set[Expr] = set()
    known |= {"_group": Range(0), "_groups": Range(1), "_sub": Range(0, subblocks - 1)}

    def walk(body: tuple[Node, ...]) -> None:
        for node in body:
            if isinstance(node, Loop):
                low, high = bounds(node.lo, known)[0], bounds(node.hi, known)[1]
                known[node.var] = Range(low, high if high == POSITIVE_INFINITY else max(low, high - 1))
                known[counter(node.var)] = Range(0)
                if node.step.is_constant and node.step.value > 0 and not node.hi.symbols & changing:
                    left.add(node.hi - symbol(node.var))
                walk(node.body)
            elif isinstance(node, Read):
                known[node.var] = Range(node.bad, max(0, bounds(node.limit, known)[1] - 1))
            elif isinstance(node, Let):
                known[node.var] = Range(0, max(0, bounds(node.limit, known)[1] - 1))

    walk(placed.body)
    return Facts(known, frozenset(left))


def trips_of(loop: Loop, facts: Facts) -> Trips:
    """How often ``loop`` may run each time it is reached."""
    if not loop.step.is_constant or loop.step.value <= 0:
        return Trips(0, MANY)
    least, most = facts.bounds(ceildiv(loop.hi - loop.lo, loop.step))
    return Trips(min(MANY, max(0, least)), min(MANY, max(0, most)))
