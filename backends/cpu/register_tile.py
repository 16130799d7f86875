"""The register tile of a contraction: which axes play which part, and the C function that holds the sums."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.values import HALF
from tilewright.codegen.cstyle import Text
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType
from tilewright.kernel.analysis import as_product, used_symbols
from tilewright.kernel.expr import Cast, Value
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
    ``steps`` the ones around it, each of which adds to the tile. ``taps`` are those of them that one call sums over
    in registers.
    """

    node: Compute
    a: Value
    b: Value
    row: str | None
    column: str
    outer: tuple[str, ...]
    steps: tuple[str, ...]
    depth: str
    taps: tuple[str, ...] = ()


def strip_casts(v: Value) -> Value:
    """Without the casts that half precisions need: their vectors are f32 in registers."""
    while isinstance(v, Cast) and v.dtype is DType.F32 and v.x.dtype in HALF:
        v = v.x
    return v


def plan_contraction(node: Compute, run: str | None = None) -> Contraction | None:
    """The contraction that ``node`` is, or ``None`` when the register tile has no use for it. ``run``: the axis along
    which a table gives rows, if one does."""
    product = as_product(node)
    if product is None or node.value.dtype is not DType.F32 or not product.n:
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
class Pieces:
    """Rows whose pieces a table tells: the address of a piece is at ``base + offset`` plus the number of the row, and
    ``tap`` further for each tap, of which there are ``taps`` (C text). The depth starts ``shift`` elements into a
    piece. From tap to tap the other operand moves by ``b_tap``."""

    base: str
    offset: Expr
    taps: str
    tap: Expr
    shift: Expr
    b_tap: Expr


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a register tile: operands, C texts of the numbers of rows and columns, and whether whole vectors of
    ``b`` may be read beyond the last column."""

    a: Operand | Pieces
    b: Operand
    rows: str
    columns: str
    padded: bool


#: Parameters of a register tile function that are literals in its body when they are constant.
_LABELS = ("depth", "a_row", "a_deep", "b_deep", "c_row")
_RUN_LABELS = ("taps", "depth", "a_tap", "shift", "b_tap", "b_deep", "c_row")


class RegisterTiles:
    """The register tile functions of one kernel."""

    def __init__(self, kernel: str, tiling: Tiling):
        self.kernel, self.tiling = kernel, tiling
        self.functions = Text()

    def call(self, place: Place, c: Contraction, call: Call) -> None:
        """Append a call to the place, and its function to :attr:`functions`."""
        tile = place.buffers[c.node.tile]
        first = {axis: place.start(axis) for axis in (c.depth, c.column, c.row, *c.taps) if axis is not None}
        row_stride = tile.strides[c.row] if c.row is not None else constant(0)
        depth = self._depth(place, c.depth)
        if isinstance(call.a, Pieces):
            strides = [place.index(s) for s in (call.a.tap, call.a.shift.substitute(first), call.a.b_tap)]
            shape = [call.a.taps, depth, *strides, place.index(call.b.deep), place.index(row_stride)]
        else:
            strides = [place.index(s) for s in (call.a.along, call.a.deep, call.b.deep, row_stride)]
            shape = [depth, *strides]
        arguments = [
            call.rows,
            call.columns,
            f"{call.a.base} + {place.index(call.a.offset.substitute(first))}",
            f"{call.b.base} + {place.index(call.b.offset.substitute(first))}",
            f"{tile.name} + {place.index(tile.offset(c.node.axes).substitute(first))}",
            *(s for s in shape if not s.isdigit()),
        ]
        place.out.line(f"{self._function(place, c, call, shape)}({', '.join(arguments)});")

    def _depth(self, place: Place, axis: str) -> str:
        count, start = place.count(axis), place.index(place.start(axis))
        if count is not None:
            return str(count)
        return place.end(axis) if start == "0" else f"{place.end(axis)} - {start}"

    def _function(self, place: Place, c: Contraction, call: Call, shape: list[str]) -> str:
        """One case for each number of rows and vectors that may occur."""
        name = place.fresh(f"{self.kernel}_{c.node.tile}")
        lanes, out = place.lanes, self.functions
        runs = isinstance(call.a, Pieces)
        labels = _RUN_LABELS if runs else _LABELS
        pointer = "const float *const *a" if runs else "const float *a"
        parameters = ["int64_t rows", "int64_t columns", pointer, "const float *b", "float *c"]
        parameters += [f"int64_t {label}" for label, text in zip(labels, shape, strict=True) if not text.isdigit()]
        at = {label: text if text.isdigit() else label for label, text in zip(labels, shape, strict=True)}
        tail = (
            "{taps}, {depth}, a, {a_tap}, {shift}, b, {b_tap}, {b_deep}, c, {c_row}"
            if runs
            else "{depth}, a, {a_row}, {a_deep}, b, {b_deep}, c, {c_row}"
        ).format(**at)
        mma = "mma_runs_f32" if runs else "mma_f32"
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
                        out.line(f"case {n}: {mma}({n}, {v}, {live}, {fresh}, {tail}); break;")
        out.line()
        return name

    def _most_rows(self, place: Place, row: str | None) -> int:
        if row is None:
            return 1
        return min(place.scope.ranges[row].lanes or self.tiling.rows, self.tiling.rows)
