"""Integer expressions over named dimensions: the sizes, offsets and indices of everything.

An :class:`Expr` is kept as a polynomial with integer coefficients over *atoms*; an atom is a named symbol or an
operation that a polynomial cannot express (``floordiv``, ``mod``, ``min``, ``max``). Equal polynomials are equal
objects in the sense of ``==``, so ``P + S`` and ``S + P`` are one dimension, which is what fusion legality, arena
sizes and launch sizes rest on. Division rounds towards minus infinity, as in Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Union

IntLike = Union["Expr", int]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named integer: a model dimension or an index variable."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Operation:
    """A non-polynomial operation: ``op`` is ``//``, ``%``, ``min`` or ``max``."""

    op: str
    args: tuple[Expr, ...]

    def __str__(self) -> str:
        if self.op in ("min", "max"):
            return f"{self.op}({', '.join(map(str, self.args))})"
        left, right = (_parenthesized(a) for a in self.args)
        return f"{left} {self.op} {right}"


Atom = Union[Symbol, Operation]
Monomial = tuple[tuple[Atom, int], ...]


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0 if isinstance(atom, Symbol) else 1, str(atom))


class Expr:
    """An immutable integer expression. Build it with :func:`symbol`, :func:`constant` and arithmetic."""

    __slots__ = ("__dict__", "_hash", "terms")

    def __init__(self, terms: Iterable[tuple[Monomial, int]]):
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(
            sorted(((m, c) for m, c in terms if c), key=lambda t: [(_atom_key(a), p) for a, p in t[0]])
        )
        self._hash = hash(self.terms)

    # -- value ---------------------------------------------------------------------------------------------------

    @property
    def is_constant(self) -> bool:
        """True when no symbol is left in the expression."""
        return not self.terms or (len(self.terms) == 1 and not self.terms[0][0])

    @property
    def value(self) -> int:
        """The value of a constant expression. Raises ``ValueError`` for a symbolic one."""
        if not self.terms:
            return 0
        if self.is_constant:
            return self.terms[0][1]
        raise ValueError(f"{self} is not a constant")

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """The distinct atoms of the top-level polynomial, in canonical order."""
        return tuple(sorted({a for m, _ in self.terms for a, _ in m}, key=_atom_key))

    @cached_property
    def symbols(self) -> frozenset[str]:
        """Names of all symbols, at any depth."""
        names: set[str] = set()
        for atom in self.atoms:
            if isinstance(atom, Symbol):
                names.add(atom.name)
            else:
                names.update(*(a.symbols for a in atom.args))
        return frozenset(names)

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The integer value under ``values``. Raises ``KeyError`` when a symbol has none."""
        total = 0
        for monomial, coefficient in self.terms:
            product = coefficient
            for atom, power in monomial:
                product *= _evaluate_atom(atom, values) ** power
            total += product
        return total

    def substitute(self, values: Mapping[str, IntLike]) -> Expr:
        """Replace symbols by expressions and simplify again."""
        if not self.symbols & values.keys():
            return self
        total = constant(0)
        for monomial, coefficient in self.terms:
            product = constant(coefficient)
            for atom, power in monomial:
                replaced = _substitute_atom(atom, values)
                for _ in range(power):
                    product = product * replaced
            total = total + product
        return total

    def coefficient(self, name: str) -> Expr:
        """The factor ``c`` when the expression is ``c * name + rest`` and ``name`` occurs nowhere else.

        Raises ``ValueError`` when the expression is not linear in ``name``.
        """
        linear: list[tuple[Monomial, int]] = []
        for monomial, c in self.terms:
            powers = dict(monomial)
            power = powers.pop(Symbol(name), 0)
            if power > 1 or any(name in arg.symbols for a in powers if isinstance(a, Operation) for arg in a.args):
                raise ValueError(f"{self} is not linear in {name}")
            if power:
                linear.append((tuple((a, p) for a, p in monomial if a != Symbol(name)), c))
        return Expr(linear)

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def __add__(self, other: IntLike) -> Expr:
        sums: dict[Monomial, int] = dict(self.terms)
        for monomial, c in as_expr(other).terms:
            sums[monomial] = sums.get(monomial, 0) + c
        return Expr(sums.items())

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return Expr((m, -c) for m, c in self.terms)

    def __sub__(self, other: IntLike) -> Expr:
        return self + (-as_expr(other))

    def __rsub__(self, other: IntLike) -> Expr:
        return as_expr(other) - self

    def __mul__(self, other: IntLike) -> Expr:
        products: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in as_expr(other).terms:
                merged = _merge(m1, m2)
                products[merged] = products.get(merged, 0) + c1 * c2
        return Expr(products.items())

    __rmul__ = __mul__

    def __floordiv__(self, other: IntLike) -> Expr:
        return floordiv(self, as_expr(other))

    def __rfloordiv__(self, other: IntLike) -> Expr:
        return floordiv(as_expr(other), self)

    def __mod__(self, other: IntLike) -> Expr:
        return mod(self, as_expr(other))

    def __rmod__(self, other: IntLike) -> Expr:
        return mod(as_expr(other), self)

    # -- identity and text ---------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.is_constant and self.value == other
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.value) if self.is_constant else self._hash

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = ""
        # Constant last: "S + 1", not "1 + S".
        for monomial, c in [t for t in self.terms if t[0]] + [t for t in self.terms if not t[0]]:
            # A sign in front binds tighter than // and %: -(A // 2).
            part = _monomial_text(monomial, abs(c), first_negative=c < 0 and not text)
            text += ((" - " if c < 0 else " + ") if text else ("-" if c < 0 else "")) + part
        return text

    def __repr__(self) -> str:
        return f"Expr({str(self)!r})"


def _monomial_text(monomial: Monomial, coefficient: int, first_negative: bool) -> str:
    factors = [] if coefficient == 1 and monomial else [str(coefficient)]
    alone = len(monomial) == 1 and monomial[0][1] == 1 and coefficient == 1 and not first_negative
    for atom, power in monomial:
        text = str(atom)
        if isinstance(atom, Operation) and atom.op in ("//", "%") and not alone:
            text = f"({text})"
        factors += [text] * power
    return "*".join(factors)


def _parenthesized(e: Expr) -> str:
    text = str(e)
    simple = e.is_constant and e.value >= 0
    single = len(e.terms) == 1 and e.terms[0][1] == 1 and len(e.terms[0][0]) == 1 and isinstance(e.atoms[0], Symbol)
    return text if simple or (single and "*" not in text) else f"({text})"


def _merge(a: Monomial, b: Monomial) -> Monomial:
    powers: dict[Atom, int] = dict(a)
    for atom, p in b:
        powers[atom] = powers.get(atom, 0) + p
    return tuple(sorted(powers.items(), key=lambda t: _atom_key(t[0])))


def _evaluate_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if isinstance(atom, Symbol):
        return values[atom.name]
    return _PYTHON[atom.op](*(a.evaluate(values) for a in atom.args))


def _substitute_atom(atom: Atom, values: Mapping[str, IntLike]) -> Expr:
    if isinstance(atom, Symbol):
        return as_expr(values.get(atom.name, _from_atom(atom)))
    return BUILDERS[atom.op](*(a.substitute(values) for a in atom.args))


def _from_atom(atom: Atom) -> Expr:
    return Expr([(((atom, 1),), 1)])


#: The constant 0.
ZERO = Expr(())


# -- constructors --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def constant(value: int) -> Expr:
    """The expression of an integer."""
    return Expr([((), int(value))])


@lru_cache(maxsize=4096)
def symbol(name: str) -> Expr:
    """The expression of a named dimension or index; ``name`` is a Python identifier."""
    if not name.isidentifier():
        raise ValueError(f"{name!r} is not an identifier")
    return _from_atom(Symbol(name))


def as_expr(value: IntLike) -> Expr:
    """``value`` as an expression; integers become constants."""
    return value if isinstance(value, Expr) else constant(value)


def floordiv(a: IntLike, b: IntLike) -> Expr:
    """``floor(a / b)``; terms divisible by a constant ``b`` are divided exactly."""
    a, b = as_expr(a), as_expr(b)
    if b == 0:
        raise ZeroDivisionError(f"({a}) // 0")
    if b == 1:
        return a
    if a.is_constant and b.is_constant:
        return constant(a.value // b.value)
    if b.is_constant:
        n = b.value
        # The constant leaves its whole multiples outside: (M + 31) // 32 and (M - 1) // 32 + 1 are one expression.
        exact = Expr((m, c // n) for m, c in a.terms if c % n == 0 or not m)
        rest = Expr((m, c if m else c % n) for m, c in a.terms if c % n)
        if rest.is_constant:
            rest = constant(0)
        common = math.gcd(n, *(c for _, c in rest.terms))
        if n > 0 and common > 1:
            return exact + floordiv(Expr((m, c // common) for m, c in rest.terms), n // common)
        if rest == 0:
            return exact
        nested = _single_operation(rest, "//")
        if nested is not None and nested.args[1].is_constant and n > 0 and nested.args[1].value > 0:
            return exact + floordiv(nested.args[0], nested.args[1] * n)
        return exact + _from_atom(Operation("//", (rest, b)))
    quotient = _exact_quotient(a, b)
    return quotient if quotient is not None else _from_atom(Operation("//", (a, b)))


def mod(a: IntLike, b: IntLike) -> Expr:
    """``a - b * floor(a / b)``."""
    a, b = as_expr(a), as_expr(b)
    if b == 0:
        raise ZeroDivisionError(f"({a}) % 0")
    if a.is_constant and b.is_constant:
        return constant(a.value % b.value)
    if b == 1:
        return constant(0)
    nested = _single_operation(a, "%")
    if nested is not None and _exact_quotient(nested.args[1], b) is not None:
        return mod(nested.args[0], b)
    if b.is_constant:
        rest = Expr((m, c % b.value) for m, c in a.terms)
        return constant(rest.value % b.value) if rest.is_constant else _from_atom(Operation("%", (rest, b)))
    return constant(0) if _exact_quotient(a, b) is not None else _from_atom(Operation("%", (a, b)))


def ceildiv(a: IntLike, b: IntLike) -> Expr:
    """``ceil(a / b)`` for positive ``b``."""
    return floordiv(as_expr(a) + as_expr(b) - 1, b)


def minimum(*args: IntLike) -> Expr:
    """The smallest of ``args``."""
    return _extremum("min", min, args)


def maximum(*args: IntLike) -> Expr:
    """The largest of ``args``."""
    return _extremum("max", max, args)


def product(values: Iterable[IntLike]) -> Expr:
    """The product of ``values``; 1 when there are none."""
    result = constant(1)
    for v in values:
        result = result * v
    return result


def _extremum(op: str, choose: Callable[..., int], args: Iterable[IntLike]) -> Expr:
    flat: set[Expr] = set()
    for arg in map(as_expr, args):
        nested = _single_operation(arg, op)
        flat.update(nested.args if nested is not None else (arg,))
    constants = [e.value for e in flat if e.is_constant]
    rest = {e for e in flat if not e.is_constant}
    # x and x + c differ by a known constant: only one of them can win.
    for e in sorted(rest, key=str):
        if any(o is not e and (d := e - o).is_constant and choose(d.value, 0) == 0 and d != 0 for o in rest):
            rest = rest - {e}
    if constants:
        rest = rest | {constant(choose(constants))}
    ordered = tuple(sorted(rest, key=str))
    return ordered[0] if len(ordered) == 1 else _from_atom(Operation(op, ordered))


def _single_operation(e: Expr, op: str) -> Operation | None:
    """The operation when ``e`` is exactly one atom of kind ``op``."""
    if len(e.terms) == 1 and e.terms[0][1] == 1 and len(e.terms[0][0]) == 1 and e.terms[0][0][0][1] == 1:
        atom = e.terms[0][0][0][0]
        if isinstance(atom, Operation) and atom.op == op:
            return atom
    return None


def _exact_quotient(a: Expr, b: Expr) -> Expr | None:
    """``a / b`` when ``b`` is one monomial that divides every term of ``a``."""
    if len(b.terms) != 1:
        return constant(1) if a == b else None
    divisor, cb = b.terms[0]
    terms: list[tuple[Monomial, int]] = []
    for monomial, c in a.terms:
        powers = dict(monomial)
        for atom, p in divisor:
            powers[atom] = powers.get(atom, 0) - p
        if c % cb or any(p < 0 for p in powers.values()):
            return None
        terms.append((tuple((atom, p) for atom, p in powers.items() if p), c // cb))
    return Expr(terms)


_PYTHON: dict[str, Callable[..., int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}
#: The constructor of each operation by its name.
BUILDERS: dict[str, Callable[..., Expr]] = {"//": floordiv, "%": mod, "min": minimum, "max": maximum}
