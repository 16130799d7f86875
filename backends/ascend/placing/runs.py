"""Pieces of an axis along which an index is linear: rows of an image that a kernel counts in one axis.

A lowered kernel merges axes that lie one behind the other: ``m // 144``, ``(m // 12) % 12`` and ``m % 12`` are image,
row and column of pixel ``m``. Within a *run* (here 12 pixels from a multiple of 12) such an index is linear in ``m``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tilewright.ir.symbolic import ZERO, Expr, Operation, Symbol, constant, symbol


def run_length(index: Iterable[Expr], axis: str) -> int | None:
    """Length of the runs of ``axis`` in which all of ``index`` is linear; 0 where it is linear throughout.

    ``None`` where there are none: an index has another form.
    """
    lengths: set[int] = set()
    for e in index:
        for atom in _atoms(e):
            if axis not in _symbols(atom):
                continue
            length = _length(atom, axis)
            if length is None:
                return None
            lengths.add(length)
    return math.gcd(*lengths) if lengths else 0


def slope(e: Expr, axis: str) -> Expr:
    """By how much ``e`` grows from one position of a run to the next."""
    total = ZERO
    for monomial, factor in e.terms:
        rest, power = constant(factor), 0
        for atom, n in monomial:
            if axis not in _symbols(atom):
                rest = rest * _power(atom, n)
            elif isinstance(atom, Symbol) or (atom.op == "%" and atom.args[0] == symbol(axis)):
                power += n
            else:
                power = -1  # constant within a run
                break
        if power > 1:
            raise ValueError(f"{e} is not linear in {axis}")
        total = total + rest if power == 1 else total
    return total


def _length(atom: Operation | Symbol, axis: str) -> int | None:
    """The period of one quotient or remainder of ``axis``, or that of the quotient in it."""
    if isinstance(atom, Symbol):
        return 0
    if atom.op not in ("//", "%") or not atom.args[1].is_constant:
        return None
    if atom.args[0] == symbol(axis):
        return atom.args[1].value
    inner = _atoms(atom.args[0])
    if len(inner) == 1 and isinstance(inner[0], Operation) and inner[0].op == "//":
        return _length(inner[0], axis)
    return None


def _atoms(e: Expr) -> list[Operation | Symbol]:
    return [atom for monomial, _ in e.terms for atom, _ in monomial]


def _symbols(atom: Operation | Symbol) -> frozenset[str]:
    if isinstance(atom, Symbol):
        return frozenset([atom.name])
    return frozenset[str]().union(*(a.symbols for a in atom.args))


def _power(atom: Operation | Symbol, n: int) -> Expr:
    return Expr([(((atom, n),), 1)])
