"""Whether two accesses exclude each other: wherever one has a lane, the other has none.

Sizes that are not known when a program is placed choose a path with factors that are 0 or 1: ``min(1, M // 16)`` rows
leave in whole blocks, ``1 - min(1, M // 16)`` in another way. Such a *choice* is tried with either value, and with what
follows from it; where each leaves one of the accesses without a lane, the two never meet, whatever the sizes are.
"""

from __future__ import annotations

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
    for choice in found:
        taken = next(a for a in choice.args if a != _ONE)
        values: tuple[dict[Atom, Expr], ...] = {choice: ZERO, **_nothing(taken)}, {choice: _ONE}
        if facts.bounds(taken)[0] >= 0 and all(
            any(facts.bounds(replaced(e, v))[1] <= 0 for part in sizes for e in part) for v in values
        ):
            return True
    return False


def _counts(access: Access) -> tuple[Expr, ...]:
    """Sizes of which none is zero where an access has lanes."""
    return tuple(c for c, _ in access.dims) if isinstance(access, View) else (access.rows, access.columns)


def _nothing(taken: Expr) -> dict[Atom, Expr]:
    """What is zero where ``taken``, which is never negative, is."""
    if len(taken.terms) != 1:
        return {}
    (monomial, _), *_ = taken.terms
    return {monomial[0][0]: ZERO} if len(monomial) == 1 else {}


@lru_cache(maxsize=4096)
def _choices(e: Expr) -> tuple[Operation, ...]:
    """Atoms ``min(1, n)`` at any depth."""
    found: dict[Operation, None] = {}
    for atom in e.atoms:
        if isinstance(atom, Operation):
            if atom.op == "min" and len(atom.args) == 2 and _ONE in atom.args:
                found[atom] = None
            found |= {c: None for a in atom.args for c in _choices(a)}
    return tuple(found)


def _symbols(atom: Operation) -> frozenset[str]:
    return frozenset[str]().union(*(a.symbols for a in atom.args))
