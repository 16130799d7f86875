"""Sums of products in f32: a register tile of rows × vectors, operands staged where memory is not in order.

The columns lie along the lanes: operand ``b`` must have unit stride along the column axis, operand ``a`` is read one
element a row. An operand that is not so in memory (another type, a fill, a transposition, a computed value) is copied
into a small buffer first. Each element of the result is summed in the order of the reduction, whatever the tile, so
that results do not depend on how rows fall into tiles.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from tilewright.backends.cpu.lanes import offset_of
from tilewright.backends.cpu.nest import vector_axis
from tilewright.backends.cpu.place import Place, narrowed
from tilewright.backends.cpu.values import HALF, Buffer
from tilewright.codegen.cstyle import Text
from tilewright.ir.symbolic import Expr, bounds, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import as_product, used_symbols
from tilewright.kernel.expr import Cast, Const, Load, Ref, Value
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute


@dataclass(frozen=True, slots=True)
class Tiling:
    """The register tile of a target: ``rows`` × ``vectors`` accumulators."""

    rows: int
    vectors: int


@dataclass(frozen=True, slots=True)
class Contraction:
    """A sum of products with its axes chosen. ``row`` is ``None`` when the result has columns only.

    ``outer`` are further axes of the result, looped over outside; ``depth`` is the innermost reduction axis and
    ``steps`` the ones around it.
    """

    node: Compute
    a: Value
    b: Value
    row: str | None
    column: str
    outer: tuple[str, ...]
    steps: tuple[str, ...]
    depth: str


def _strip(v: Value) -> Value:
    """Without the casts that half precisions need: their vectors are f32 in registers."""
    while isinstance(v, Cast) and v.dtype is DType.F32 and v.x.dtype in HALF:
        v = v.x
    return v


def plan_contraction(node: Compute) -> Contraction | None:
    """The contraction that ``node`` is, or ``None`` when the register tile has no use for it."""
    product = as_product(node)
    if product is None or node.value.dtype is not DType.F32 or not product.n:
        return None
    column, row = product.n[-1], product.m[-1] if product.m else None
    outer = tuple(x for x in node.axes if x not in (column, row))
    # The depth that both operands carry; others (one operand is constant along them) are rare.
    both = [k for k in product.k if k in used_symbols(product.a) and k in used_symbols(product.b)]
    depth = both[-1]
    steps = tuple(k for k in product.k if k != depth)
    return Contraction(node, product.a, product.b, row, column, outer, steps, depth)


@dataclass(frozen=True, slots=True)
class Operand:
    """Where an operand lies: ``base`` is C text, ``offset`` elements from it (over axes); strides along two axes."""

    base: str
    offset: Expr
    along: Expr
    deep: Expr


def _operand(place: Place, v: Value, along: str | None, depth: str, width: int) -> Operand | None:
    """``v`` as plain f32 memory with fixed strides along both axes; ``None`` when it must be staged."""
    if isinstance(v, Ref):
        tile = place.buffers[v.tile]
        if tile.dtype not in (DType.F32, *HALF):
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


class ContractionEmitter:
    """Spells contractions of one kernel; register tile functions gather in ``functions``."""

    def __init__(self, kernel: str, tiling: Tiling):
        self.kernel, self.tiling = kernel, tiling
        self.functions = Text()

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
            place, columns = self._chunks(place, stack, c.column, width)
            b = _operand(place, _strip(c.b), c.column, c.depth, width)
            padded = b is not None and self._padded(place, _strip(c.b), c.column, width)
            if b is None or b.along != 1:
                b = self._stage_b(place, c, width)
                padded = True
            inner = place
            rows = "1"
            if c.row is not None:
                inner, rows = self._chunks(place, stack, c.row, self.tiling.rows)
            a = _operand(inner, _strip(c.a), c.row, c.depth, 1)
            if a is None:
                a = self._stage_a(inner, c)
            self._call(inner, c, a, b, rows, columns, padded)

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
            return place, str(count) if count is not None else f"{end} - {start}" if start != "0" else end
        name, stop = place.fresh(f"{axis}_at"), place.fresh(f"{axis}_stop")
        stack.enter_context(place.out.block(f"for (int64_t {name} = {start}; {name} < {end}; {name} += {size})"))
        exact = count is not None and count % size == 0
        place.out.line(
            f"const int64_t {stop} = " + (f"{name} + {size};" if exact else f"min_int({name} + {size}, {end});")
        )
        return narrowed(place, axis, name, stop, size, exact), str(size) if exact else f"{stop} - {name}"

    def _padded(self, place: Place, b: Value, column: str, width: int) -> bool:
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

    def _stage_b(self, place: Place, c: Contraction, width: int) -> Operand:
        """Copy ``b`` into a panel of ``width`` columns."""
        deep, stride = self._copy(place, c.b, c.depth, c.column, width, f"{c.node.tile}_b")
        return Operand(deep, (symbol(c.depth) - place.start(c.depth)) * stride, constant(1), constant(stride))

    def _stage_a(self, place: Place, c: Contraction) -> Operand:
        """Copy ``a`` into rows of the depth."""
        count = bounds(place.scope.ranges[c.depth].size, place.scope.facts)[1]
        stride = -(-count // place.lanes) * place.lanes
        name, stride = self._copy(place, c.a, c.row, c.depth, stride, f"{c.node.tile}_a")
        return Operand(name, symbol(c.depth) - place.start(c.depth), constant(stride), constant(1))

    def _copy(self, place: Place, v: Value, major: str | None, minor: str, stride: int, label: str) -> tuple[str, int]:
        rows = 1
        if major is not None:
            rows = bounds(place.scope.ranges[major].size, place.scope.facts)[1]
        name = place.fresh(label)
        strides = {minor: constant(1)} | ({major: constant(stride)} if major is not None else {})
        axes = tuple(x for x in (major, minor) if x is not None)
        tile = Buffer(name, DType.F32, strides, {x: place.start(x) for x in axes}, minor, {x: None for x in axes})
        place = replace(place, buffers={**place.buffers, name: tile})
        place.memory.declare(place.out, name, "float", constant(rows * stride + place.lanes))
        copy = Compute(name, axes, v)
        vector = vector_axis(place, copy)
        with ExitStack() as stack:
            stack.enter_context(place.out.block(""))
            for axis in axes:
                if axis != vector:
                    place.open_loop(stack, axis)
            live = place.open_vector_loop(stack, vector)
            values = place.values(vector, live)
            values.store_tile(tile, axes, values.spell(v))
        return name, stride

    # -- the register tile -------------------------------------------------------------------------------------------

    def _call(
        self, place: Place, c: Contraction, a: Operand, b: Operand, rows: str, columns: str, padded: bool
    ) -> None:
        tile = place.buffers[c.node.tile]
        first = {c.depth: place.start(c.depth), c.column: place.start(c.column)}
        if c.row is not None:
            first[c.row] = place.start(c.row)
        depth = place.scope.ranges[c.depth]
        count = place.count(c.depth)
        start = place.index(depth.start)
        deep = str(count) if count is not None else place.end(c.depth) + (f" - {start}" if start != "0" else "")
        result = tile.offset(c.node.axes).substitute(first)
        row_stride = tile.strides[c.row] if c.row is not None else constant(0)
        strides = [place.index(s) for s in (a.along, a.deep, b.deep, row_stride)]
        fresh = not c.node.accumulate and not c.steps
        name = self._function(place, c, rows, columns, padded, fresh, strides, deep)
        free = [s for s in (deep, *strides) if not s.isdigit()]
        arguments = [
            rows,
            columns,
            f"{a.base} + {place.index(a.offset.substitute(first))}",
            f"{b.base} + {place.index(b.offset.substitute(first))}",
            f"{tile.name} + {place.index(result)}",
            *free,
        ]
        place.out.line(f"{name}({', '.join(arguments)});")

    def _function(
        self,
        place: Place,
        c: Contraction,
        rows: str,
        columns: str,
        padded: bool,
        fresh: bool,
        strides: list[str],
        deep: str,
    ) -> str:
        """The function of this contraction's register tile: one case for each number of rows and vectors."""
        name = place.fresh(f"{self.kernel}_{c.node.tile}")
        labels = ["depth", "a_row", "a_deep", "b_deep", "c_row"]
        texts = [deep, *strides]
        free = [label for label, text in zip(labels, texts, strict=True) if not text.isdigit()]
        shown = [label if label in free else text for label, text in zip(labels, texts, strict=True)]
        parameters = ["int64_t rows", "int64_t columns", "const float *a", "const float *b", "float *c"]
        parameters += [f"int64_t {label}" for label in free]
        out = self.functions
        out.comment(f"{c.node.tile}: rows x columns of the result, all of the depth, in registers.")
        lanes, vectors = place.lanes, self.tiling.vectors
        top = int(rows) if rows.isdigit() else min(self.tiling.rows, self._limit(place, c.row))
        counts = [top] if rows.isdigit() else list(range(1, top + 1))
        with out.block(f"static __attribute__((noinline)) void {name}({', '.join(parameters)})"):
            widths = [-(-int(columns) // lanes)] if columns.isdigit() else list(range(1, vectors + 1))
            live = "TW_LANES" if padded else f"columns - {{}} * TW_LANES"
            for v in widths:
                with ExitStack() as stack:
                    if len(widths) > 1:
                        test = f"if (columns <= {v} * TW_LANES)" if v < widths[-1] else ""
                        stack.enter_context(out.block(("else " if v > 1 else "") + test))
                    with out.block("switch (rows)"):
                        for n in counts:
                            tail = f"{shown[0]}, a, {shown[1]}, {shown[2]}, b, {shown[3]}, c, {shown[4]}"
                            out.line(f"case {n}: mma_f32({n}, {v}, {live.format(v - 1)}, {int(fresh)}, {tail}); break;")
        out.line()
        return name

    def _limit(self, place: Place, row: str | None) -> int:
        if row is None:
            return 1
        r = place.scope.ranges[row]
        return min(r.lanes or self.tiling.rows, self.tiling.rows)


def _zero() -> Value:
    return Const(0.0, DType.F32)
