"""Symbols that are set while a plan runs, and memory whose size hangs on them.

Every late symbol is set as soon as what it needs is there, and checked against its bounds at once: what is compiled
relies on them. Equalities of sizes that a run has to confirm are checked as early as their symbols allow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.facts import assumptions, facts
from tilewright.ir.graph import is_constant, known_value, type_of
from tilewright.ir.late import closure, late_symbols, live_symbols
from tilewright.ir.ranges import NEGATIVE_INFINITY, POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol
from tilewright.plan.memory import buffers_used, root_of
from tilewright.plan.plan import Allocate, Assert, Buffer, Free, Instruction, LoadScalar, SetScalar

BufferOf = Callable[[ir.Value], int]

#: Bounds of 64-bit integers, for the side that is not bounded.
_LEAST, _MOST = constant(-(2**63)), constant(2**63 - 1)


class LateSymbols:
    """The late symbols of a model that its program needs: which are set by now, which definitions and checks wait."""

    def __init__(self, model: ir.Model, used: Iterable[Expr]):
        """``used`` are the sizes and integers of the whole program. What only dead nodes needed is left out; what live
        ones defined is set even where no kernel uses it, since its bounds are what they ask of a run."""
        self._facts = facts(model)
        every = late_symbols(model)
        wanted = closure(used, every) | live_symbols(model)
        self._late = {n: late for n, late in every.items() if n in wanted}
        #: Symbols that are known before the program starts, from the shapes of its inputs.
        self.given = (
            frozenset(n for v in model.graph.inputs for s in type_of(v).shape for n in s.symbols) - every.keys()
        )
        self._set = set(self.given)
        self._definitions = {n: late.expr for n, late in self._late.items() if late.expr is not None}
        there = self._set | wanted
        self._checks = [a for a in assumptions(model) if a.left.symbols | a.right.symbols <= there]

    def after(self, values: Iterable[ir.Value], buffer: BufferOf) -> list[Instruction]:
        """What can be set once ``values`` have been computed."""
        code: list[Instruction] = []
        for value in values:
            known = None if is_constant(value) else known_value(value)
            for n, element in enumerate(() if known is None else known.flat):
                name = str(element)
                if name in self._late and name not in self._set and self._late[name].element is not None:
                    code += self._load(name, value, n, buffer)
        return [*code, *self._settle()]

    def read(self, name: str, value: ir.Value, element: int, buffer: BufferOf) -> list[Instruction]:
        """Set a size from an element of ``value``."""
        return [*self._load(name, value, element, buffer), *self._settle()]

    def require(self, expressions: Iterable[Expr], what: str) -> None:
        """Raise :class:`InternalError` when something that is needed now is set later or never."""
        missing = sorted({s for e in expressions for s in e.symbols} - self._set)
        if missing:
            raise InternalError(f"{what} needs {missing[0]}, which is not set by then")

    def require_all(self) -> None:
        """Raise :class:`InternalError` when a definition or check never had what it needs."""
        waiting = [*self._definitions, *map(str, self._checks)]
        if waiting:
            raise InternalError(f"nothing sets what {waiting[0]} needs while the program runs")

    def _load(self, name: str, value: ir.Value, element: int, buffer: BufferOf) -> Iterator[Instruction]:
        self._set.add(name)
        yield LoadScalar(name, buffer(value), type_of(value).dtype, constant(element))
        late = self._late[name]
        what = name if late.element is None else f"element {element} of {value.name!r}"
        yield from self._bounded(name, f"{late.where}: {what}")

    def _settle(self) -> Iterator[Instruction]:
        """Definitions in the order of inference, so that one pass sets those that hang on others."""
        for name, expr in list(self._definitions.items()):
            if expr.symbols <= self._set:
                del self._definitions[name]
                self._set.add(name)
                yield SetScalar(name, expr)
                yield from self._bounded(name, f"{self._late[name].where}: a size")
        for check in list(self._checks):
            if check.left.symbols | check.right.symbols <= self._set:
                self._checks.remove(check)
                message = f"{check.where} needs {check.left} == {check.right}"
                yield Assert(check.left - check.right, ZERO, ZERO, message)

    def _bounded(self, name: str, what: str) -> Iterator[Instruction]:
        known = self._facts.get(name, Range())
        if known.lo > NEGATIVE_INFINITY or known.hi < POSITIVE_INFINITY:
            lo = constant(known.lo) if known.lo > NEGATIVE_INFINITY else _LEAST
            hi = constant(known.hi) if known.hi < POSITIVE_INFINITY else _MOST
            yield Assert(symbol(name), lo, hi, what)


def with_allocations(
    code: Sequence[Instruction], buffers: Sequence[Buffer], known: Collection[str]
) -> Iterator[Instruction]:
    """``code`` with memory of its own for each temporary whose size hangs on more than the ``known`` symbols, from its
    first use to its last."""
    own = [i for i, b in enumerate(buffers) if b.kind == "temporary" and b.base is None]
    late = {i for i in own if buffers[i].size.symbols - set(known)}
    used = [{root_of(buffers, b) for b in buffers_used(instruction)} & late for instruction in code]
    last = {buffer: at for at, roots in enumerate(used) for buffer in roots}
    given: set[int] = set()
    for at, (instruction, roots) in enumerate(zip(code, used, strict=True)):
        yield from map(Allocate, sorted(roots - given))
        given |= roots
        yield instruction
        yield from map(Free, sorted(b for b in roots if last[b] == at))
