"""Einstein sums: what an equation says of the axes of its operands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

_TERM = re.compile(r"[A-Za-z]*(\.\.\.[A-Za-z]*)?")


#: One label an axis: a letter, or ``.0``, ``.1`` … for the axes of an ellipsis, counted from its end.
Labels = tuple[str, ...]


class BadEquation(ValueError):
    """An equation that is not one, or does not fit its operands; the message says why."""


@dataclass(frozen=True, slots=True)
class Equation:
    """The labels of the operands' axes, and those of the result's."""

    terms: tuple[Labels, ...]
    result: Labels

    @property
    def summed(self) -> Labels:
        """The labels that the result lacks, in order of first use."""
        return tuple(dict.fromkeys(c for term in self.terms for c in term if c not in self.result))


def read_equation(text: str, ranks: Sequence[int]) -> Equation:
    """The equation of operands of these ranks. Raises :class:`BadEquation`."""
    left, arrow, right = re.sub(r"\s", "", text).partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise BadEquation(f"equation {text!r} has {len(terms)} terms for {len(ranks)} inputs")
    labels = tuple(_labels(term, rank) for term, rank in zip(terms, ranks, strict=True))
    everything = [c for term in labels for c in term]
    dots = sorted({c for c in everything if c.startswith(".")}, key=lambda c: -int(c[1:]))
    if not arrow:
        once = sorted(c for c in set(everything) if everything.count(c) == 1 and not c.startswith("."))
        return Equation(labels, (*dots, *once))
    if _TERM.fullmatch(right) is None:
        raise BadEquation(f"the result {right!r} of the equation is no list of letters")
    before, ellipsis, after = right.partition("...")
    result = (*before, *(dots if ellipsis else ()), *after)
    if missing := set(result) - set(everything):
        raise BadEquation(f"label {min(missing)!r} of the output is in no input")
    if len(set(result)) < len(result):
        raise BadEquation(f"the result {right!r} of the equation repeats a label")
    return Equation(labels, result)


def _labels(term: str, rank: int) -> Labels:
    if _TERM.fullmatch(term) is None:
        raise BadEquation(f"term {term!r} of the equation is no list of letters")
    before, dots, after = term.partition("...")
    count = rank - len(before) - len(after)
    if count < 0 or (not dots and count):
        raise BadEquation(f"term {term!r} of the equation does not fit an input of rank {rank}")
    return (*before, *(f".{n}" for n in reversed(range(count))), *after)


@shape_rule("Einsum")
def einsum(ctx: Infer) -> TensorType:
    """Sizes by label; operands broadcast along a label as in NumPy, and a label that a term repeats is a diagonal."""
    types = ctx.types()
    try:
        equation = read_equation(ctx.string("equation", ""), [t.rank for t in types])
    except BadEquation as error:
        ctx.fail(str(error))
    sizes: dict[str, Expr] = {}
    for term, x in zip(equation.terms, types, strict=True):
        own: dict[str, Expr] = {}
        for label, size in zip(term, x.shape, strict=True):
            own[label] = ctx.equal(own[label], size) if label in own else size
        for label, size in own.items():
            sizes[label] = ctx.broadcast((sizes[label],), (size,))[0] if label in sizes else size
    return TensorType(types[0].dtype, tuple(sizes[c] for c in equation.result))
