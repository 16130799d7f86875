"""Where an emitter stands: the scope, the names, and how a loop over an axis is opened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tilewright.backends.cpu.lanes import Vectorized
from tilewright.backends.cpu.values import Buffer, Values
from tilewright.codegen.cstyle import Text, identifier, index_text, parenthesized
from tilewright.ir.ranges import Range, divisor
from tilewright.ir.symbolic import Expr, constant, floordiv, symbol
from tilewright.kernel.schedule import For
from tilewright.kernel.scope import AxisRange, Scope, step
from tilewright.kernel.tile import Param


class Names:
    """Identifiers that are in use in one C function."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def fresh(self, name: str) -> str:
        """An identifier like ``name`` that nothing else has."""
        base = identifier(name)
        candidate, n = base, 2
        while candidate in self._used:
            candidate, n = f"{base}_{n}", n + 1
        self._used.add(candidate)
        return candidate


class Memory:
    """Decides where a tile's array lives: on the stack while small and of constant size, else in the scratch memory."""

    #: Bytes of one array, and of all arrays of a kernel, on the stack. Threads may have as little as 256 KiB of it.
    ARRAY_LIMIT = 32768
    STACK_LIMIT = 98304

    def __init__(self) -> None:
        self.scratch: Expr = constant(0)
        self._stack = 0

    def declare(self, out: Text, name: str, ctype: str, elements: Expr, size: int = 4) -> None:
        """Append the declaration of an array of ``elements`` of ``size`` bytes."""
        length = elements * size
        if length.is_constant and length.value <= self.ARRAY_LIMIT and self._stack + length.value <= self.STACK_LIMIT:
            self._stack += length.value
            out.line(f"TW_ALIGN {ctype} {name}[{index_text(elements)}];")
            return
        out.line(f"{ctype} *{name} = ({ctype} *)((char *)args->scratch + {index_text(self.scratch)});")
        self.scratch = self.scratch + floordiv(length + 63, 64) * 64


@dataclass(frozen=True, slots=True)
class Place:
    """The state of emission at one node.

    Attributes:
        out: where lines go.
        scope: ranges of the axes, facts of the symbols.
        params: parameters in memory, packed constants in their packed shape.
        buffers: all tiles of the kernel.
        elements: allocated elements of each tile's C array.
        names: symbol or parameter → C identifier.
        ends: axis → C text of the first value beyond its valid lanes.
        used: identifiers taken.
        lanes: 32-bit lanes of a vector.
        memory: gives arrays a place.
    """

    out: Text
    scope: Scope
    params: Mapping[str, Param]
    buffers: Mapping[str, Buffer]
    elements: Mapping[str, Expr]
    names: Mapping[str, str]
    ends: Mapping[str, str]
    used: Names
    lanes: int
    memory: Memory

    def fresh(self, name: str) -> str:
        """A new identifier."""
        return self.used.fresh(name)

    def index(self, e: Expr | int) -> str:
        """C text of an index expression."""
        return index_text(e, self.names)

    def start(self, axis: str) -> Expr:
        """First value of an axis here."""
        return self.scope.ranges[axis].start

    def count(self, axis: str) -> int | None:
        """Number of valid lanes of an axis when it is a constant."""
        r = self.scope.ranges[axis]
        return None if r.ragged else r.lanes

    def end(self, axis: str) -> str:
        """C text of the first value of ``axis`` that is not valid."""
        return self.ends[axis]

    def length(self, axis: str) -> str:
        """C text of the number of valid lanes of an axis."""
        count, start, end = self.count(axis), self.index(self.start(axis)), self.end(axis)
        return str(count) if count is not None else end if start == "0" else f"{end} - {start}"

    def vectorized(self, axis: str | None, width: int | None = None) -> Vectorized:
        """Lanes along ``axis`` in steps of whole vectors from its start."""
        width = width or self.lanes
        lane = Vectorized(axis, self.scope.facts, width)
        return lane if axis is None else lane.aligned(self.start(axis), width)

    def values(self, axis: str | None, live: str | None, out: Text | None = None) -> Values:
        """A speller of values inside the loops over all axes."""
        lane = self.vectorized(axis)

        def whole(tile: Buffer) -> bool:
            # The last vector of a tile's row is padding that is allocated, when rows are walked in whole vectors.
            if axis is None or tile.inner != axis:
                return False
            same = tile.lanes[axis] == self.scope.ranges[axis].lanes and tile.starts[axis] == self.start(axis)
            return same and divisor(self.start(axis) - tile.starts[axis], self.scope.facts) % self.lanes == 0

        extents = {a.name: a.extent for a in self.scope.kernel.axes}
        return Values(out or self.out, self.params, self.buffers, self.names, lane, live, self.fresh, whole, extents)

    def open_loop(self, stack: ExitStack, axis: str) -> None:
        """A scalar loop over the valid values of ``axis``, or just its one value."""
        name, start = self.names[axis], self.index(self.start(axis))
        if self.count(axis) == 1:
            self.out.line(f"const int64_t {name} = {start};")
            return
        stack.enter_context(self.out.block(f"for (int64_t {name} = {start}; {name} < {self.end(axis)}; {name}++)"))

    def open_vector_loop(self, stack: ExitStack, axis: str | None) -> str | None:
        """A loop over ``axis`` in vectors; returns the text of the number of live lanes (``None``: all)."""
        if axis is None:
            return "1"
        name, start, end = self.names[axis], self.index(self.start(axis)), self.end(axis)
        count = self.count(axis)
        if count is not None and count <= self.lanes:
            self.out.line(f"const int64_t {name} = {start};")
            return None if count == self.lanes else str(count)
        stack.enter_context(self.out.block(f"for (int64_t {name} = {start}; {name} < {end}; {name} += TW_LANES)"))
        if self._whole_vectors(axis):
            return None
        live = self.fresh(f"live_{name}")
        self.out.line(f"const int64_t {live} = {end} - {name};")
        return live

    def vector_loops(self, axis: str | None, vectors: int = 1) -> Iterator[tuple[int, str | None]]:
        """Opens loops over ``axis`` one after the other, for the caller to fill each: ``vectors`` at a time, the other
        whole ones singly, then what is left. Gives the vectors of one iteration and the text of the number of live
        lanes (``None``: all)."""
        if axis is None:
            yield 1, "1"
            return
        name, start, end = self.names[axis], self.index(self.start(axis)), self.end(axis)
        count, width = self.count(axis), self.lanes
        if count is not None and count <= width:
            with self.out.block(""):
                self.out.line(f"const int64_t {name} = {start};")
                yield 1, None if count == width else str(count)
            return
        exact = self._whole_vectors(axis)
        with self.out.block(""):
            self.out.line(f"int64_t {name} = {start};")
            for n in (vectors, 1) if vectors > 1 else (1,):
                if count is not None and (count if n == vectors else count % (vectors * width)) < n * width:
                    continue
                more = f"{name} < {end}" if exact and n == 1 else f"{name} + {n * width} <= {parenthesized(end)}"
                with self.out.block(f"for (; {more}; {name} += {n * width})"):
                    yield n, None
            if exact:
                return
            live = str(count % width) if count is not None else self.fresh(f"live_{name}")
            with self.out.block(f"if ({name} < {end})"):
                if count is None:
                    self.out.line(f"const int64_t {live} = {end} - {name};")
                yield 1, live

    def _whole_vectors(self, axis: str) -> bool:
        r = self.scope.ranges[axis]
        size = r.size if not r.ragged else r.limit - r.start
        return divisor(size, self.scope.facts) % self.lanes == 0

    def enter(self, stack: ExitStack, loop: For) -> Place:
        """Open ``loop`` and stand in its body."""
        scope = self.scope.enter(loop)
        inner = scope.ranges[loop.axis]
        if loop.var not in inner.start.symbols:  # one iteration
            return replace(self, scope=scope, ends={**self.ends, loop.axis: self.index(inner.limit)})
        var = self.fresh(loop.var)
        names = {**self.names, loop.var: var}
        hi = self.ends[loop.axis] if loop.hi == self.scope.ranges[loop.axis].limit else self.index(loop.hi)
        by = self.step(loop, var, hi)
        stack.enter_context(self.out.block(f"for (int64_t {var} = {self.index(loop.lo)}; {var} < {hi}; {var} += {by})"))
        return replace(self, scope=scope, names=names).close(loop, var, by, hi)

    def step(self, loop: For, var: str, hi: str) -> str:
        """C text of the step of ``loop``; a computed one is put into a variable."""
        if step(loop).is_constant:
            return self.index(step(loop))
        n = hi if loop.lo == 0 else f"{hi} - {parenthesized(self.index(loop.lo))}"
        piece = f"ceil_int({n}, ceil_int({n}, {loop.size}))"
        if loop.unit > 1:
            piece = f"ceil_int({piece}, {loop.unit}) * {loop.unit}"
        self.out.line(f"const int64_t {var}_step = {piece};")
        return f"{var}_step"

    def close(self, loop: For, var: str, by: str, hi: str) -> Place:
        """With the end of the piece that starts at ``var`` in a variable."""
        inner = self.scope.ranges[loop.axis]
        if inner.ragged:
            self.out.line(f"const int64_t {var}_end = min_int({var} + {by}, {hi});")
        end = f"{var}_end" if inner.ragged else self.index(inner.start + inner.size)
        return replace(self, ends={**self.ends, loop.axis: end})


def narrowed(place: Place, axis: str, piece: tuple[str, str], size: int, *, exact: bool) -> Place:
    """The place where ``axis`` ranges over C variables ``piece[0] … piece[1] - 1``: ``size`` values, or at most when
    not ``exact``. The first runs in steps of ``size``."""
    start, end = piece
    known = Range(0, place.scope.facts[axis].hi, math.gcd(divisor(place.start(axis), place.scope.facts), size))
    limit = symbol(start) + size if exact else symbol(end)
    ranges = {**place.scope.ranges, axis: AxisRange(symbol(start), constant(size), limit, not exact)}
    scope = replace(place.scope, ranges=ranges, facts={**place.scope.facts, start: known})
    names = {**place.names, start: start, end: end}
    return replace(place, scope=scope, names=names, ends={**place.ends, axis: end})
