"""Blocks of products of 8-bit integers: rows staged once, strips of columns widened once, sums in registers.

A block of rows passes every strip of its columns with the whole depth at a time: the rows lie in L2, the strip in L1 or
L2. What follows is computed on the sums while they are in registers, where it is cheap. Few rows read the packed panels
as they are.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from tilewright.backends.cpu.finish import Finish
from tilewright.backends.cpu.integer import CHUNK, PANEL, QUAD, Form, IntegerProduct
from tilewright.backends.cpu.integer_stage import Staging
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import Tiling
from tilewright.codegen.cstyle import Text, parenthesized
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute

#: Variables of the nest.
_NAMES = ("count", "pieces", "piece", "row", "stop", "strip", "packed", "widened", "start")


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

    def emit(self) -> None:
        place, names, out, row = self.place, self.names, self.out, self.found.row
        first, end = ("0", "1") if row is None else (place.index(place.start(row)), place.end(row))
        out.line(f"const int64_t {names['count']} = {end} - {parenthesized(first)};")
        out.line(f"const int64_t {names['pieces']} = ceil_int({names['count']}, {self.form.tile.rows});")
        staging = Staging(place, self.found, self.form)
        with out.block(self._pieces(first)):
            out.line(self._stop())
            at = "only" if row is None else place.names[row]
            with out.block(f"for (int64_t {at} = {names['row']}; {at} < {names['stop']}; {at}++)"):
                to = f"{staging.name} + {names['piece']} * {staging.tile_elements}"
                staging.emit_row(place, f"{to} + ({at} - {names['row']}) * {CHUNK}")
        if self.form.name == "bytes":
            start = None
            if self.form.dtype is DType.I8:
                start = names["start"]
                place.memory.declare(out, start, "int32_t", constant(PANEL))
            add = f"add_bytes({{}}, {-(-self.depth // QUAD)}, a, b, sum);"
            self._strips(staging, first, self.form.tile, add, start)
            return
        few = f"add_packed_{self.found.b.dtype}({{}}, {-(-self.depth // QUAD)}, a, b, sum);"
        many = f"add_widened({{}}, {self.form.tile.vectors}, {-(-self.depth // CHUNK)}, a, b, sum);"
        rows = constant(1) if row is None else place.scope.kernel.extent(row)
        least, most = bounds(rows, place.scope.facts)
        if most <= self.form.few.rows:
            self._strips(staging, first, self.form.few, few, None)
            return
        if least > self.form.few.rows:  # of many rows, a last block of few may be widened as well
            self._strips(staging, first, self.form.tile, many, None, widen=True)
            return
        with out.block(f"if ({names['count']} <= {self.form.few.rows})"):
            self._strips(staging, first, self.form.few, few, None)
        with out.block("else"):
            self._strips(staging, first, self.form.tile, many, None, widen=True)

    def _pieces(self, first: str) -> str:
        """A loop over pieces of rows, evened out."""
        names = self.names
        head = f"for (int64_t {names['piece']} = 0, {names['row']} = {first}, {names['stop']};"
        return f"{head} {names['piece']} < {names['pieces']}; {names['piece']}++, {names['row']} = {names['stop']})"

    def _stop(self) -> str:
        names = self.names
        more = f"({names['piece']} < {names['count']} % {names['pieces']})"
        return f"{names['stop']} = {names['row']} + {names['count']} / {names['pieces']} + {more};"

    def _strips(
        self, staging: Staging, first: str, tiling: Tiling, add: str, start: str | None, *, widen: bool = False
    ) -> None:
        """Strips of columns, and in each all rows."""
        place, names, out, column = self.place, self.names, self.out, self.found.column
        width, strip = tiling.vectors * place.lanes, names["strip"]
        if widen:
            size = -(-self.depth // CHUNK) * CHUNK // 2 * width
            place.memory.declare(out, names["widened"], "int32_t", constant(size))
        begin, end = place.index(place.start(column)), place.end(column)
        with out.block(f"for (int64_t {strip} = {begin}; {strip} < {end}; {strip} += {width})"):
            inner = replace(place, names={**place.names, strip: strip})
            param = place.params[self.found.b.tensor]
            index = tuple(i for i in self.found.b.index if isinstance(i, Expr))
            moved = {self.found.column: symbol(strip), **dict.fromkeys(self.found.depth, ZERO)}
            at = inner.index(offset_of(param, index).substitute(moved))
            out.line(f"const void *const {names['packed']} = {place.names[param.name]} + {at};")
            quads = -(-self.depth // QUAD)
            if widen:
                call = f"widen_strip_{self.found.b.dtype}({tiling.vectors}, {quads}, {names['packed']}"
                out.line(f"{call}, {names['widened']});")
            if start is not None:
                out.line(f"balance_strip({tiling.vectors}, {quads}, {names['packed']}, {start});")
            with out.block(self._pieces(first)):
                out.line(self._stop())
                self._call(staging, tiling, add, start, names["widened"] if widen else names["packed"])

    def _call(self, staging: Staging, tiling: Tiling, add: str, start: str | None, b: str) -> None:
        place, names, found = self.place, self.names, self.found
        strip, row = names["strip"], names["row"]
        inner = replace(place, names={**place.names, strip: strip, row: row})
        sums = "0"
        if self.finish is None:
            tile = place.buffers[self.node.tile]
            spot = {found.column: symbol(strip)} | ({found.row: symbol(row)} if found.row is not None else {})
            sums = f"{tile.name} + {inner.index(tile.offset(self.node.axes).substitute(spot))}"
        a = f"{staging.name} + {names['piece']} * {staging.tile_elements}"
        columns = f"{place.end(found.column)} - {strip}"
        arguments = [f"{names['stop']} - {row}", columns, a, b, start or "0", sums]
        if self.finish is not None:
            arguments += ["args", row, strip, *self.finish.arguments]
        name = self._function(tiling, add, b == names["widened"], staging.stride)
        self.out.line(f"{name}({', '.join(arguments)});")

    def _function(self, tiling: Tiling, add: str, widened: bool, stride: int) -> str:
        """A register tile function: a case for each number of rows and vectors that may occur."""
        place, out, finish, found = self.place, self.emitter.functions, self.finish, self.found
        name = place.fresh(f"{self.emitter.kernel}_{self.node.tile}")
        b = "const int32_t *b" if widened else "const void *b"
        shared = [f"const {self.form.element} *a", b, "const int32_t *start", "int32_t *c"]
        if finish is not None:
            shared += ["const tw_args *args", f"int64_t {finish.row}_at", f"int64_t {finish.column}_at"]
            shared += finish.parameters
        passed = ", ".join(p.split()[-1].lstrip("*") for p in shared)
        strides = place.buffers[self.node.tile].strides
        c_row = place.index(strides[found.row]) if found.row is not None else "0"
        out.comment(f"{self.node.tile}: rows x columns of the result, the whole depth, in registers.")
        out.line(f"TW_INLINE void {name}_tile(const int rows, const int vectors, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"):
            if finish is not None:
                out.line("const int last = 1;")
                finish.near(out)
            out.line("i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];")
            out.line("start_sums_i32(rows, vectors, start, sum);")
            out.line(add.format(f"rows, vectors, {stride}"))
            if finish is None:
                out.line(f"keep_sums_i32(rows, vectors, sum, c, {c_row});")
            else:
                count = place.count(found.column)
                finish.spell(out, ragged=count is None or count % (tiling.vectors * place.lanes) != 0)
        out.line(f"static __attribute__((noinline)) void {name}(int64_t rows, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"), out.block("switch (rows)"):
            for n in range(1, tiling.rows + 1):
                out.line(f"case {n}: {name}_tile({n}, {tiling.vectors}, columns, {passed}); break;")
        out.line()
        return name
