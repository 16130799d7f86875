"""Lines of a generated function, with long index expressions named where all they depend on is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tilewright.backends.ascend.ascendc.names import Names
from tilewright.ir.ranges import POSITIVE_INFINITY, Range, bounds
from tilewright.ir.symbolic import BUILDERS, Atom, Expr, IntLike, Operation, Symbol, as_expr, symbol

#: Expressions longer than this get a name, and so do all that divide or compare.
_LONG = 16


@dataclass(slots=True)
class _Level:
    """A loop of the placed program (or the function): the symbols it binds and what its body says.

    ``head`` comes first: the named expressions that need nothing further in.
    """

    binds: set[str]
    depth: int
    indent: int
    head: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    names: dict[Expr, str] = field(default_factory=dict)


@dataclass(slots=True)
class Code:
    """The function being written. ``symbols``: C++ names of index symbols; ``ranges``: what is known of them."""

    names: Names
    symbols: dict[str, str]
    ranges: dict[str, Range]
    levels: list[_Level] = field(default_factory=lambda: [_Level(set(), 1, 1)])
    loose: set[str] = field(default_factory=set)
    #: What open loops have still to do, ``end - variable``: at least 1 within their bodies.
    left: dict[Expr, Expr] = field(default_factory=dict)

    # -- lines ---------------------------------------------------------------------------------------------------

    def first(self, text: str) -> None:
        """A line before everything else that is said here."""
        level = self.levels[-1]
        level.head += folded(text, "    " * level.depth)

    def line(self, text: str) -> None:
        """One line at the present depth."""
        level = self.levels[-1]
        level.body += folded(text, "    " * level.indent)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """``head { … }`` inside an instruction; expressions are still named in the loop around it."""
        self.line(f"{head} {{".lstrip())
        self.levels[-1].indent += 1
        yield
        self.levels[-1].indent -= 1
        self.line("}")

    @contextmanager
    def loop(self, head: str, binds: set[str], tail: str = "") -> Iterator[None]:
        """A loop of the program, which binds symbols."""
        indent = self.levels[-1].indent
        self.levels.append(_Level(binds, indent + 1, indent + 1))
        yield
        level = self.levels.pop()
        pad = "    " * indent
        outer = self.levels[-1].body
        outer += [f"{pad}{head} {{", *level.head, *level.body]
        outer += [f"{pad}    {tail}"] if tail else []
        outer.append(f"{pad}}}")

    def text(self) -> list[str]:
        """The lines of the whole function."""
        (level,) = self.levels
        return [*level.head, *level.body]

    # -- expressions ---------------------------------------------------------------------------------------------

    def high(self, e: IntLike) -> int:
        """An upper bound."""
        return bounds(self._within_loops(as_expr(e)), self.ranges)[1]

    def low(self, e: IntLike) -> int:
        """A lower bound."""
        return bounds(self._within_loops(as_expr(e)), self.ranges)[0]

    def open_loop(self, variable: str, end: Expr) -> None:
        """Inside the loop from here on, ``end - variable`` is at least 1."""
        rest = end - symbol(variable)
        name = f"_left_{variable}"
        self.ranges[name] = Range(1, max(1, bounds(rest, self.ranges)[1]))
        self.left[rest] = symbol(name)

    def _within_loops(self, e: Expr) -> Expr:
        for rest, known in self.left.items():
            if e.symbols >= rest.symbols:
                e = _replaced(e, rest, known)
        return e

    def value(self, e: IntLike, hint: str = "n") -> str:
        """``e`` in C++: inline where short, else by name."""
        e = as_expr(e)
        if e.is_constant:
            return str(e.value)
        plain = all(isinstance(a, Symbol) for a in e.atoms)
        if plain and len(str(e)) <= _LONG:
            return self.spelled(e)
        if e.symbols & self.loose:
            return f"({self.spelled(e)})"
        return self._named(e, hint)

    def factor(self, e: IntLike, hint: str = "n") -> str:
        """``e`` as an operand of ``*``, ``/`` or ``%``."""
        text = self.value(e, hint)
        return text if text.replace("_", "").isalnum() or text.startswith("(") else f"({text})"

    def _named(self, e: Expr, hint: str, text: str = "") -> str:
        if known := self._known(e):
            return known
        level = next((x for x in reversed(self.levels) if x.binds & e.symbols), self.levels[0])
        text = text or self.spelled(e)
        name = level.names[e] = self.names.give(hint)
        level.head += folded(f"const int64_t {name} = {text};", "    " * level.depth)
        return name

    def _known(self, e: Expr) -> str:
        """The name of ``e``, or nothing."""
        return next((level.names[e] for level in reversed(self.levels) if e in level.names), "")

    def inline_after(self, name: str) -> None:
        """From here on expressions of symbol ``name`` are spelled out where they are used."""
        self.loose.add(name)

    def spelled(self, e: Expr) -> str:
        """``e`` in full; quotients and remainders of it may be named."""
        if not e.terms:
            return "0"
        text = ""
        for monomial, c in [t for t in e.terms if t[0]] + [t for t in e.terms if not t[0]]:
            factors = [self._atom(a, len(monomial) > 1 or abs(c) != 1) for a, power in monomial for _ in range(power)]
            if abs(c) != 1 or not factors:
                factors.insert(0, str(abs(c)))
            product = " * ".join(factors)
            sign = (" - " if c < 0 else " + ") if text else ("-" if c < 0 else "")
            text += sign + product
        return text

    def _atom(self, atom: Atom, inside: bool) -> str:
        if isinstance(atom, Symbol):
            return self.symbols[atom.name]
        if known := self._known(Expr([(((atom, 1),), 1)])):
            return known
        if atom.op in ("min", "max"):
            name = "Smaller" if atom.op == "min" else "Larger"
            text, *rest = (self.spelled(a) for a in atom.args)
            for other in rest:
                text = f"{name}({text}, {other})"
            return text
        return self._quotient(atom, inside)

    def _quotient(self, atom: Operation, inside: bool) -> str:
        left, right = atom.args
        if self._is_tile_count(atom):
            base = next(iter(left.symbols))
            text = f"{self.factor_of(left)} / {right}"
            return self._named(Expr([(((atom, 1),), 1)]), f"{self.symbols[base]}_tiles", text)
        if atom.op == "//" and right.is_constant and (known := self._known(left - right + 1)):
            return f"CeilDiv({known}, {right})"
        below = self.factor_of(right)
        if self.low(left) >= 0 and self.low(right) >= 1:
            text = f"{self.factor_of(left)} {'/' if atom.op == '//' else '%'} {below}"
            return f"({text})" if inside else text
        return f"{'FloorDiv' if atom.op == '//' else 'FloorMod'}({self.spelled(left)}, {self.spelled(right)})"

    def factor_of(self, e: Expr) -> str:
        """``e`` spelled out, in parentheses where it needs them."""
        text = self.spelled(e)
        return text if text.isalnum() or text.replace("_", "").isalnum() else f"({text})"

    def _is_tile_count(self, atom: Operation) -> bool:
        """Whether it is ``ceil(size / n)`` of a dimension of the function, which deserves its own name."""
        left, right = atom.args
        if atom.op != "//" or not right.is_constant or len(left.symbols) != 1 or left.symbols & self.loose:
            return False
        inner = any(level.binds & left.symbols for level in self.levels)
        return not inner and all(isinstance(a, Symbol) for a in left.atoms) and self.low(left) >= 0


def folded(text: str, pad: str, width: int = 120) -> list[str]:
    """``text`` in lines of at most ``width`` where it has commas to break it at; later lines are indented further."""
    lines: list[str] = []
    while len(pad) + len(text) > width and (cut := text.rfind(", ", 0, width - len(pad))) > 0:
        if "//" in text[:cut]:
            break
        lines.append(pad + text[: cut + 1])
        text = "    " + text[cut + 2 :]
    return [*lines, pad + text]


def _replaced(e: Expr, old: Expr, new: Expr) -> Expr:
    """``e`` with ``old``, up to a constant, replaced as a whole and among the operands of its operations."""
    if (e - old).is_constant:
        return new + (e - old)
    total = as_expr(0)
    for monomial, c in e.terms:
        product = as_expr(c)
        for atom, power in monomial:
            one = as_expr(symbol(atom.name)) if isinstance(atom, Symbol) else _operation(atom, old, new)
            for _ in range(power):
                product = product * one
        total = total + product
    return total


def _operation(atom: Operation, old: Expr, new: Expr) -> Expr:
    return BUILDERS[atom.op](*(_replaced(a, old, new) for a in atom.args))


def finite(bound: int) -> bool:
    """Whether an upper bound says anything."""
    return bound < POSITIVE_INFINITY
