"""The register tile of a contraction: which axes play which part, and the C function that holds the sums."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.values import NARROW
from tilewright.codegen.cstyle import Text
from tilewright.ir.symbolic import Expr, Operation, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import Product, as_product, used_symbols
from tilewright.kernel.expr import Cast, Load, Value
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


def strip_casts(v: Value) -> Value:
    """Without the casts that half precisions need: their vectors are f32 in registers."""
    while isinstance(v, Cast) and v.dtype is DType.F32 and v.x.dtype in NARROW:
        v = v.x
    return v


def as_rows(product: Product) -> Product:
    """``product``; one of a matrix and a vector with the vector as its only row, where the matrix lies in memory in
    the order of its columns (or in panels of them) or of the reduction."""
    if product.n or not product.m or not any(_in_order(product.a, x) for x in (product.m[-1], product.k[-1])):
        return product
    return Product(product.b, product.a, product.batch, (), product.m, product.k)


def _in_order(v: Value, column: str) -> bool:
    """Whether ``v`` is read from memory in the order of ``column``, plain or in panels."""
    v = strip_casts(v)
    if not isinstance(v, Load) or v.fill is not None or any(not isinstance(i, Expr) for i in v.index):
        return False
    *others, last = (i for i in v.index if isinstance(i, Expr))
    at = symbol(column)
    along = [i for i in others if column in i.symbols]
    if column not in (last - at).symbols:
        return not along
    size = next((a.args[1] for a in last.atoms if isinstance(a, Operation)), None)
    return size is not None and last == at % size and along == [at // size]


def plan_contraction(node: Compute, run: str | None = None) -> Contraction | None:
    """The contraction that ``node`` is, or ``None`` when the register tile has no use for it. ``run``: the axis along
    which a table gives rows, if one does."""
    product = as_product(node)
    if product is None or node.value.dtype is not DType.F32:
        return None
    product = as_rows(product)
    if not product.n:
        return None
    column, row = product.n[-1], product.m[-1] if product.m else None
    outer = tuple(x for x in node.axes if x not in (column, row))
    # The depth that both operands carry; others (one operand is constant along them) are rare.
    both = [k for k in product.k if k in used_symbols(product.a) and k in used_symbols(product.b)]
    depth = run or both[-1]
    steps = tuple(k for k in product.k if k != depth)
    return Contraction(node, product.a, product.b, row, column, outer, steps, depth)


@dataclass(frozen=True, slots=True)
class Operand:
    """Where an operand lies: ``base`` is C text, ``offset`` elements from it (over axes); strides along two axes."""

    base: str
    offset: Expr
    along: Expr
    deep: Expr


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a register tile: operands, C texts of the numbers of rows and columns, and whether whole vectors of
    ``b`` may be read beyond the last column."""

    a: Operand
    b: Operand
    rows: str
    columns: str
    padded: bool


#: Parameters of a register tile function that are literals in its body when they are constant.
LABELS = ("depth", "a_row", "a_deep", "b_deep", "c_row")


class RegisterTiles:
    """The register tile functions of one kernel."""

    def __init__(self, kernel: str, tiling: Tiling):
        self.kernel, self.tiling = kernel, tiling
        self.functions = Text()

    def call(self, place: Place, c: Contraction, call: Call) -> None:
        """Append a call to the place, and its function to :attr:`functions`."""
        shape, pointers = self.arguments(place, c, call.a, (call.b,))
        arguments = [call.rows, call.columns, *pointers, *(s for s in shape if not s.isdigit())]
        place.out.line(f"{self._function(place, c, call, shape)}({', '.join(arguments)});")

    def arguments(
        self, place: Place, c: Contraction, a: Operand, b: tuple[Operand, ...]
    ) -> tuple[list[str], list[str]]:
        """C texts of the sizes of :data:`LABELS`, and of where ``a``, each of ``b`` and the result start."""
        tile = place.buffers[c.node.tile]
        first = {axis: place.start(axis) for axis in (c.depth, c.column, c.row) if axis is not None}
        row_stride = tile.strides[c.row] if c.row is not None else constant(0)
        strides = [place.index(s) for s in (a.along, a.deep, b[0].deep, row_stride)]
        pointers = [f"{x.base} + {place.index(x.offset.substitute(first))}" for x in (a, *b)]
        pointers.append(f"{tile.name} + {place.index(tile.offset(c.node.axes).substitute(first))}")
        return [self._depth(place, c.depth), *strides], pointers

    def _depth(self, place: Place, axis: str) -> str:
        count, start = place.count(axis), place.index(place.start(axis))
        if count is not None:
            return str(count)
        return place.end(axis) if start == "0" else f"{place.end(axis)} - {start}"

    def _function(self, place: Place, c: Contraction, call: Call, shape: list[str]) -> str:
        """One case for each number of rows and vectors that may occur."""
        name = place.fresh(f"{self.kernel}_{c.node.tile}")
        lanes, out = place.lanes, self.functions
        parameters = ["int64_t rows", "int64_t columns", "const float *a", "const float *b", "float *c"]
        parameters += [f"int64_t {label}" for label, text in zip(LABELS, shape, strict=True) if not text.isdigit()]
        depth, a_row, a_deep, b_deep, c_row = (
            text if text.isdigit() else label for label, text in zip(LABELS, shape, strict=True)
        )
        fresh = int(not c.node.accumulate and not c.steps)
        counts = [int(call.rows)] if call.rows.isdigit() else range(1, self._most_rows(place, c.row) + 1)
        widths = [-(-int(call.columns) // lanes)] if call.columns.isdigit() else range(1, self.tiling.vectors + 1)
        out.comment(f"{c.node.tile}: rows x columns of the result, the whole depth, in registers.")
        with out.block(f"static __attribute__((noinline)) void {name}({', '.join(parameters)})"):
            for v in widths:
                live = "TW_LANES" if call.padded else f"columns - {(v - 1) * lanes}"
                with ExitStack() as stack:
                    if len(widths) > 1 and v < widths[-1]:
                        stack.enter_context(out.block(f"{'else ' if v > 1 else ''}if (columns <= {v * lanes})"))
                    elif len(widths) > 1:
                        stack.enter_context(out.block("else"))
                    stack.enter_context(out.block("switch (rows)"))
                    for n in counts:
                        tail = f"{depth}, a, {a_row}, {a_deep}, b, {b_deep}, c, {c_row}"
                        out.line(f"case {n}: mma_f32({n}, {v}, {live}, {fresh}, {tail}); break;")
        out.line()
        return name

    def _most_rows(self, place: Place, row: str | None) -> int:
        if row is None:
            return 1
        return min(place.scope.ranges[row].lanes or self.tiling.rows, self.tiling.rows)
