"""What inference believes about sizes while it runs: bounds, and equalities that a model implies.

ONNX models often name one size twice (``batch`` and ``batch_1``), or limit one without saying so (a table of 512
positions sliced to ``S``). Both are found where an operator needs two sizes to agree. An equality that names an input
dimension is *solved*: the dimension is replaced in the whole graph, inputs included, so that the signature says it.
What cannot be solved is recorded as an assumption for the plan to assert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from tilewright.ir.facts import Assumption
from tilewright.ir.graph import Known
from tilewright.ir.late import Late
from tilewright.ir.ranges import POSITIVE_INFINITY, Range, bounds
from tilewright.ir.symbolic import Expr, Operation, Symbol, as_expr, maximum, minimum, symbol
from tilewright.ir.types import TensorType

#: Expressions heavier than this are not followed. Real ones weigh less than ten; a hostile chain of products doubles
#: at every node.
WEIGHT_LIMIT = 48

#: Beyond any size or index: 64-bit integers.
_HUGE = 2**63


class Mismatch(Exception):
    """Sizes that cannot fit together; inference adds the node and its shapes."""


class Restart(Exception):
    """A dimension was solved or narrowed: inference starts again with it."""


def weight(e: Expr) -> int:
    """How much there is of ``e``: terms, factors and operations, counted as written out; too much for large numbers."""
    total = 0
    for monomial, coefficient in e.terms:
        if abs(coefficient) >= _HUGE:
            return WEIGHT_LIMIT + 1
        total += 1
        for atom, power in monomial:
            inner = sum(weight(a) for a in atom.args) if isinstance(atom, Operation) else 0
            total += power * (1 + inner)
        if total > WEIGHT_LIMIT:
            break
    return total


def followable(elements: Iterable[Expr]) -> bool:
    """True when every expression is light enough to be worth following."""
    return all(weight(e) <= WEIGHT_LIMIT for e in elements)


class Dimensions:
    """Facts, solved symbols and open assumptions of one inference.

    ``solvable`` are the symbols of the graph's inputs, first ones kept longest. With ``fixed`` nothing is solved or
    narrowed any more (a pass is at work): what is needed beyond the facts becomes an assumption. ``late`` are symbols
    that stand for run-time values already, ``taken`` names that no other may get.
    """

    def __init__(
        self,
        facts: Mapping[str, Range],
        solvable: Sequence[str],
        assumptions: list[Assumption] | None = None,
        *,
        fixed: bool = False,
        late: Mapping[str, Late] | None = None,
        taken: Iterable[str] = (),
    ):
        self.facts = dict(facts)
        self.late: dict[str, Late] = dict(late or {})
        self._taken = {*solvable, *taken}
        self._declared = dict(facts)
        self.assumptions: list[Assumption] = assumptions if assumptions is not None else []
        self.notes: list[str] = []
        self._order = {name: i for i, name in reversed(list(enumerate(solvable)))}
        self._solved: dict[str, Expr] = {}
        self._fixed = fixed

    # -- queries -------------------------------------------------------------------------------------------------

    def bounds(self, e: Expr) -> tuple[int, int]:
        """Inclusive bounds of ``e``."""
        return bounds(e, self.facts)

    def rewrite(self, e: Expr) -> Expr:
        """``e`` with solved symbols replaced, and ``min``/``max`` that the bounds decide removed."""
        if e.is_constant:
            return e
        if self._solved:
            e = e.substitute(self._solved)
        e = self._simplify(e)
        return next((a.left for a in self.assumptions if a.right == e and is_least(a)), e)

    def rewrite_type(self, t: TensorType) -> TensorType:
        """``t`` with every size rewritten."""
        return TensorType(t.dtype, tuple(self.rewrite(s) for s in t.shape))

    def rewrite_known(self, known: Known) -> Known:
        """Known elements, rewritten."""
        return np.array([self.rewrite(e) for e in known.flat], dtype=object).reshape(known.shape)

    # -- equality ------------------------------------------------------------------------------------------------

    def equal(self, a: Expr, b: Expr, where: str) -> Expr:
        """The size that is both ``a`` and ``b``. Raises :class:`Mismatch` when they differ for certain."""
        a, b = self.rewrite(a), self.rewrite(b)
        if a == b:
            return a
        lo, hi = self.bounds(a - b)
        if lo > 0 or hi < 0:
            raise Mismatch(f"sizes {a} and {b} must be equal")
        for known in self.assumptions:
            if {known.left, known.right} == {a, b}:
                return known.left
        if not self._fixed:
            self._narrow(a, b, where)
            self._narrow(b, a, where)
            self._solve(a, b, where)
        kept, other = (a, b) if not self._is_data_dependent(a) else (b, a)
        self.assumptions.append(Assumption(kept, other, where))
        if is_least(self.assumptions[-1]) and not self._fixed:
            raise Restart  # sizes met before are rewritten too
        return kept

    def at_most(self, a: Expr, b: Expr, where: str) -> None:
        """Require ``a <= b``: by the bounds, by limiting the one input dimension it is about, or as an assumption.

        Raises :class:`Mismatch` when it is false for certain.
        """
        room = self.rewrite(b - a)
        lo, hi = self.bounds(room)
        if lo >= 0:
            return
        if hi < 0:
            raise Mismatch(f"{a} exceeds {b}")
        for name in () if self._fixed else room.symbols & self._order.keys():
            rest, short = room + symbol(name), symbol(name) - room
            if rest.is_constant:
                self._limit(name, rest.value, True, where)
            if short.is_constant:
                self._limit(name, short.value, False, where)
        smaller = Assumption(minimum(a, b), self.rewrite(a), where)
        if smaller not in self.assumptions:
            self.assumptions.append(smaller)

    def add_late(self, hint: str, late: Late, lo: int, hi: int) -> Expr:
        """The symbol of what only a run tells, within ``lo..hi``; the same thing has the same symbol."""
        if late.expr is not None:
            for name, other in self.late.items():
                if other.expr == late.expr:
                    self._bound(name, lo, hi)
                    return symbol(name)
        name = "".join(c if c.isalnum() and c.isascii() else "_" for c in hint)
        name = f"_{name}" if name[:1].isdigit() else name
        while name in self._taken or self.late.get(name, late) != late:
            name += "_"
        self.late[name] = late
        self._bound(name, lo, hi)
        return symbol(name)

    def _bound(self, name: str, lo: int, hi: int) -> None:
        known = self.facts.get(name, Range())
        lo, hi = max(known.lo, lo), min(known.hi, hi)
        if lo > hi:
            raise Mismatch(f"{name} would have to be within {lo}..{hi}")
        self.facts[name] = replace(known, lo=lo, hi=hi)

    def hangs_on_late(self, e: Expr) -> bool:
        """True when a late symbol occurs in ``e``."""
        return not self.late.keys().isdisjoint(e.symbols)

    def _is_data_dependent(self, e: Expr) -> bool:
        return bool(e.symbols) and not e.symbols & self._order.keys()

    def _narrow(self, a: Expr, b: Expr, where: str) -> None:
        """``x == min(x, c)`` says ``x <= c``: a limit on a symbol, when ``x`` is one."""
        operation = _only_atom(b)
        name = _only_atom(a)
        if not (isinstance(operation, Operation) and isinstance(name, Symbol) and a in operation.args):
            return
        limits = [arg for arg in operation.args if arg != a and arg.is_constant]
        if operation.op not in ("min", "max") or len(limits) != len(operation.args) - 1:
            return
        self._limit(name.name, limits[0].value, operation.op == "min", where)

    def _limit(self, name: str, limit: int, upper: bool, where: str) -> NoReturn:
        known, declared = self.facts.get(name, Range()), self._declared.get(name, Range())
        narrowed = replace(known, hi=min(known.hi, limit)) if upper else replace(known, lo=max(known.lo, limit))
        if declared.hi < POSITIVE_INFINITY and narrowed.hi < declared.hi:
            raise Mismatch(f"{name} is at most {limit} here, but up to {declared.hi} was asked for")
        if narrowed.lo > narrowed.hi:
            raise Mismatch(f"{name} would have to be within {narrowed.lo}..{narrowed.hi}")
        self.facts[name] = narrowed
        self.notes.append(f"{name} {'<=' if upper else '>='} {limit} ({where})")
        self.assumptions.clear()
        raise Restart

    def _solve(self, a: Expr, b: Expr, where: str) -> None:
        """Replace an input symbol by what it must equal; the one named last goes."""
        difference = a - b
        candidates = sorted(difference.symbols & self._order.keys(), key=lambda n: -self._order[n])
        for name in candidates:
            try:
                factor = difference.coefficient(name)
            except ValueError:
                continue
            if factor not in (1, -1):
                continue
            solution = (difference - factor * symbol(name)) * (-factor.value)
            if not solution.symbols <= self._order.keys():
                continue
            lo, hi = self.bounds(solution)
            limits = self.facts.get(name, Range())
            if hi < limits.lo or lo > limits.hi:
                raise Mismatch(f"sizes {a} and {b} must be equal, but {name} is within {limits.lo}..{limits.hi}")
            self._solved = {n: e.substitute({name: solution}) for n, e in self._solved.items()} | {name: solution}
            self._merge_limits(name, solution)
            self.notes.append(f"{name} == {solution} ({where})")
            self.assumptions.clear()
            raise Restart

    def _merge_limits(self, name: str, solution: Expr) -> None:
        """The limits of a replaced symbol hold for the symbol that replaces it."""
        gone = self.facts.pop(name, Range())
        atom = _only_atom(solution)
        if isinstance(atom, Symbol):
            kept = self.facts.get(atom.name, Range())
            self.facts[atom.name] = replace(kept, lo=max(kept.lo, gone.lo), hi=min(kept.hi, gone.hi))

    # -- simplification by bounds --------------------------------------------------------------------------------

    def _simplify(self, e: Expr) -> Expr:
        if not any(isinstance(a, Operation) for a in e.atoms):
            return e
        total = as_expr(0)
        for monomial, coefficient in e.terms:
            term = as_expr(coefficient)
            for atom, power in monomial:
                factor = symbol(atom.name) if isinstance(atom, Symbol) else self._simplify_operation(atom)
                for _ in range(power):
                    term = term * factor
            total = total + term
        return total

    def _simplify_operation(self, operation: Operation) -> Expr:
        args = [self._simplify(a) for a in operation.args]
        match operation.op:
            case "min":
                return minimum(*_undominated(args, lambda x, y: self.bounds(x - y)[0] >= 0))
            case "max":
                return maximum(*_undominated(args, lambda x, y: self.bounds(x - y)[1] <= 0))
            case "//":
                lo, hi = self.bounds(args[0])
                d_lo, d_hi = self.bounds(args[1])
                if 0 < d_lo == d_hi and lo // d_lo == hi // d_lo:
                    return as_expr(lo // d_lo)
                return args[0] // args[1]
        lo, hi = self.bounds(args[0])
        if lo >= 0 and hi < self.bounds(args[1])[0]:
            return args[0]
        return args[0] % args[1]


def is_least(assumption: Assumption) -> bool:
    """True for ``x == min(x, …)``: the size is ``x`` wherever it occurs."""
    operation = _only_atom(assumption.right)
    return isinstance(operation, Operation) and operation.op == "min" and assumption.left in operation.args


def _undominated(args: list[Expr], loses: Any) -> list[Expr]:
    """``args`` without those that can never be chosen because another always wins."""
    kept: list[Expr] = []
    for i, x in enumerate(args):
        others = kept + args[i + 1 :]
        if not any(loses(x, y) for y in others):
            kept.append(x)
    return kept


def _only_atom(e: Expr) -> Symbol | Operation | None:
    """The atom when ``e`` is just one."""
    if len(e.terms) == 1 and e.terms[0][1] == 1 and len(e.terms[0][0]) == 1 and e.terms[0][0][0][1] == 1:
        return e.terms[0][0][0][0]
    return None
