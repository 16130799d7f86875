"""Sums of products in f32: a register tile of rows × vectors, operands staged where memory is not in order.

The columns lie along the lanes: operand ``b`` must have unit stride along the column axis, operand ``a`` is read one
element a row. An operand that is not so in memory (another type, a fill, a transposition, a computed value) is copied
into a small buffer first. Each element of the result is summed in the order of the reduction, whatever the tile, so
that results do not depend on how rows fall into tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from tilewright.backends.cpu.keys import MOST_ROWS as DOT_ROWS
from tilewright.backends.cpu.keys import DotCall, Keys
from tilewright.backends.cpu.matvec import PIECE, FewRows, most_rows
from tilewright.backends.cpu.nest import vector_axis
from tilewright.backends.cpu.place import Place, narrowed
from tilewright.backends.cpu.register_tile import Call, Contraction, Operand, RegisterTiles, Tiling, strip_casts
from tilewright.backends.cpu.values import NARROW, Buffer
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.expr import Const, Load, Ref, Value
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute


def operand_of(place: Place, v: Value, along: str | None, depth: str, width: int) -> Operand | None:
    """``v`` as plain f32 memory with fixed strides along both axes; ``None`` when it must be staged."""
    if isinstance(v, Ref):
        tile = place.buffers[v.tile]
        if tile.dtype not in (DType.F32, *NARROW):
            return None
        base, offset = tile.name, tile.offset(v.axes)
    elif isinstance(v, Load) and v.dtype is DType.F32 and v.fill is None:
        index = tuple(i for i in v.index if isinstance(i, Expr))
        if len(index) < len(v.index):
            return None
        base, offset = place.names[v.tensor], offset_of(place.params[v.tensor], index)
    else:
        return None
    first = place.vectorized(along, width).stride(offset)
    second = place.vectorized(depth, 1).stride(offset)
    return None if first is None or second is None else Operand(base, offset, first, second)


def padded_columns(place: Place, b: Value, column: str, width: int) -> bool:
    """Whether whole vectors of ``b`` may be read beyond the last column."""
    count = place.count(column)
    if count is not None and count % place.lanes == 0:
        return True
    if isinstance(b, Ref):
        tile = place.buffers[b.tile]
        return tile.inner == column
    assert isinstance(b, Load)
    last = place.params[b.tensor].shape[-1]
    # A packed panel: the innermost dimension is a piece of the columns, zero beyond them.
    return last.is_constant and last.value % width == 0 and b.index[-1] == symbol(column) % last


class ContractionEmitter:
    """Spells contractions of one kernel; their register tile functions gather in ``tiles``."""

    def __init__(self, kernel: str, tiling: Tiling, keys: Mapping[str, Keys]):
        self.tiling, self.keys = tiling, keys
        self.tiles = RegisterTiles(kernel, tiling)

    def emit(self, place: Place, c: Contraction) -> None:
        """Append the nest of ``c``."""
        out = place.out
        out.comment(print_node(c.node))
        width = self.tiling.vectors * place.lanes
        with ExitStack() as stack:
            if any(place.count(axis) == 1 for axis in (*c.outer, *c.steps)):
                stack.enter_context(out.block(""))
            for axis in c.outer:
                place.open_loop(stack, axis)
            if c.steps:
                self._clear(place, c)
            for axis in c.steps:
                place.open_loop(stack, axis)
            if self._dots(place, stack, c) or self.few_rows(place, stack, c):
                return
            place, columns = self._chunks(place, stack, c.column, width)
            b = operand_of(place, strip_casts(c.b), c.column, c.depth, width)
            padded = b is not None and padded_columns(place, strip_casts(c.b), c.column, width)
            if b is None or b.along != 1:
                b = self._stage_b(place, c, width)
                padded = True
            inner = place
            rows = "1"
            if c.row is not None:
                inner, rows = self._chunks(place, stack, c.row, self.tiling.rows)
            a = operand_of(inner, strip_casts(c.a), c.row, c.depth, 1)
            if a is None:
                a = self._stage_a(inner, c)
            self.tiles.call(inner, c, Call(a, b, rows, columns, padded))

    def _dots(self, place: Place, stack: ExitStack, c: Contraction) -> bool:
        """Few rows by dot products, where both operands are contiguous along the depth: ``b`` in memory, or where no
        copy of it was made. Returns as :meth:`few_rows` does."""
        keys = self.keys.get(c.b.tile) if isinstance(c.b, Ref) else None
        rows = "1" if c.row is None else place.length(c.row)
        source = c.b if keys is None else keys.source
        few = keys.direct is not None if keys is not None else rows.isdigit() and int(rows) <= DOT_ROWS
        if c.steps or not few or not isinstance(source, Load):
            return False
        a = operand_of(place, c.a, c.row, c.depth, 1)
        b = operand_of(place, source, c.column, c.depth, 1)
        if a is None or b is None or a.deep != 1 or b.deep != 1 or b.along == 1:
            return False
        with ExitStack() as inside:
            if keys is not None:
                inside.enter_context(place.out.block(f"if ({keys.direct})"))
            DotCall(a, b, rows, place.length(c.column)).emit(place, c, self.tiles)
        if keys is not None:
            stack.enter_context(place.out.block("else"))
        return keys is None

    def few_rows(
        self,
        place: Place,
        stack: ExitStack,
        c: Contraction,
        after: Callable[[], None] | None = None,
        outer: tuple[str, ...] = (),
    ) -> bool:
        """Few rows by their own register tile, where ``b`` allows, and ``after``; whether that is all there is to do.

        Otherwise what follows stands in the ``else`` of a test of the number of rows. ``outer`` are axes to loop over.
        """
        # All rows, not those of a tile: of many rows the tile of many is the better one, for the last few too.
        total = constant(1) if c.row is None else place.scope.kernel.extent(c.row)
        most = most_rows(self.tiling, place.lanes)
        rows = "1" if c.row is None else place.length(c.row)
        always = total.is_constant and rows.isdigit()
        if c.steps or bounds(total, place.scope.facts)[0] > most:
            return False
        v = strip_casts(c.b)
        b = operand_of(place, v, c.column, c.depth, PIECE)
        padded = b is not None and padded_columns(place, v, c.column, PIECE)
        whole = padded and isinstance(v, Load)
        if b is None or b.along != 1 or not (whole or place.length(c.column).isdigit()):
            return False
        with ExitStack() as branch:
            if not always:
                branch.enter_context(place.out.block(f"if ({place.index(total)} <= {most})"))
            with ExitStack() as inside:
                if outer:
                    inside.enter_context(place.out.block(""))
                for axis in outer:
                    place.open_loop(inside, axis)
                inner, columns = self._chunks(place, inside, c.column, 2 * PIECE)
                if c.row is not None:
                    inner, rows = self._chunks(inner, inside, c.row, self.tiling.rows)
                b = operand_of(inner, v, c.column, c.depth, PIECE)
                a = operand_of(inner, strip_casts(c.a), c.row, c.depth, 1) or self._stage_a(inner, c)
                assert b is not None
                ahead = replace(b, offset=b.offset.substitute({c.column: symbol(c.column) + PIECE}))
                FewRows(a, b, ahead, rows, columns, padded, most).emit(inner, c, self.tiles)
            if after is not None:
                after()
        if not always:
            stack.enter_context(place.out.block("else"))
        return always

    def _clear(self, place: Place, c: Contraction) -> None:
        """With several reduction loops every piece adds to the tile, which starts at zero."""
        if c.node.accumulate:
            return
        zero = Compute(c.node.tile, tuple(a for a in c.node.axes if a not in c.outer), _zero())
        with ExitStack() as stack:
            stack.enter_context(place.out.block(""))
            if c.row is not None:
                place.open_loop(stack, c.row)
            live = place.open_vector_loop(stack, c.column)
            values = place.values(c.column, live)
            values.store_tile(place.buffers[zero.tile], c.node.axes, values.spell(zero.value))

    def _chunks(self, place: Place, stack: ExitStack, axis: str, size: int) -> tuple[Place, str]:
        """A loop over ``axis`` in pieces of ``size``, unless it is no longer; the text of the piece's length."""
        r = place.scope.ranges[axis]
        count, start, end = place.count(axis), place.index(r.start), place.end(axis)
        limit = r.lanes if r.lanes is not None else bounds(r.size, place.scope.facts)[1]
        if limit <= size:
            return place, place.length(axis)
        name, stop = place.fresh(f"{axis}_at"), place.fresh(f"{axis}_stop")
        stack.enter_context(place.out.block(f"for (int64_t {name} = {start}; {name} < {end}; {name} += {size})"))
        exact = count is not None and count % size == 0
        place.out.line(
            f"const int64_t {stop} = " + (f"{name} + {size};" if exact else f"min_int({name} + {size}, {end});")
        )
        return narrowed(place, axis, (name, stop), size, exact=exact), str(size) if exact else f"{stop} - {name}"

    def _stage_b(self, place: Place, c: Contraction, width: int) -> Operand:
        """Copy ``b`` into a panel of ``width`` columns."""
        rows = place.scope.ranges[c.depth].size
        name = self._copy(
            place, c.b, f"{c.node.tile}_b", {c.depth: constant(width), c.column: constant(1)}, rows * width
        )
        return Operand(name, (symbol(c.depth) - place.start(c.depth)) * width, constant(1), constant(width))

    def _stage_a(self, place: Place, c: Contraction) -> Operand:
        """Copy ``a`` into rows of the depth."""
        stride = ceildiv(place.scope.ranges[c.depth].size, place.lanes) * place.lanes
        strides = {c.depth: constant(1)} if c.row is None else {c.row: stride, c.depth: constant(1)}
        rows = constant(1) if c.row is None else place.scope.ranges[c.row].size
        name = self._copy(place, c.a, f"{c.node.tile}_a", strides, rows * stride)
        return Operand(name, symbol(c.depth) - place.start(c.depth), stride, constant(1))

    def stage_rows(self, place: Place, v: Value, tile: str, row: str | None, block: str | None, inner: str) -> Operand:
        """Copy all rows of ``v``, whose reduction runs over ``inner``, or over blocks of it, into f32 rows."""
        size = place.scope.ranges[inner].size
        blocks = constant(1) if block is None else place.scope.kernel.extent(block)
        stride = ceildiv(blocks * size, place.lanes) * place.lanes
        strides, rows, offset = {inner: constant(1)}, constant(1), symbol(inner)
        if block is not None:
            strides, offset = {block: size, **strides}, offset + symbol(block) * size
        if row is not None:
            strides, rows = {row: stride, **strides}, place.scope.ranges[row].size
            offset = offset + (symbol(row) - place.start(row)) * stride
        name = self._copy(place, v, f"{tile}_x", strides, rows * stride)
        return Operand(name, offset, stride if row is not None else constant(0), constant(1))

    def _copy(self, place: Place, v: Value, label: str, strides: dict[str, Expr], size: Expr) -> str:
        """Spell ``v`` over the axes of ``strides`` into a buffer of ``size`` elements; its name."""
        name, axes = place.fresh(label), tuple(strides)
        starts = {axis: place.start(axis) for axis in axes}
        tile = Buffer(name, DType.F32, strides, starts, axes[-1], dict.fromkeys(axes))
        place = replace(place, buffers={**place.buffers, name: tile})
        place.memory.declare(place.out, name, "float", size + place.lanes)
        vector = vector_axis(place, Compute(name, axes, v))
        with ExitStack() as stack:
            stack.enter_context(place.out.block(""))
            for axis in axes:
                if axis != vector:
                    place.open_loop(stack, axis)
            live = place.open_vector_loop(stack, vector)
            values = place.values(vector, live)
            values.store_tile(tile, axes, values.spell(v))
        return name


def _zero() -> Value:
    return Const(0.0, DType.F32)
