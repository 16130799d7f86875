"""Reductions down the lanes: a block of outputs in registers, and what follows them computed before they leave.

The interior of an image runs without a guard. Where a window reaches over a border, its loops are shorter: what lies
outside would change nothing (:class:`~tilewright.backends.cpu.window.Trim`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.statements import Statement, combine, emit_statement, identity_text
from tilewright.backends.cpu.values import Values, register_type
from tilewright.backends.cpu.window import Window, plan_window
from tilewright.codegen.cstyle import parenthesized
from tilewright.ir.symbolic import Expr, as_expr, constant, symbol
from tilewright.kernel.expr import Ref
from tilewright.kernel.schedule import Compute


@dataclass(frozen=True, slots=True)
class Piece:
    """Outputs of one row that are computed together: where they are; ``whole``: all taps of all of them are inside or
    known to be outside, else there is one output, and its taps are a shorter loop."""

    rows: tuple[Expr, ...]
    whole: bool = True


def emit_down(
    place: Place,
    statements: Sequence[Statement],
    axes: tuple[str, ...],
    vector: str | None,
    local: Collection[str],
) -> None:
    """A reduction over axes that are not the vector's, then ``statements[1:]`` on its result, inside open loops over
    all ``axes`` but the one that pieces are made of."""
    s, *rest = statements
    assert isinstance(s, Compute)
    window = plan_window(place, s, axes, vector)
    with ExitStack() as stack:
        for axis in axes:
            if axis != window.row:
                place.open_loop(stack, axis)
        emitter = _Down(place, s, rest, vector, window, local)
        for piece in _pieces(place, window):
            emitter.piece(piece)


@dataclass(frozen=True, slots=True)
class _Down:
    place: Place
    s: Compute
    rest: Sequence[Statement]
    vector: str | None
    window: Window
    local: Collection[str]

    def piece(self, piece: Piece) -> None:
        """All vectors of the outputs of one piece."""
        place, w = self.place, self.window
        limits = self._limits(piece)
        for vectors, live in place.vector_loops(self.vector, w.vectors):
            spots = [self._spot(row, v) for row in (piece.rows or (None,)) for v in range(vectors)]
            loaded: dict[object, str] = {}
            sums = [self._start(spot, live, loaded) for spot in spots]
            with ExitStack() as stack:
                for axis in self._loops(piece):
                    self._open(stack, axis, limits.get(axis))
                loaded = {}
                for n, tap in self._order(piece, len(spots), vectors):
                    at = {**spots[n], **({w.tap: constant(tap)} if tap is not None and w.tap is not None else {})}
                    if not self._outside(at):
                        self._add(sums[n], at, live, loaded)
            loaded = {}
            for name, spot in zip(sums, spots, strict=True):
                self._finish(name, spot, live, loaded)

    def _spot(self, row: Expr | None, vector: int) -> dict[str, Expr]:
        at = {} if row is None else {str(self.window.row): row}
        if vector and self.vector is not None:
            at[self.vector] = symbol(self.vector) + vector * self.place.lanes
        return at

    def _loops(self, piece: Piece) -> list[str]:
        assert self.s.reduce is not None
        return [a for a in self.s.reduce.axes if a != self.window.tap or not piece.whole]

    def _limits(self, piece: Piece) -> dict[str, tuple[str, str]]:
        """C texts of the first tap inside and the first beyond it, of the axes that a border may cut."""
        place, found = self.place, {}
        at = {} if not piece.rows else {str(self.window.row): piece.rows[0]}
        for axis in self._loops(piece):
            trims = [t for t in self.window.trims if t.tap == axis]
            if not trims:
                continue
            lo, hi = place.index(place.start(axis)), place.end(axis)
            for t in trims:
                first, beyond = t.limits(at)
                lo, hi = f"max_int({lo}, {place.index(first)})", f"min_int({hi}, {place.index(beyond)})"
            names = place.fresh(f"{axis}_first"), place.fresh(f"{axis}_end")
            place.out.line(f"const int64_t {names[0]} = {lo}, {names[1]} = {hi};")
            found[axis] = names
        return found

    def _open(self, stack: ExitStack, axis: str, limits: tuple[str, str] | None) -> None:
        if limits is None:
            self.place.open_loop(stack, axis)
            return
        name = self.place.names[axis]
        stack.enter_context(self.place.out.block(f"for (int64_t {name} = {limits[0]}; {name} < {limits[1]}; {name}++)"))

    def _order(self, piece: Piece, spots: int, vectors: int) -> Sequence[tuple[int, int | None]]:
        """Outputs and taps in the order of what they read, so that it is read once and soon forgotten."""
        w = self.window
        if w.tap is None or not piece.whole:
            return [(n, None) for n in range(spots)]
        pairs: list[tuple[int, int]] = [(n, tap) for n in range(spots) for tap in range(w.taps)]
        pairs.sort(key=lambda p: (p[0] // vectors * w.stride + p[1] * w.dilation, p[0] % vectors, p[1]))
        return pairs

    def _outside(self, at: Mapping[str, Expr]) -> bool:
        """Whether this tap of this output is known to change nothing."""
        for t in self.window.row_trims:
            index = t.index.substitute(at)
            if index.is_constant and t.size.is_constant and not 0 <= index.value < t.size.value:
                return True
        return False

    def _values(self, at: Mapping[str, Expr], live: str | None, loaded: dict[object, str]) -> Values:
        values = self.place.values(self.vector, live)
        values.at, values.loaded = at, loaded
        values.inside = frozenset(t.index for t in self.window.trims)
        return values

    def _start(self, at: Mapping[str, Expr], live: str | None, loaded: dict[object, str]) -> str:
        s, place = self.s, self.place
        assert s.reduce is not None
        text = identity_text(s.reduce.op, s.value.dtype)
        if s.accumulate:
            text = self._values(at, live, loaded).spell(Ref(s.tile, s.axes, s.value.dtype))
        name = place.fresh(s.tile)
        place.out.line(f"{register_type(s.value.dtype)}v {name} = {text};")
        return name

    def _add(self, name: str, at: Mapping[str, Expr], live: str | None, loaded: dict[object, str]) -> None:
        assert self.s.reduce is not None
        text = self._values(at, live, loaded).spell(self.s.value)
        self.place.out.line(f"{name} = {combine(self.s.reduce.op, self.s.value.dtype, name, text)};")

    def _finish(self, name: str, at: Mapping[str, Expr], live: str | None, loaded: dict[object, str]) -> None:
        s = self.s
        values = self._values(at, live, loaded)
        values.inside = frozenset()
        if s.tile not in self.local:
            values.store_tile(self.place.buffers[s.tile], s.axes, name)
        values.local[s.tile] = name
        for statement in self.rest:
            emit_statement(self.place, statement, values, self.local)


# -- pieces of a row -------------------------------------------------------------------------------------------------


def _pieces(place: Place, w: Window) -> Iterator[Piece]:
    """Opens the loops over the outputs of a row, one after the other, for the caller to fill."""
    if w.row is None:
        with place.out.block(""):
            yield Piece((), w.tap is None)
        return
    count, start = place.count(w.row), place.start(w.row)
    decided = start.is_constant and all(_is_decided(w, start.value, t.index, t.size) for t in w.row_trims)
    if count is not None and decided:
        yield from _constant_pieces(place, w, start.value, start.value + count)
    else:
        yield from _open_pieces(place, w)


def _is_decided(w: Window, row: int, index: Expr, size: Expr) -> bool:
    return size.is_constant and index.substitute({str(w.row): row, str(w.tap): 0}).is_constant


def _constant_pieces(place: Place, w: Window, start: int, end: int) -> Iterator[Piece]:
    """Borders written out, output by output; a loop over the pieces between them."""
    row, name = str(w.row), place.names[str(w.row)]
    starts = list(range(start, end, w.rows))
    middle = [a for a in starts if a + w.rows <= end and _is_inside(w, a, a + w.rows - 1)]
    first, last = (middle[0], middle[-1] + w.rows) if len(middle) > 1 else (end, end)
    for a in starts:
        if a < first or a >= last:
            place.out.comment(f"{row} = {a} … {min(a + w.rows, end) - 1}")
            with place.out.block(""):
                yield Piece(tuple(constant(x) for x in range(a, min(a + w.rows, end))))
        elif a == first:
            with place.out.block(f"for (int64_t {name} = {first}; {name} < {last}; {name} += {w.rows})"):
                yield Piece(tuple(symbol(row) + n for n in range(w.rows)))


def _is_inside(w: Window, first: int, last: int) -> bool:
    """Whether no output of ``first … last`` reaches over a border."""
    for t in w.row_trims:
        low = t.index.substitute({str(w.row): first, t.tap: 0}).value
        high = t.index.substitute({str(w.row): last, t.tap: w.taps - 1}).value
        if low < 0 or high >= t.size.value:
            return False
    return True


def _open_pieces(place: Place, w: Window) -> Iterator[Piece]:
    """Outputs whose windows are inside by ``w.rows``; the others, and what is left over, one by one."""
    out, row, name, end = place.out, str(w.row), place.names[str(w.row)], place.end(str(w.row))
    one = Piece((symbol(row),), whole=not w.row_trims)
    block = Piece(tuple(symbol(row) + n for n in range(w.rows)))
    with out.block(""):
        out.line(f"int64_t {name} = {place.index(place.start(row))};")
        limit = end
        if w.row_trims:
            lo, hi = _interior(place, w)
            with out.block(f"for (; {name} < min_int({end}, {lo}); {name}++)"):
                yield one
            limit = place.fresh(f"{name}_inside")
            out.line(f"const int64_t {limit} = min_int({end}, {hi});")
        if w.rows > 1:
            with out.block(f"for (; {name} + {w.rows} <= {parenthesized(limit)}; {name} += {w.rows})"):
                yield block
        with out.block(f"for (; {name} < {end}; {name}++)"):
            yield one


def _interior(place: Place, w: Window) -> tuple[str, str]:
    """C texts of the first output whose window is inside, and of the first beyond it whose window is not."""
    los, his = [], []
    for t in w.row_trims:
        rest = t.index.substitute({str(w.row): 0, t.tap: 0})
        stride = w.stride
        los.append(place.index((as_expr(stride) - 1 - rest) // stride))
        his.append(place.index((t.size - 1 - rest - w.dilation * (w.taps - 1)) // stride + 1))
    lo, hi = los[0], his[0]
    for other in los[1:]:
        lo = f"max_int({lo}, {other})"
    for other in his[1:]:
        hi = f"min_int({hi}, {other})"
    return lo, hi
