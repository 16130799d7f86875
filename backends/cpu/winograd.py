"""Convolutions of 8-bit integers with windows of 3 x 3 at distance 1 by Winograd's F(2 x 2, 3 x 3), exactly.

Four outputs take 16 products instead of 36. A block is whole image rows, in windows of 2 x 2 outputs: their inputs are
transformed once, the weights once for a strip of columns and a block; for each of the 16 spots of a window there is one
product over the channels. Only the form of pairs has room for what the transforms add to a byte.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.finish import Finish
from tilewright.backends.cpu.integer import CHUNK, QUAD, Form, IntegerProduct
from tilewright.backends.cpu.place import Place
from tilewright.codegen.cstyle import C_TYPES, Text, index_text, parenthesized
from tilewright.ir.symbolic import ZERO, Expr, Operation, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.expr import Load
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute
from tilewright.kernel.tile import Kernel

#: Entry of ``Schedule.extra``: blocks are made for this.
OPTION = "winograd"
#: Spots of a window of 4 x 4 inputs (``TW_SPOTS``).
SPOTS = 16
#: Channels up to which four times the largest sum of 9 taps (255 · 128 each) fits into 32 bits.
MOST_CHANNELS = 1800


@dataclass(frozen=True, slots=True)
class Windows:
    """A convolution over images of ``height`` × ``width`` outputs that one axis runs over, image after image, in rows.

    ``pad``: rows and columns before the image; ``fill`` lies there. ``channels`` are summed over beside the nine taps.
    """

    load: Load
    height: int
    width: int
    pad: tuple[int, int]
    channels: int
    fill: int

    @property
    def outputs(self) -> int:
        """Of one image."""
        return self.height * self.width


def windows_of(kernel: Kernel, found: IntegerProduct) -> Windows | None:
    """The convolution that ``found`` is, or ``None`` where it is another one or none."""
    v, row = found.a, found.row
    if not isinstance(v, Load) or row is None or found.outer or len(found.depth) != 3 or found.b.dtype is not DType.I8:
        return None
    kh, kw, c = found.depth
    channels = kernel.extent(c).value
    if (kernel.extent(kh), kernel.extent(kw)) != (constant(3), constant(3)) or channels % CHUNK:
        return None
    index = tuple(i for i in v.index if isinstance(i, Expr))
    if channels > MOST_CHANNELS or len(index) != 4 or len(v.index) != 4 or index[3] != symbol(c):
        return None
    sizes = [_size(e - symbol(k)) for e, k in zip(index[1:3], (kh, kw), strict=True)]
    if None in sizes:
        return None
    height, width = (s or 0 for s in sizes)
    m = symbol(row)
    pads = [m // width % height + symbol(kh) - index[1], m % width + symbol(kw) - index[2]]
    if index[0] != m // (width * height) or not all(p.is_constant for p in pads):
        return None
    return Windows(v, height, width, (pads[0].value, pads[1].value), channels, int(v.fill or 0))


def _size(e: Expr) -> int | None:
    """``n`` of ``… % n`` plus a constant."""
    atoms = [a for a in e.atoms if isinstance(a, Operation)]
    if len(atoms) != 1 or atoms[0].op != "%" or not atoms[0].args[1].is_constant:
        return None
    return atoms[0].args[1].value


def image_rows(w: Windows, least: int, most: int) -> int | None:
    """How many image rows of outputs make a block of ``least`` to ``most`` windows, the most; a divisor of the height,
    even but for whole images."""
    for rows in range(w.height, 0, -1):
        count = -(-rows // 2) * -(-w.width // 2)
        if w.height % rows == 0 and (rows % 2 == 0 or rows == w.height) and least <= count <= most:
            return rows
    return None


class WinogradEmitter:
    """Spells one convolution whose block is ``rows`` whole image rows."""

    def __init__(self, kernel: str, functions: Text, place: Place, node: Compute, found: IntegerProduct, form: Form):
        windows = windows_of(place.scope.kernel, found)
        assert windows is not None and found.row is not None
        count = place.count(found.row)
        assert count is not None and count % windows.width == 0
        self.kernel, self.functions, self.place, self.node, self.found = kernel, functions, place, node, found
        self.form, self.windows, self.row = form, windows, found.row
        self.rows = count // windows.width
        self.across = -(-windows.width // 2)
        self.count = -(-self.rows // 2) * self.across
        self.strip = form.tile.vectors * place.lanes
        #: Elements from one spot to the next of rows, weights and sums.
        self.groups = -(-self.count // form.tile.rows)
        self.group = windows.channels * form.tile.rows
        self.weights = windows.channels // 2 * self.strip
        self.sums = self.groups * form.tile.rows * self.strip

    def emit(self, finish: Finish | None) -> None:
        """Append the nest; the sums are stored in the tile of the result unless ``finish`` takes them."""
        place, out, c = self.place, self.place.out, self.windows.channels
        names = {k: place.fresh(k) for k in ("rows", "weights", "sums", "border", "strip", "window")}
        product, result = self._product(), self._result(finish)
        out.comment(print_node(self.node))
        with ExitStack() as stack:
            stack.enter_context(out.block(""))
            memory = place.memory
            memory.declare(out, names["rows"], "int16_t", constant(SPOTS * self.groups * self.group), 2)
            memory.declare(out, names["weights"], "int32_t", constant(SPOTS * self.weights))
            memory.declare(out, names["sums"], "int32_t", constant(SPOTS * self.sums))
            self._transform_rows(names)
            column, strip, window = self.found.column, names["strip"], names["window"]
            begin, end = place.index(place.start(column)), place.end(column)
            bounds = f"{strip} = {begin}; {strip} < {end}; {strip} += {self.strip}"
            stack.enter_context(out.block(f"for (int64_t {bounds})"))
            b = place.params[self.found.b.tensor]
            index = tuple(i for i in self.found.b.index if isinstance(i, Expr))
            moved = {column: symbol(strip), **dict.fromkeys(self.found.depth, ZERO)}
            at = index_text(offset_of(b, index).substitute(moved), {**place.names, strip: strip})
            packed = f"(const int8_t *){place.names[b.name]} + {at}"
            sizes = f"{self.form.tile.vectors}, {c // QUAD}"
            out.line(f"winograd_weights({sizes}, {packed}, {names['weights']}, {self.weights});")
            with (
                out.block(f"for (int spot = 0; spot < {SPOTS}; spot++)"),
                out.block(f"for (int64_t {window} = 0; {window} < {self.count}; {window} += {self.form.tile.rows})"),
            ):
                a = f"{names['rows']} + (spot * {self.groups} + {window} / {self.form.tile.rows}) * {self.group}"
                to = f"{names['sums']} + spot * {self.sums} + {window} * {self.strip}"
                rows = f"min_int({self.form.tile.rows}, {self.count} - {window})"
                out.line(f"{product}({rows}, {a}, {names['weights']} + spot * {self.weights}, {to});")
            self._outputs(names, result, finish)

    def _transform_rows(self, names: dict[str, str]) -> None:
        """The inputs of every window of the block."""
        place, out, w, window = self.place, self.place.out, self.windows, names["window"]
        first = place.index(place.start(self.row))
        kind = C_TYPES[self.form.dtype]
        x = place.names[w.load.tensor]
        height, width = (place.index(s) for s in place.params[w.load.tensor].shape[1:3])
        out.line(f"TW_ALIGN {kind} {names['border']}[{w.channels}];")
        out.line(f"memset({names['border']}, {w.fill & 255}, {w.channels});")
        out.line(f"const {kind} *const image = {x} + ({first}) / {w.outputs} * {height} * {width} * {w.channels};")
        with out.block(f"for (int64_t {window} = 0; {window} < {self.count}; {window}++)"):
            out.line(
                f"const int64_t top = ({first}) % {w.outputs} / {w.width} + {window} / {self.across} * 2 - {w.pad[0]};"
            )
            out.line(f"const int64_t left = {window} % {self.across} * 2 - {w.pad[1]};")
            out.line(f"const uint8_t *pixel[{SPOTS}];")
            with out.block(f"TW_FOR(p, {SPOTS})"):
                out.line("const int64_t y = top + p / 4, at = left + p % 4;")
                out.line(f"const int near = (uint64_t)y < (uint64_t)({height}) && (uint64_t)at < (uint64_t)({width});")
                inside = f"image + (y * {parenthesized(width)} + at) * {w.channels}"
                out.line(f"pixel[p] = (const uint8_t *)(near ? {inside} : {names['border']});")
            rows = self.form.tile.rows
            to = f"{names['rows']} + {window} / {rows} * {self.group} + {window} % {rows} * {CHUNK}"
            call = f"winograd_rows_{self.form.dtype}({w.channels}, pixel, {to}"
            out.line(f"{call}, {self.groups * self.group}, {rows * CHUNK});")

    def _outputs(self, names: dict[str, str], result: str, finish: Finish | None) -> None:
        """Outputs of every window: two of each of its rows."""
        place, out, w, window = self.place, self.place.out, self.windows, names["window"]
        strip, first = names["strip"], place.index(place.start(self.row))
        with (
            out.block(f"for (int64_t {window} = 0; {window} < {self.count}; {window}++)"),
            out.block(
                f"for (int bottom = 0; bottom < 2 && {window} / {self.across} * 2 + bottom < {self.rows}; bottom++)"
            ),
        ):
            left = f"{window} % {self.across} * 2"
            out.line(f"const int64_t at = ({window} / {self.across} * 2 + bottom) * {w.width} + {left};")
            m, sums = f"{first} + at", "0"
            if finish is None:
                tile = place.buffers[self.node.tile]
                spot = {self.found.column: symbol(strip), self.row: symbol("row_of_tile")}
                offset = tile.offset(self.node.axes).substitute(spot)
                sums = f"{tile.name} + {index_text(offset, {**place.names, strip: strip, 'row_of_tile': f'({m})'})}"
            arguments = [f"min_int(2, {w.width} - {left})", f"{place.end(self.found.column)} - {strip}", "bottom"]
            arguments += [f"{names['sums']} + {window} * {self.strip}", sums]
            if finish is not None:
                arguments += ["args", m, strip, *finish.arguments]
            out.line(f"{result}({', '.join(arguments)});")

    # -- functions ---------------------------------------------------------------------------------------------------

    def _product(self) -> str:
        """The register tile of one spot."""
        out, tiling = self.functions, self.form.tile
        name = self.place.fresh(f"{self.kernel}_{self.node.tile}_spot")
        out.comment(f"{self.node.tile}: windows x columns of one spot, all channels, in registers.")
        with out.block(f"TW_INLINE void {name}_tile(const int rows, const int16_t *a, const int32_t *b, int32_t *c)"):
            out.line("i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];")
            out.line(f"start_sums_i32(rows, {tiling.vectors}, 1, 0, c, 0, sum);")
            steps = self.windows.channels // CHUNK
            out.line(f"add_widened(rows, {tiling.vectors}, {tiling.rows}, {tiling.vectors}, {steps}, a, b, sum);")
            out.line(f"keep_sums_i32(rows, {tiling.vectors}, sum, c, {self.strip});")
        out.line(f"static __attribute__((noinline)) void {name}(int64_t rows,")
        with out.block("    const int16_t *a, const int32_t *b, int32_t *c)"), out.block("switch (rows)"):
            for n in range(1, tiling.rows + 1):
                out.line(f"case {n}: {name}_tile({n}, a, b, c); break;")
        out.line()
        return name

    def _result(self, finish: Finish | None) -> str:
        """Outputs of a row of a window, and what follows."""
        place, out, vectors = self.place, self.functions, self.form.tile.vectors
        name = place.fresh(f"{self.kernel}_{self.node.tile}_window")
        shared = ["int bottom", "const int32_t *spots", "int32_t *c"]
        if finish is not None:
            shared += ["const tw_args *args", f"int64_t {finish.row}_at", f"int64_t {finish.column}_at"]
            shared += finish.parameters
        passed = ", ".join(p.split()[-1].lstrip("*") for p in shared)
        out.comment(f"{self.node.tile}: one or two outputs from the sums of a window's spots.")
        out.line(f"TW_INLINE void {name}_tile(const int rows, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"):
            out.line(f"enum {{ vectors = {vectors} }};")
            out.line("i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];")
            out.line(f"winograd_sums(vectors, bottom, spots, {self.sums}, sum);")
            if finish is None:
                c_row = place.index(place.buffers[self.node.tile].strides[self.row])
                out.line(f"keep_sums_i32(rows, vectors, sum, c, {c_row});")
            else:
                count = place.count(self.found.column)
                finish.spell(out, ragged=count is None or count % (vectors * place.lanes) != 0)
        head = f"static __attribute__((noinline)) void {name}(int64_t rows, int64_t columns,"
        out.line(head)
        with out.block(f"    {', '.join(shared)})"):
            out.line(f"if (rows == 1) {name}_tile(1, columns, {passed});")
            out.line(f"else {name}_tile(2, columns, {passed});")
        out.line()
        return name
