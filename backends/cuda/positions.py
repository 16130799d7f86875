"""Where each axis stands in the program, and how index expressions over axes are spelled.

An axis of which one position is taken at a time is a scalar. Every other axis varies along a *dimension* of Triton's
tensors (a power of two of lanes); several axes share one where a matrix product takes them as one role (image rows and
columns, say). A *frame* is an ordered tuple of dimensions: the shape that a value is spelled for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ZERO, Atom, Expr, Monomial, Operation, Symbol

#: Offsets and sizes at or beyond this need 64 bits.
INT32_END = 2**31

Frame = tuple[str, ...]

_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."


@dataclass(frozen=True, slots=True)
class Position:
    """An axis in the current scope: variable ``name`` holds its position(s), ``dim`` the dimension it varies along
    (``None``: a scalar), ``mask`` the variable that is true on lanes inside the axis (``None``: all are). The lanes
    begin at ``start``; those from ``end`` on are padding."""

    name: str
    dim: str | None
    mask: str | None = None
    start: Expr = ZERO
    end: Expr = ZERO


@dataclass(frozen=True, slots=True)
class Spelled:
    """Text of rank 0 (no ``dims``), or of the rank of the frame it was made for, with extent 1 where ``dims`` lacks
    a dimension."""

    text: str
    dims: frozenset[str] = frozenset()

    @property
    def operand(self) -> str:
        """The text as an operand."""
        return parenthesized(self.text)


@dataclass(slots=True)
class Positions:
    """Axes of the current scope by name, lanes of each dimension, and what is known of every integer name."""

    axes: dict[str, Position] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Range] = field(default_factory=dict)

    def dim(self, axis: str) -> str | None:
        """The dimension of ``axis``; ``None`` for a scalar."""
        return self.axes[axis].dim

    def frame(self, axes: Sequence[str]) -> Frame:
        """The dimensions along which ``axes`` vary, in their order."""
        return tuple(dict.fromkeys(d for a in axes if (d := self.dim(a)) is not None))

    def shape(self, frame: Frame) -> str:
        """``[128, 64]``: the lanes of each dimension of ``frame``."""
        return f"[{', '.join(str(self.lanes[d]) for d in frame)}]"

    def index(self, e: Expr, frame: Frame, wide: bool = False) -> Spelled:
        """An integer expression over axes and symbols, in ``frame``; ``wide`` computes it in 64 bits."""
        groups: dict[frozenset[str], list[tuple[Monomial, int]]] = {}
        for monomial, c in e.terms:
            dims = frozenset(d for a, _ in monomial for d in self._dims_of(a))
            groups.setdefault(dims, []).append((monomial, c))
        parts: list[str] = []
        for dims in sorted(groups, key=lambda ds: [frame.index(d) for d in ds]):
            if len(dims) <= 1:
                text = self._flat(Expr(groups[dims]), wide)
                parts.append(spread(text, frame, dims))
            else:
                parts += [self._mixed(m, c, frame, wide) for m, c in groups[dims]]
        text = " + ".join(parts) if parts else "0"
        return Spelled(text, frozenset().union(*groups))

    # -- one dimension at most: rank 0 or 1 ----------------------------------------------------------------------

    def _flat(self, e: Expr, wide: bool) -> str:
        text = ""
        for monomial, c in [t for t in e.terms if t[0]] + [t for t in e.terms if not t[0]]:
            text += (" - " if c < 0 else " + ") if text else ("-" if c < 0 else "")
            factors = [self._atom(a, wide) for a, power in monomial for _ in range(power)]
            text += " * ".join(factors + ([str(abs(c))] if abs(c) != 1 or not factors else []))
        return text or "0"

    def _atom(self, atom: Atom, wide: bool) -> str:
        if isinstance(atom, Symbol):
            name = self.axes[atom.name].name if atom.name in self.axes else atom.name
            return f"tl.cast({name}, tl.int64)" if wide else name
        return self._operation(atom, [parenthesized(self._flat(x, wide)) for x in atom.args])

    def _operation(self, atom: Operation, args: list[str]) -> str:
        if atom.op in ("min", "max"):
            text = args[0]
            for other in args[1:]:
                text = f"tl.{atom.op}imum({text}, {other})"
            return text
        # Triton's integer // and % truncate towards zero; they are the floor where nothing is negative.
        if all(bounds(x, self.facts)[0] >= 0 for x in atom.args):
            return f"({args[0]} {atom.op} {args[1]})"
        return f"_floor{'div' if atom.op == '//' else 'mod'}({args[0]}, {args[1]})"

    # -- several dimensions in one product -----------------------------------------------------------------------

    def _mixed(self, monomial: Monomial, c: int, frame: Frame, wide: bool) -> str:
        factors = [str(c)] if c != 1 else []
        for atom, power in monomial:
            dims = frozenset(self._dims_of(atom))
            if len(dims) <= 1:
                text = spread(self._atom(atom, wide), frame, dims)
            else:
                assert isinstance(atom, Operation)
                text = self._operation(atom, [self.index(x, frame, wide).operand for x in atom.args])
            factors += [text] * power
        return " * ".join(factors)

    def _dims_of(self, atom: Atom) -> set[str]:
        names = {atom.name} if isinstance(atom, Symbol) else set().union(*(x.symbols for x in atom.args))
        return {d for n in names if n in self.axes and (d := self.axes[n].dim) is not None}


def spread(text: str, frame: Frame, dims: frozenset[str] | Sequence[str]) -> str:
    """``text``, of one dimension per entry of ``dims`` (in the order of ``frame``), with the rank of ``frame``."""
    if not dims or len(dims) == len(frame):
        return text
    subscript = ", ".join(":" if d in dims else "None" for d in frame)
    return f"{parenthesized(text)}[{subscript}]"


def is_atomic(text: str) -> bool:
    """Whether ``text`` is an operand as it stands: a name, a number, or one bracketed or called whole."""
    rest = text.lstrip(_NAME)
    depth = 0
    for n, ch in enumerate(rest):
        depth += (ch in "([") - (ch in ")]")
        if depth == 0 and ch not in ")]":
            return False
        if depth == 0 and rest[n + 1 : n + 2] not in ("", "["):
            return False
    return True


def parenthesized(text: str) -> str:
    """``text`` as an operand."""
    return text if is_atomic(text) else f"({text})"
