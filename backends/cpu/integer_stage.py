"""Operand ``a`` of a product of 8-bit integers, brought into the form that the register tile reads.

Rows in memory order are widened from where they lie, and so are the runs of a convolution (the channels at one pixel),
with the fill outside the image. Whatever else it is, a computed value or a gathered one, is computed row by row first.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from tilewright.backends.cpu.integer import CHUNK, Form, IntegerProduct
from tilewright.backends.cpu.nest import vector_axis
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.values import Buffer, is_inside
from tilewright.codegen.cstyle import C_TYPES
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.expr import Load, Ref
from tilewright.kernel.schedule import Compute


@dataclass(frozen=True, slots=True)
class Source:
    """Memory from which rows are staged: ``base`` is C text and ``offset`` elements from it (over axes). A piece of
    ``length`` elements lies in order for each position of ``around``, where ``checks`` hold; else it is the fill."""

    base: str
    offset: Expr
    around: tuple[str, ...]
    length: int
    checks: tuple[tuple[Expr, Expr], ...] = ()
    fill: int = 0


def source_of(place: Place, found: IntegerProduct) -> Source | None:
    """Where ``a`` lies in order along the depth, in pieces of whole chunks; ``None`` if it has to be computed."""
    v, kernel = found.a, place.scope.kernel
    checks: list[tuple[Expr, Expr]] = []
    if isinstance(v, Ref):
        tile = place.buffers[v.tile]
        if tile.dtype not in (DType.I8, DType.U8):
            return None
        base, offset = tile.name, tile.offset(v.axes)
    elif isinstance(v, Load):
        index = tuple(i for i in v.index if isinstance(i, Expr))
        if len(index) < len(v.index):
            return None
        param = place.params[v.tensor]
        base, offset = place.names[v.tensor], offset_of(param, index)
        if v.fill is not None:
            extents = {a.name: a.extent for a in kernel.axes}
            pairs = zip(index, param.shape, strict=True)
            checks = [(e, size) for e, size in pairs if not is_inside(e, size, extents, place.scope.facts)]
    else:
        return None
    # The longest piece: as many of the inner axes as lie in order together.
    length, inner = 1, 0
    for axis in reversed(found.depth):
        if place.vectorized(axis, 1).stride(offset) != length or any(axis in e.symbols for e, _ in checks):
            break
        length *= kernel.extent(axis).value
        inner += 1
    around = found.depth[: len(found.depth) - inner]
    if not inner or (around and length % CHUNK):
        return None
    fill = v.fill if isinstance(v, Load) else None
    return Source(base, offset, around, length, tuple(checks), int(fill or 0))


class Staging:
    """Spells the staging of the rows of one block: tile after tile, in each chunk after chunk of ``stride`` rows."""

    def __init__(self, place: Place, found: IntegerProduct, form: Form):
        self.found, self.form = found, form
        depth = found.length(place.scope.kernel)
        self.stride = form.tile.rows
        self.tile_elements = -(-depth // CHUNK) * CHUNK * self.stride
        self.name = place.fresh("staged")
        self.source = source_of(place, found)
        rows = constant(1) if found.row is None else place.scope.ranges[found.row].size
        size = 2 if form.name == "pairs" else 1
        elements = ceildiv(rows, self.stride) * self.tile_elements
        place.memory.declare(place.out, self.name, form.element, elements, size)
        self.line = None
        if self.source is None:
            self.line = place.fresh("computed")
            place.memory.declare(place.out, self.line, C_TYPES[form.dtype], constant(depth + place.lanes), 1)

    def emit_row(self, place: Place, to: str) -> None:
        """Append the staging of the row at the current position of the row axis to the pointer ``to``."""
        kernel, out = place.scope.kernel, place.out
        source = self.source or self._line(place)
        first = source.offset.substitute(dict.fromkeys(self.found.depth[len(source.around) :], ZERO))
        call, step = f"stage_{self.form.name}_{self.form.dtype}", CHUNK * self.stride
        with ExitStack() as stack:
            piece = ZERO
            for axis in source.around:
                place.open_loop(stack, axis)
                piece = piece * kernel.extent(axis) + symbol(axis)
            if source.around:
                to = f"{to} + ({place.index(piece)}) * {source.length // CHUNK * step}"
            whole = f"{call}({source.length}, {source.base} + {place.index(first)}, {to}, {step});"
            if not source.checks:
                out.line(whole)
                return
            tests = [f"(uint64_t)({place.index(e)}) < (uint64_t)({place.index(size)})" for e, size in source.checks]
            out.lines(f"if ({' && '.join(tests)})", f"    {whole}")
            out.line(f"else {call}_fill({source.length}, {source.fill & 255}, {to}, {step});")

    def _line(self, place: Place) -> Source:
        """One row of ``a``, put together in memory order."""
        assert self.line is not None
        if not self._copied(place):
            self._compute(place)
        return Source(self.line, ZERO, (), self.found.length(place.scope.kernel))

    def _copied(self, place: Place) -> bool:
        """Copy the row in runs along the innermost axis, if that is how it lies in memory. A run that crosses the
        border is copied element by element."""
        v, kernel, out = self.found.a, place.scope.kernel, place.out
        *others, run = self.found.depth
        index = tuple(i for i in v.index if isinstance(i, Expr)) if isinstance(v, Load) else ()
        if not isinstance(v, Load) or len(index) < len(v.index):
            return False
        offset, lane = offset_of(place.params[v.tensor], index), place.vectorized(run, 1)
        length = kernel.extent(run)
        if length == 1 or lane.stride(offset) != 1 or any(lane.stride(e) is None for e in index):
            return False
        extents = {a.name: a.extent for a in kernel.axes}
        pairs = zip(index, place.params[v.tensor].shape, strict=True) if v.fill is not None else ()
        checks = [(e, size) for e, size in pairs if not is_inside(e, size, extents, place.scope.facts)]
        ends = [
            (e.substitute({run: at}), n) for e, n in checks for at in (ZERO, length - 1) if at == 0 or run in e.symbols
        ]

        def inside(tests: list[tuple[Expr, Expr]]) -> str:
            return " && ".join(f"(uint64_t)({place.index(e)}) < (uint64_t)({place.index(n)})" for e, n in tests)

        base, to = (
            place.names[v.tensor],
            f"{self.line} + {place.index(self.found.fused(kernel).substitute({run: ZERO}))}",
        )
        with ExitStack() as stack:
            stack.enter_context(out.block(""))
            for axis in others:
                place.open_loop(stack, axis)
            copy = f"memcpy({to}, {base} + {place.index(offset.substitute({run: ZERO}))}, {length});"
            if not checks:
                out.line(copy)
                return True
            name = place.names[run]
            out.lines(f"if ({inside(ends)})", f"    {copy}")
            out.line(f"else for (int64_t {name} = 0; {name} < {length}; {name}++)")
            element = f"{inside(checks)} ? {base}[{place.index(offset)}] : {int(v.fill or 0)}"
            out.line(f"    ({to})[{name}] = {element};")
        return True

    def _compute(self, place: Place) -> None:
        """Compute the row."""
        assert self.line is not None
        kernel, depth = place.scope.kernel, self.found.depth
        strides: dict[str, Expr] = {}
        stride = constant(1)
        for axis in reversed(depth):
            strides[axis] = stride
            stride = stride * kernel.extent(axis)
        inner = depth[0] if len(depth) == 1 else None  # else a whole vector would reach into the next piece
        lanes = {axis: place.scope.ranges[axis].lanes for axis in depth}
        tile = Buffer(self.line, self.form.dtype, strides, dict.fromkeys(depth, ZERO), inner, lanes)
        place = replace(place, buffers={**place.buffers, self.line: tile})
        vector = vector_axis(place, Compute(self.line, depth, self.found.a))
        with ExitStack() as stack:
            stack.enter_context(place.out.block(""))
            for axis in depth:
                if axis != vector:
                    place.open_loop(stack, axis)
            live = place.open_vector_loop(stack, vector)
            values = place.values(vector, live)
            values.store_tile(tile, depth, values.spell(self.found.a))
