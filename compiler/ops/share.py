"""Sharing: a value that several places need becomes a tile, so that nothing is computed twice.

Expressions are trees in the tile IR but are built as graphs here (an operand gives the same object for the same index);
an object met twice, other than a plain read, becomes a :class:`Define` before its first use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tilewright.ir.symbolic import Expr
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value, operands
from tilewright.kernel.tile import Define, Scan, Statement, Store


def share_subexpressions(
    body: Sequence[Statement], axes: tuple[str, ...], fresh: Callable[[str], str]
) -> tuple[Statement, ...]:
    """``body`` with every value that occurs more than once defined as a tile. ``axes`` gives the order of tile axes."""
    return _Sharing(body, axes, fresh).run()


class _Sharing:
    def __init__(self, body: Sequence[Statement], axes: tuple[str, ...], fresh: Callable[[str], str]):
        self.body, self.axes, self.fresh = body, axes, fresh
        self.uses: Counter[int] = Counter()
        self.defined: dict[int, Ref] = {}
        for s in body:
            self._count_statement(s)

    def run(self) -> tuple[Statement, ...]:
        out: list[Statement] = []
        for s in self.body:
            self._rewrite_statement(s, out)
        return tuple(out)

    def _count_statement(self, s: Statement) -> None:
        if isinstance(s, Scan):
            for d in s.body:
                self._count(d.value)
        else:
            self._count(s.value)

    def _count(self, v: Value) -> None:
        self.uses[id(v)] += 1
        if self.uses[id(v)] == 1:
            for o in operands(v):
                self._count(o)

    def _rewrite_statement(self, s: Statement, out: list[Statement]) -> None:
        match s:
            case Scan():
                known = dict(self.defined)
                inner: list[Statement] = []
                for d in s.body:
                    self._rewrite_statement(d, inner)
                self.defined = known  # tiles of the scan's body end with it
                out.append(replace(s, body=tuple(d for d in inner if isinstance(d, Define))))
            case Define() | Store():
                whole = isinstance(s, Define) and s.reduce is None
                out.append(replace(s, value=self._rewrite(s.value, out, top=whole)))
                if isinstance(s, Define) and s.reduce is None:
                    self.defined[id(s.value)] = Ref(s.tile, s.axes, s.value.dtype)

    def _rewrite(self, v: Value, out: list[Statement], top: bool = False) -> Value:
        if id(v) in self.defined:
            return self.defined[id(v)]
        new = _rebuild(v, [self._rewrite(o, out) for o in operands(v)])
        if top or self.uses[id(v)] < 2 or _is_plain(v):
            return new
        free = used_symbols(new)
        over = tuple(a for a in self.axes if a in free)
        ref = Ref(self.fresh("t"), over, v.dtype)
        out.append(Define(ref.tile, over, new))
        self.defined[id(v)] = ref
        return ref


def _is_plain(v: Value) -> bool:
    """Cheaper to repeat than to keep."""
    match v:
        case Const() | Ref() | IndexValue():
            return True
        case Load(index=index):
            return all(isinstance(i, Expr) for i in index)
        case Cast(x=x):
            return _is_plain(x)
    return False


def _rebuild(v: Value, new: Sequence[Value]) -> Value:
    match v:
        case Unary() | Cast():
            return replace(v, x=new[0])
        case Binary():
            return replace(v, a=new[0], b=new[1])
        case Select():
            return replace(v, cond=new[0], a=new[1], b=new[2])
        case Load(index=index):
            rest = iter(new)
            return replace(v, index=tuple(i if isinstance(i, Expr) else next(rest) for i in index))
    return v
