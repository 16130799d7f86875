"""Blocks of products of 8-bit integers: rows staged once, strips of columns widened once, sums in registers.

A block of rows passes every strip of its columns, with a piece of the depth at a time for which the strip stays in L1;
between pieces sums wait in the tile of the result. What follows is computed on the sums while they are in registers,
where it is cheap. Few rows read the packed panels as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import ceil

from tilewright.backends.cpu.finish import Finish
from tilewright.backends.cpu.integer import CHUNK, PANEL, QUAD, Form, IntegerProduct
from tilewright.backends.cpu.integer_stage import Staging
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import Tiling
from tilewright.codegen.cstyle import Text, index_text, parenthesized
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute
from tilewright.kernel.tile import Kernel

#: Elements of the depth of one piece at the most: a widened strip of 16 columns takes 24 KB, a panel of bytes as much.
PIECE = 768
#: Variables of the nest.
_NAMES = ("count", "pieces", "piece", "row", "stop", "strip", "packed", "widened", "start", "chunk", "deep")


def in_pieces(found: IntegerProduct, kernel: Kernel) -> bool:
    """Whether the depth is cut, so that sums wait in memory."""
    return found.length(kernel) > PIECE


def _piece(depth: int) -> int:
    """Chunks of one piece of the depth."""
    return ceil(ceil(depth / CHUNK) / ceil(depth / PIECE))


class IntegerEmitter:
    """Spells the products of one kernel; their register tile functions gather in ``functions``."""

    def __init__(self, kernel: str, functions: Text):
        self.kernel, self.functions = kernel, functions

    def emit(self, place: Place, node: Compute, found: IntegerProduct, form: Form, finish: Finish | None) -> None:
        """Append the nest; the sums are stored in the tile of the result unless ``finish`` takes them."""
        out = place.out
        out.comment(print_node(node))
        with ExitStack() as stack:
            stack.enter_context(out.block(""))
            for axis in found.outer:
                place.open_loop(stack, axis)
            _Nest(self, place, node, found, form, finish).emit()


class _Nest:
    def __init__(
        self,
        emitter: IntegerEmitter,
        place: Place,
        node: Compute,
        found: IntegerProduct,
        form: Form,
        finish: Finish | None,
    ):
        self.emitter, self.place, self.out = emitter, place, place.out
        self.node, self.found, self.form, self.finish = node, found, form, finish
        self.names = {k: place.fresh(k) for k in _NAMES}
        self.depth = found.length(place.scope.kernel)
        self.first = "0" if found.row is None else place.index(place.start(found.row))

    def emit(self) -> None:
        place, names, out, row = self.place, self.names, self.out, self.found.row
        end = "1" if row is None else place.end(row)
        out.line(f"const int64_t {names['count']} = {end} - {parenthesized(self.first)};")
        out.line(f"const int64_t {names['pieces']} = ceil_int({names['count']}, {self.form.tile.rows});")
        staging = Staging(place, self.found, self.form)
        with self._rows():
            at = "only" if row is None else place.names[row]
            with out.block(f"for (int64_t {at} = {names['row']}; {at} < {names['stop']}; {at}++)"):
                to = f"{staging.name} + {names['piece']} * {staging.tile_elements}"
                staging.emit_row(place, f"{to} + ({at} - {names['row']}) * {CHUNK}")
        if self.form.name == "bytes":
            self._panels(staging, "add_narrow" if self.form.narrow else "add_bytes", self.form.tile)
            return
        few = f"add_packed_{self.found.b.dtype}"
        least, most = (1, 1) if row is None else bounds(place.scope.kernel.extent(row), place.scope.facts)
        if most <= self.form.few.rows:
            self._panels(staging, few, self.form.few)
        elif least > self.form.few.rows:  # of many rows, a last block of few may be widened as well
            self._widened(staging)
        else:
            with out.block(f"if ({names['count']} <= {self.form.few.rows})"):
                self._panels(staging, few, self.form.few)
            with out.block("else"):
                self._widened(staging)

    # -- loops -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _rows(self) -> Iterator[None]:
        """A loop over tiles of rows, evened out."""
        n = self.names
        head = f"for (int64_t {n['piece']} = 0, {n['row']} = {self.first}, {n['stop']};"
        head += f" {n['piece']} < {n['pieces']}; {n['piece']}++, {n['row']} = {n['stop']})"
        with self.out.block(head):
            more = f"({n['piece']} < {n['count']} % {n['pieces']})"
            self.out.line(f"{n['stop']} = {n['row']} + {n['count']} / {n['pieces']} + {more};")
            yield

    @contextmanager
    def _strips(self, tiling: Tiling) -> Iterator[None]:
        """A loop over strips of columns."""
        place, column, strip = self.place, self.found.column, self.names["strip"]
        begin, end, width = place.index(place.start(column)), place.end(column), tiling.vectors * place.lanes
        with self.out.block(f"for (int64_t {strip} = {begin}; {strip} < {end}; {strip} += {width})"):
            param = place.params[self.found.b.tensor]
            index = tuple(i for i in self.found.b.index if isinstance(i, Expr))
            moved = {column: symbol(strip), **dict.fromkeys(self.found.depth, ZERO)}
            at = index_text(offset_of(param, index).substitute(moved), {**place.names, strip: strip})
            self.out.line(
                f"const int8_t *const {self.names['packed']} = (const int8_t *){place.names[param.name]} + {at};"
            )
            yield

    def _depths(self, stack: ExitStack) -> tuple[str, str, int | None]:
        """A loop over pieces of the depth, where there are several: C texts of the first chunk of one and of its number
        of chunks, and the number of a whole one."""
        chunks, piece = -(-self.depth // CHUNK), _piece(self.depth)
        if piece == chunks:
            return "0", str(chunks), None
        chunk, deep = self.names["chunk"], self.names["deep"]
        stack.enter_context(self.out.block(f"for (int64_t {chunk} = 0; {chunk} < {chunks}; {chunk} += {piece})"))
        self.out.line(f"const int64_t {deep} = min_int({piece}, {chunks} - {chunk});")
        return chunk, deep, piece

    def _widened(self, staging: Staging) -> None:
        """Strips that are widened for all rows."""
        place, names, tiling = self.place, self.names, self.form.tile
        size = _piece(self.depth) * CHUNK // 2 * tiling.vectors * place.lanes
        place.memory.declare(self.out, names["widened"], "int32_t", constant(size))
        with ExitStack() as stack:
            chunk, deep, piece = self._depths(stack)
            stack.enter_context(self._strips(tiling))
            b, quads = names["packed"], str(-(-self.depth // QUAD))
            if piece is not None:
                b = f"{b} + {chunk} * {CHUNK // QUAD * PANEL * QUAD}"
                quads = f"min_int({deep} * {CHUNK // QUAD}, {quads} - {chunk} * {CHUNK // QUAD})"
            widen = f"widen_strip_{self.found.b.dtype}({tiling.vectors}, {quads}, {b}, {names['widened']});"
            self.out.line(widen)
            name = self._function(tiling, f"add_widened(rows, vectors, {staging.stride}, {tiling.vectors}", piece, deep)
            with self._rows():
                self._call(name, staging, names["widened"], "0", (chunk, deep, piece))

    def _panels(self, staging: Staging, add: str, tiling: Tiling) -> None:
        """Packed panels as they are."""
        place, names, out = self.place, self.names, self.out
        quads, start = -(-self.depth // QUAD), "0"
        with ExitStack() as stack:
            chunk, deep, piece = ("0", str(-(-self.depth // CHUNK)), None)
            in_bytes = self.form.name == "bytes"
            if in_bytes:
                chunk, deep, piece = self._depths(stack)
            count, b = str(quads), names["packed"]
            if piece is not None:
                count = f"min_int({deep} * {CHUNK // QUAD}, {quads} - {chunk} * {CHUNK // QUAD})"
                b = f"{b} + {chunk} * {CHUNK // QUAD * PANEL * QUAD}"
            if in_bytes and self.form.dtype is DType.I8:
                start = names["start"]
                place.memory.declare(out, start, "int32_t", constant(PANEL))
            stack.enter_context(self._strips(tiling))
            if start != "0":
                when = f"if ({chunk} == 0) " if piece is not None else ""
                balance = "balance_narrow" if self.form.narrow else "balance_strip"
                out.line(f"{when}{balance}({tiling.vectors}, {quads}, {names['packed']}, {start});")
            name = self._function(tiling, f"{add}(rows, vectors, {staging.stride}", piece, count)
            with self._rows():
                self._call(name, staging, b, start, (chunk, count, piece))

    # -- the register tile -------------------------------------------------------------------------------------------

    def _call(self, name: str, staging: Staging, b: str, start: str, depth: tuple[str, str, int | None]) -> None:
        """A call of the register tile function; ``depth``: first chunk, how many steps, chunks of a whole piece."""
        place, names, found, sums = self.place, self.names, self.found, "0"
        chunk, count, piece = depth
        strip, row = names["strip"], names["row"]
        if self.finish is None or piece is not None:
            tile = place.buffers[self.node.tile]
            spot = {found.column: symbol(strip)} | ({found.row: symbol(row)} if found.row is not None else {})
            offset = tile.offset(self.node.axes).substitute(spot)
            sums = f"{tile.name} + {index_text(offset, {**place.names, strip: strip, row: row})}"
        a = f"{staging.name} + {names['piece']} * {staging.tile_elements}"
        arguments = [f"{names['stop']} - {row}", f"{place.end(found.column)} - {strip}"]
        if piece is None:
            arguments += [a, b, start, sums]
        else:
            arguments += [f"{a} + {chunk} * {staging.stride * CHUNK}", b, start, sums]
            arguments += [f"{chunk} == 0", f"{chunk} + {piece} >= {-(-self.depth // CHUNK)}", count]
        if self.finish is not None:
            arguments += ["args", row, strip, *self.finish.arguments]
        self.out.line(f"{name}({', '.join(arguments)});")

    def _function(self, tiling: Tiling, add: str, piece: int | None, steps: str) -> str:
        """A register tile function with a case for each number of rows. ``steps`` of the depth where there is no
        ``piece`` of it."""
        place, out, finish, found = self.place, self.emitter.functions, self.finish, self.found
        name = place.fresh(f"{self.emitter.kernel}_{self.node.tile}")
        shared = [f"const {self.form.element} *a", "const void *b", "const int32_t *start", "int32_t *c"]
        if piece is not None:
            shared += ["int first", "int last", "int64_t depth"]
        if finish is not None:
            shared += ["const tw_args *args", f"int64_t {finish.row}_at", f"int64_t {finish.column}_at"]
            shared += finish.parameters
        passed = ", ".join(p.split()[-1].lstrip("*") for p in shared)
        strides = place.buffers[self.node.tile].strides
        c_row = place.index(strides[found.row]) if found.row is not None else "0"
        keep = f"keep_sums_i32(rows, vectors, sum, c, {c_row});"
        out.comment(f"{self.node.tile}: rows x columns of the result in registers.")
        out.line(f"TW_INLINE void {name}_tile(const int rows, const int vectors, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"):
            if piece is None:
                out.lines("const int first = 1, last = 1;", f"const int64_t depth = {steps};")
            if finish is not None:
                finish.near(out)
            out.line("i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];")
            out.line(f"start_sums_i32(rows, vectors, first, start, c, {c_row}, sum);")
            out.line(f"{add}, depth, a, b, sum);")
            if finish is None:
                out.line(keep)
            else:
                if piece is not None:
                    with out.block("if (!last)"):
                        out.lines(keep, "return;")
                count = place.count(found.column)
                finish.spell(out, ragged=count is None or count % (tiling.vectors * place.lanes) != 0)
        out.line(f"static __attribute__((noinline)) void {name}(int64_t rows, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"), out.block("switch (rows)"):
            for n in range(1, tiling.rows + 1):
                out.line(f"case {n}: {name}_tile({n}, {tiling.vectors}, columns, {passed}); break;")
        out.line()
        return name
