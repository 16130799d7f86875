"""Whether two accesses exclude each other: wherever one has a lane, the other has none.

Sizes that are not known when a program is placed choose a path with factors that are 0 or 1: ``min(1, M // 16)`` rows
leave in whole blocks, ``1 - min(1, M // 16)`` in another way; of at most 16 columns ``c // 16`` fractals are whole, and
``c % 16`` columns are beside them. Such a *choice* is tried with either value and what follows from it; where each
leaves one of the accesses without a lane, the two never meet, whatever the sizes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tilewright.backends.ascend.placed.form import Access, View
from tilewright.backends.ascend.synchronization.facts import Facts, replaced
from tilewright.ir.symbolic import ZERO, Atom, Expr, Operation, constant

_ONE = constant(1)


def exclusive(x: Access, y: Access, facts: Facts, shared: frozenset[str]) -> bool:
    """Whether never both of two accesses have a lane, for all values of the symbols.

    ``shared`` symbols have one value in both; all others may differ.
    """
    sizes = _counts(x), _counts(y)
    found = {c: None for part in sizes for e in part for c in _choices(e) if _symbols(c) <= shared}
    return any(
        all(any(_none(e, v, facts) for part in sizes for e in part) for v in values)
        for values in (_cases(choice, facts) for choice in found)
        if values
    )


def _none(e: Expr, values: Mapping[Atom, Expr], facts: Facts) -> bool:
    """Whether ``e`` is 0 where ``values`` hold; of what is divided by one of them that is 0 nothing is known."""
    try:
        return facts.bounds(replaced(e, values))[1] <= 0
    except ZeroDivisionError:
        return False


def _cases(choice: Operation, facts: Facts) -> tuple[Mapping[Atom, Expr], ...]:
    """What is known of atoms where ``choice`` is 0, and where it is 1; nothing if it may have other values."""
    if choice.op == "min":
        taken = next(a for a in choice.args if a != _ONE)
        return ({choice: ZERO, **_known(taken, 0)}, {choice: _ONE}) if facts.bounds(taken)[0] >= 0 else ()
    whole, step = choice.args
    low, high = facts.bounds(whole)
    if low < 0 or high // step.value != 1:
        return ()
    return {choice: ZERO}, {choice: _ONE, **(_known(whole, high) if high == step.value else {})}


def _counts(access: Access) -> tuple[Expr, ...]:
    """Sizes of which none is zero where an access has lanes."""
    return tuple(c for c, _ in access.dims) if isinstance(access, View) else (access.rows, access.columns)


def _known(e: Expr, value: int) -> dict[Atom, Expr]:
    """What follows for an atom where ``e`` is ``value``."""
    if len(e.terms) != 1:
        return {}
    (monomial, coefficient), *_ = e.terms
    if len(monomial) != 1 or (value and (coefficient, monomial[0][1]) != (1, 1)):
        return {}
    return {monomial[0][0]: constant(value)}


@lru_cache(maxsize=4096)
def _choices(e: Expr) -> tuple[Operation, ...]:
    """Atoms ``min(1, n)`` and ``n // 16``, or another number, at any depth."""
    found: dict[Operation, None] = {}
    for atom in e.atoms:
        if isinstance(atom, Operation):
            part = atom.op == "//" and atom.args[1].is_constant and atom.args[1].value > 0
            if part or (atom.op == "min" and len(atom.args) == 2 and _ONE in atom.args):
                found[atom] = None
            found |= {c: None for a in atom.args for c in _choices(a)}
    return tuple(found)


def _symbols(atom: Operation) -> frozenset[str]:
    return frozenset[str]().union(*(a.symbols for a in atom.args))
