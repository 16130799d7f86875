"""Sums of products of 8-bit integers with a constant: which they are, and how the constant is packed.

One layout for every instruction set: panels of 32 columns, in each of them quads of the depth side by side, which is
one lane of an instruction that adds four products. The depth is the reduced axes as one, in the order of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.backends.cpu.machine import codegen, lanes
from tilewright.backends.cpu.register_tile import Contraction, Tiling
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import Binary, Cast, Load, Value
from tilewright.kernel.schedule import Compute, Pack
from tilewright.kernel.tile import Define, Kernel, Param
from tilewright.target import Target

#: Columns of a panel and elements of a quad (``TW_QUADS`` of ``dot8.h``).
PANEL, QUAD = 32, 4
#: Elements of the depth of one row that are staged side by side (``TW_CHUNK``).
CHUNK = 16
#: Rows at the most that read packed panels as they are: widening a strip takes as long as the products of half a row.
FEW_ROWS = 4
_BYTES = (DType.I8, DType.U8)


@dataclass(frozen=True, slots=True)
class IntegerProduct:
    """``sum(depth, i32(a) * i32(b))`` with its axes chosen: ``depth`` are all that are summed over, outermost first.

    ``a`` is any value of 8 bits, ``b`` a load of a constant, of which no element exceeds ``limit`` if that is known.
    """

    a: Value
    b: Load
    row: str | None
    column: str
    outer: tuple[str, ...]
    depth: tuple[str, ...]
    limit: int | None = None

    def fused(self, kernel: Kernel) -> Expr:
        """The position in the depth as one index."""
        total = ZERO
        for axis in self.depth:
            total = total * kernel.extent(axis) + symbol(axis)
        return total

    def length(self, kernel: Kernel) -> int:
        """Elements of the depth."""
        return product(kernel.extent(a) for a in self.depth).value

    def contraction(self, node: Compute) -> Contraction:
        """The same as the emitters of what follows know it."""
        return Contraction(node, self.a, self.b, self.row, self.column, self.outer, self.depth[:-1], self.depth[-1])


def integer_product(kernel: Kernel, define: Define | Compute) -> IntegerProduct | None:
    """What ``define`` is, or ``None``: also where the constant is read with other than plain axes (groups)."""
    value = define.value
    if define.reduce is None or define.reduce.op != "sum" or not isinstance(value, Binary) or value.op != "mul":
        return None
    sides = [x.x for x in (value.a, value.b) if isinstance(x, Cast) and x.dtype is DType.I32 and x.x.dtype in _BYTES]
    depth = define.reduce.axes
    if len(sides) < 2 or any(not kernel.extent(k).is_constant for k in depth):
        return None
    for a, b in (sides, sides[::-1]):
        if not isinstance(b, Load) or b.fill is not None or kernel.param(b.tensor).role != "const":
            continue
        own = used_symbols(b)
        columns = [x for x in define.axes if x in own]
        if len(columns) != 1 or columns[0] in used_symbols(a) or own != {*columns, *depth}:
            continue
        rows = [x for x in define.axes if x in used_symbols(a)]
        row = rows[-1] if rows else None
        outer = tuple(x for x in define.axes if x not in (row, columns[0]))
        return IntegerProduct(a, b, row, columns[0], outer, _in_order(a, depth), kernel.param(b.tensor).limit)
    return None


def _in_order(a: Value, depth: tuple[str, ...]) -> tuple[str, ...]:
    """``depth`` with the axis along which ``a`` lies in memory order innermost: integers may be summed in any order."""
    last = a.index[-1] if isinstance(a, Load) and a.index else None
    if not isinstance(last, Expr):
        return depth
    inner = [k for k in depth if k in last.symbols and k not in (last - symbol(k)).symbols]
    return (*(k for k in depth if k != inner[-1]), inner[-1]) if inner else depth


def quads(kernel: Kernel, found: IntegerProduct) -> Pack | None:
    """The packed layout of the constant, ``[n // 32, k // 4, n % 32, k % 4]``; ``None`` where it is not indexed by one
    axis in each dimension."""
    shape = kernel.param(found.b.tensor).shape
    dims: dict[str, Expr] = {}
    for n, (entry, size) in enumerate(zip(found.b.index, shape, strict=True)):
        names = entry.symbols if isinstance(entry, Expr) else frozenset[str]()
        if len(names) == 1 and entry == symbol(*names) and not names & dims.keys() and size == kernel.extent(*names):
            dims[next(iter(names))] = symbol(f"d{n}")
        elif not (isinstance(entry, Expr) and entry == 0 and size == 1):
            return None
    k, n_at = found.fused(kernel).substitute(dims), dims[found.column]
    columns = ceildiv(kernel.extent(found.column), PANEL)
    if not columns.is_constant:
        return None
    return Pack(
        found.b.tensor,
        (n_at // PANEL, k // QUAD, n_at % PANEL, k % QUAD),
        (columns, constant(-(-found.length(kernel) // QUAD)), constant(PANEL), constant(QUAD)),
    )


def packed_product(kernel: Kernel, params: Mapping[str, Param], node: Compute) -> IntegerProduct | None:
    """What ``node`` of a scheduled tree is, where its constant is packed by :func:`quads`."""
    found = integer_product(kernel, node)
    if found is None or node.accumulate:
        return None
    k, n = found.fused(kernel), symbol(found.column)
    shape = params[found.b.tensor].shape
    wanted = (n // PANEL, k // QUAD, n % PANEL, k % QUAD)
    same = len(shape) == len(wanted) and all(x == y for x, y in zip(found.b.index, wanted, strict=True))
    return found if same and shape[2] == PANEL and shape[3] == QUAD else None


@dataclass(frozen=True, slots=True)
class Form:
    """How operand ``a`` is staged, see ``dot8.h``: ``pairs`` of 16 bits or ``bytes``, and the register tiles: ``tile``
    for a strip that was widened (or bytes), ``few`` for rows that read packed panels as they are. ``narrow`` bytes are
    multiplied with constants so small that no pair of products exceeds 16 bits."""

    name: str
    dtype: DType
    tile: Tiling
    few: Tiling
    narrow: bool = False

    @property
    def element(self) -> str:
        """C type of a staged element."""
        return "int16_t" if self.name == "pairs" else "uint8_t"


def form_of(target: Target, found: IntegerProduct) -> Form:
    """The form for a target: bytes where it has VNNI and ``b`` is signed, or small enough for what else it has."""
    table, width = codegen(target), lanes(target)
    registers, rows = int(table["registers"]), int(table["tile_rows"])
    vectors = int(table["tile_columns"]) // width
    assert isinstance(found.a.dtype, DType)
    if "vnni" in target.features and found.b.dtype is DType.I8:
        tile = Tiling(rows, PANEL // width)
        return Form("bytes", found.a.dtype, tile, tile)
    exact = int(table.get("exact_bytes", 0))
    # Of windows the other form has more: those of stride 1 take fewer products (see windows_of).
    if found.b.dtype is DType.I8 and found.limit is not None and found.limit <= exact and len(found.depth) == 1:
        tile = Tiling(rows, vectors)
        return Form("bytes", found.a.dtype, tile, tile, narrow=True)
    # Besides the sums: operand b, an element of a and a product.
    rows = min(rows, (registers - vectors - 2) // vectors)
    few = max(1, min(FEW_ROWS, (registers - 4) // (PANEL // width)))
    return Form("pairs", found.a.dtype, Tiling(rows, vectors), Tiling(few, PANEL // width))
