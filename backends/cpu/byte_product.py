"""Products with constant weights of 4 and 8 bits: widened in registers, a block of the reduction at a time.

Few rows read each weight once from memory; of many rows four share what was widened. What is done with the sum of a
block (scales, zero points) is spelled from the kernel's own text.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.contraction import ContractionEmitter, operand_of
from tilewright.backends.cpu.lanes import Vectorized
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import Operand
from tilewright.backends.cpu.values import Values
from tilewright.backends.cpu.weights import GROUP, INTEGERS, PANEL, byte_panels, steps
from tilewright.ir.ranges import divisor
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of, refs_of, used_symbols, walk
from tilewright.kernel.expr import Binary, Cast, Load, Ref, Value
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute, Scheduled
from tilewright.kernel.tile import Define, Kernel

#: Rows of integers that share what was widened, and their sums of a block, which fit into 16 registers beside it. Of
#: floats it is the register tile of the target.
ROWS = 4
SUMS = 8
#: Bytes ahead at which weights are fetched while few rows use them: 3.2 ms instead of 5.2 for 62 MB on one Zen 3 core,
#: whose own prefetcher is late for a stream that is used up so fast.
AHEAD = 2048


@dataclass(frozen=True, slots=True)
class ByteProduct:
    """``part``: the sum over ``inner`` of products of ``x`` and the weights ``w``; ``total``: the sum of what is made
    of it over ``block``, or ``part`` itself."""

    part: Define
    total: Define
    x: Value
    w: Load
    column: str
    inner: str
    block: str | None


def byte_products(kernel: Kernel) -> list[ByteProduct]:
    """The products of ``kernel`` whose weights are constants of 4 or 8 bits."""
    defines = [s for s in kernel.body if isinstance(s, Define)]
    return [p for d in defines if (p := _product(kernel, d, defines)) is not None]


def _product(kernel: Kernel, part: Define, defines: list[Define]) -> ByteProduct | None:
    if part.reduce is None or part.reduce.op != "sum" or len(part.reduce.axes) != 1:
        return None
    if not isinstance(part.value, Binary) or part.value.op != "mul":
        return None
    wide, (inner,) = part.value.dtype, part.reduce.axes
    for x, y in ((part.value.a, part.value.b), (part.value.b, part.value.a)):
        w = y.x if isinstance(y, Cast) else y
        if not isinstance(w, Load) or w.dtype not in INTEGERS or w.fill is not None or len(w.index) != 2:
            continue
        k, n = w.index
        if kernel.param(w.tensor).role != "const" or not isinstance(k, Expr) or not isinstance(n, Expr):
            continue
        column = str(n)
        if column not in part.axes or column in used_symbols(x) or column in k.symbols:
            continue
        rows = x.x if wide is DType.I32 and isinstance(x, Cast) else x
        if wide is DType.I32 and not (isinstance(rows, Load) and _in_rows(kernel, rows, part, inner)):
            continue
        total, block = _total(part, defines, inner, k)
        size, depth = kernel.extent(inner), kernel.param(w.tensor).shape[0]
        fixed = size.is_constant and depth.is_constant and size.value % steps(w.dtype) == 0
        if block is None and wide is DType.I32 and w.dtype.bits == 8:
            continue  # the tile of 8-bit products is faster
        kinds = (DType.F32,) if block is not None else (DType.F32, DType.I32)
        if total is not None and fixed and wide in (DType.I32, DType.F32) and total.value.dtype in kinds:
            return ByteProduct(part, total, rows, w, column, inner, block)
    return None


def _in_rows(kernel: Kernel, x: Load, part: Define, inner: str) -> bool:
    """Whether ``x`` lies in memory in rows, in the order of the reduction and of the blocks around it."""
    index = tuple(i for i in x.index if isinstance(i, Expr))
    if len(index) < len(x.index) or x.fill is not None or x.dtype is not DType.I8:
        return False
    facts, size = dict(kernel.facts), kernel.extent(inner)
    offset, k = offset_of(kernel.param(x.tensor), index), x.index[-1]
    strides = {a: Vectorized(a, facts, 1).stride(offset) for a in (*part.axes, inner)}
    return strides[inner] == 1 and None not in strides.values() and isinstance(k, Expr) and _depth(k, inner, size)


def _depth(k: Expr, inner: str, size: Expr) -> bool:
    """Whether ``k`` is the position ``inner`` of some block of ``size``."""
    rest = k - symbol(inner)
    return inner not in rest.symbols and (rest == 0 or any(rest == symbol(a) * size for a in rest.symbols))


def _total(part: Define, defines: list[Define], inner: str, k: Expr) -> tuple[Define | None, str | None]:
    """The sum over blocks, and their axis; the part itself where there is one block only."""
    if k == symbol(inner):
        return part, None
    users = [d for d in defines if any(r.tile == part.tile for r in refs_of(d.value))]
    if len(users) != 1 or users[0].reduce is None or users[0].reduce.op != "sum" or len(users[0].reduce.axes) != 1:
        return None, None
    (total,), (block,) = users, users[0].reduce.axes
    same = set(part.axes) == {*total.axes, block} and k.symbols == {block, inner}
    return (total, block) if same else (None, None)


@dataclass(frozen=True, slots=True)
class BytePlan:
    """A product that can be spelled: where ``x`` lies, and the axes of the result but the columns."""

    product: ByteProduct
    row: str | None
    outer: tuple[str, ...]


def plan_bytes(scheduled: Scheduled) -> list[BytePlan]:
    """The products of a scheduled kernel whose weights lie in panels of bytes."""
    kernel = scheduled.kernel
    packs = {p.tensor: p for p in scheduled.schedule.packs}
    plans = []
    for product in byte_products(kernel):
        pack = packs.get(product.w.tensor)
        if pack != byte_panels(kernel.param(product.w.tensor)):
            continue
        if any(isinstance(v, Load) and v.tensor in packs for v in walk(product.x)):
            continue
        others = tuple(a for a in product.total.axes if a != product.column)
        in_x = [a for a in others if a in used_symbols(product.x)]
        row = in_x[-1] if in_x else None
        plans.append(BytePlan(product, row, tuple(a for a in others if a != row)))
    return plans


class ByteEmitter:
    """Spells one product at the statement of its total."""

    def __init__(self, place: Place, plan: BytePlan, node: Compute, contractions: ContractionEmitter):
        self.place, self.plan, self.node = place, plan, node
        self.product, self.contractions = plan.product, contractions
        w = place.scope.kernel.param(self.product.w.tensor)
        self.group = steps(w.dtype)
        self.depth = w.shape[0].value
        self.size = place.scope.kernel.extent(self.product.inner).value
        self.whole = self.product.part.value.dtype is DType.I32
        tiling = contractions.tiling
        self.rows, self.sums = (ROWS, SUMS) if self.whole else (tiling.rows, tiling.rows * tiling.vectors)

    def emit(self) -> None:
        """Append the nest."""
        place, p = self.place, self.product
        place.out.comment(print_node(self.node))
        n, end = place.names[p.column], place.end(p.column)
        with ExitStack() as stack:
            stack.enter_context(place.out.block(""))
            for axis in self.plan.outer:
                place.open_loop(stack, axis)
            x = self._x()
            sums = self._sums(x)
            at = place.fresh("panel")
            first = place.index(place.start(p.column))
            stack.enter_context(place.out.block(f"for (int64_t {at} = {first}; {at} < {end}; {at} += {PANEL})"))
            if self.plan.row is None:
                self._rows(1, x, sums, at, n)
                return
            m, last = place.names[self.plan.row], place.end(self.plan.row)
            first = place.index(place.start(self.plan.row))
            head = f"for (int64_t {m} = {first}; {m} < {last}; {m} += {self.rows})"
            most = min(self.rows, place.scope.ranges[self.plan.row].lanes or self.rows)
            with place.out.block(head), place.out.block(f"switch (min_int({last} - {m}, {self.rows}))"):
                for rows in range(1, most + 1):
                    with place.out.block(f"case {rows}:"):
                        self._rows(rows, x, sums, at, n)
                        place.out.line("break;")

    # -- what is read --------------------------------------------------------------------------------------------

    def _x(self) -> Operand:
        """Where the rows lie: in memory, or as a copy of all rows of this block."""
        p, place = self.product, self.place
        if self.whole:
            assert isinstance(p.x, Load)
            offset = offset_of(place.params[p.x.tensor], tuple(i for i in p.x.index if isinstance(i, Expr)))
            along = place.vectorized(self.plan.row, 1).stride(offset)
            assert along is not None
            return Operand(place.names[p.x.tensor], offset, along, constant(1))
        x = operand_of(place, p.x, self.plan.row, p.inner, 1)
        if x is not None and x.deep == 1 and isinstance(p.x, (Load, Ref)):
            return x
        return self.contractions.stage_rows(place, p.x, p.total.tile, self.plan.row, p.block, p.inner)

    def _sums(self, x: Operand) -> str:
        """Sums of the rows' blocks, for weights whose zero is in the middle of what is multiplied."""
        p, place = self.product, self.place
        if not self.whole or p.w.dtype is not DType.I4:
            return ""
        name, count = place.fresh(f"{p.total.tile}_sums"), self.depth // self.size
        rows = constant(1) if self.plan.row is None else place.scope.ranges[self.plan.row].size
        place.memory.declare(place.out, name, "int32_t", rows * count)
        with ExitStack() as stack:
            stack.enter_context(place.out.block(""))
            at = constant(0)
            if self.plan.row is not None:
                place.open_loop(stack, self.plan.row)
                at = symbol(self.plan.row) - place.start(self.plan.row)
            place.out.line(
                f"sum_blocks({self._at(x)}, {count}, {self.size // self.group}, {name} + {place.index(at * count)});"
            )
        return name

    def _at(self, x: Operand) -> str:
        """C text of where the first element of the current row's first block lies."""
        first: dict[str, Expr | int] = {self.product.inner: 0}
        if self.product.block is not None:
            first[self.product.block] = 0
        return f"{x.base} + {self.place.index(x.offset.substitute(first))}"

    # -- what is computed ----------------------------------------------------------------------------------------

    def _rows(self, rows: int, x: Operand, sums: str, at: str, n: str) -> None:
        """The sums of ``rows`` rows in one panel."""
        place, lanes = self.place, self.place.lanes
        vectors = PANEL // lanes  # a power of two, so that pieces end where the panel does
        while vectors > max(1, self.sums // rows):
            vectors //= 2
        width = vectors * lanes
        end = f"min_int({at} + {PANEL}, {place.end(self.product.column)})"
        head = f"for (int64_t {n} = {at}; {n} < {end}; {n} += {width})"
        with ExitStack() as stack:
            stack.enter_context(place.out.block(head if width < PANEL else ""))
            if width == PANEL:
                place.out.line(f"const int64_t {n} = {at};")
            self._piece(rows, vectors, x, sums, n)

    def _piece(self, rows: int, vectors: int, x: Operand, sums: str, n: str) -> None:
        """The sums of ``rows`` rows in ``vectors`` vectors of columns from ``n`` on."""
        p, place, out = self.product, self.place, self.place.out
        w, left, part = place.fresh("w"), place.fresh("x"), place.fresh("part")
        spots = [(i, j) for i in range(rows) for j in range(vectors)]
        column = f"{n} / {PANEL} * {self.depth // self.group * GROUP} + {n} % {PANEL} * {GROUP // PANEL}"
        weights = f"(const uint8_t *){place.names[p.w.tensor]} + {column}"
        out.line(f"const uint8_t *const {w} = {weights};")
        out.line(f"const {'int8_t' if self.whole else 'float'} *const {left} = {self._at(x)};")
        declared = f"{'i32v' if self.whole else 'f32v'} {part}[TW_BLOCK_ROWS][TW_BLOCK_VECTORS];"
        stride = place.index(x.along)
        if p.block is None:
            out.lines(declared, self._call(rows, vectors, (left, stride, w), sums, part, "0"))
            for i, j in spots:
                self._values(i, j, {}).store_tile(place.buffers[p.total.tile], self.node.axes, f"{part}[{i}][{j}]")
            return
        totals = {(i, j): place.fresh(f"{p.total.tile}_{i}_{j}") for i, j in spots}
        out.lines(*(f"f32v {name} = set_f32(0.0f);" for name in totals.values()))
        block = place.names[p.block]
        with out.block(f"for (int64_t {block} = 0; {block} < {self.depth // self.size}; {block}++)"):
            out.lines(declared, self._call(rows, vectors, (left, stride, w), sums, part, block))
            loaded: dict[object, str] = {}
            for i, j in spots:
                values = self._values(i, j, loaded)
                values.local[p.part.tile] = f"{part}[{i}][{j}]"
                out.line(f"{totals[i, j]} += {values.spell(self.node.value)};")
        for i, j in spots:
            self._values(i, j, {}).store_tile(place.buffers[p.total.tile], self.node.axes, totals[i, j])

    def _call(self, rows: int, vectors: int, given: tuple[str, str, str], sums: str, part: str, block: str) -> str:
        """C text of the sums of one block. ``given``: the first row, from row to row, and the weights."""
        x, stride, w = given
        bits, signed = self.product.w.dtype.bits, int(self.product.w.dtype.is_signed)
        groups = self.size // self.group
        head = f"{rows}, {vectors}, {signed}, {AHEAD if rows < ROWS else 0}, {groups}"
        at = f"{x} + {block} * {self.size}, {stride}, {w} + {block} * {groups * GROUP}"
        if not self.whole:
            return f"dot_float({bits}, {head}, {at}, {part});"
        if bits == 8:
            return f"dot_8({head}, {at}, {part});"
        if not sums:
            return f"dot_4({head}, {at}, 0, 0, {part});"
        row, count = self.plan.row, self.depth // self.size
        first = "0" if row is None else f"({self.place.names[row]} - ({self.place.index(self.place.start(row))}))"
        return f"dot_4({head}, {at}, {sums} + {first} * {count} + {block}, {count}, {part});"

    def _values(self, i: int, j: int, loaded: dict[object, str]) -> Values:
        """A speller of values at row ``i`` and vector ``j``."""
        place, column = self.place, self.product.column
        live = None
        if divisor(place.scope.kernel.extent(column), place.scope.facts) % PANEL:
            live = f"max_int({place.end(column)} - {place.names[column]} - {j * place.lanes}, 0)"
        values = place.values(column, live)
        at = {column: symbol(column) + j * place.lanes}
        if self.plan.row is not None:
            at[self.plan.row] = symbol(self.plan.row) + i
        values.at, values.loaded = at, loaded
        return values
