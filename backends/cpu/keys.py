"""An operand that a product needs transposed: the keys of an attention.

It is copied once, in panels as wide as the register tile, so that every strip of columns is contiguous. For few rows
there is no copy at all: both operands lie along the depth, and each result is a dot product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.lanes import Vectorized
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import Contraction, Operand, RegisterTiles
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.expr import Load, Ref, Value
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute
from tilewright.kernel.tile import Param

#: Rows up to which results are dot products (``TW_DOT_ROWS`` of ``dot.h``).
MOST_ROWS = 3


@dataclass(frozen=True, slots=True)
class Keys:
    """A tile that is a transposed copy: ``source`` is contiguous along ``depth``, the tile along ``column``.

    ``direct`` is the C variable that says that there are so few values of ``row`` that there is no copy; ``None`` where
    there always is one.
    """

    node: Compute
    source: Load
    column: str
    depth: str
    row: str | None
    direct: str | None

    def emit(self, place: Place) -> None:
        """Append the copy, panel by panel."""
        out, tile = place.out, place.buffers[self.node.tile]
        assert tile.panel is not None
        out.comment(print_node(self.node))
        with ExitStack() as stack:
            if self.direct is not None:
                assert self.row is not None
                out.line(f"const int {self.direct} = {place.length(self.row)} <= {MOST_ROWS};")
            stack.enter_context(out.block("" if self.direct is None else f"if (!{self.direct})"))
            for axis in self.node.axes:
                if axis not in (self.column, self.depth):
                    place.open_loop(stack, axis)
            name, start, end = place.names[self.column], place.index(place.start(self.column)), place.end(self.column)
            width = tile.panel
            stack.enter_context(out.block(f"for (int64_t {name} = {start}; {name} < {end}; {name} += {width})"))
            first = {self.depth: place.start(self.depth)}
            offset = _offset(self.source, place.params)
            row = place.index(place.vectorized(self.column, 1).stride(offset) or ZERO)
            source = f"{place.names[self.source.tensor]} + {place.index(offset.substitute(first))}"
            # The column is a multiple of the panel here: the first element of its panel.
            to = f"{tile.name} + {place.index(tile.offset(self.node.axes).substitute(first))}"
            rows = f"min_int({width}, {end} - {name})"
            out.line(f"transpose_f32({rows}, {place.length(self.depth)}, {source}, {row}, {to}, {width});")


def find_keys(
    copies: Iterable[Compute],
    plans: Mapping[int, Contraction],
    uses: Mapping[str, Collection[int]],
    params: Mapping[str, Param],
    facts: Mapping[str, Range],
) -> dict[str, Keys]:
    """The tiles among ``copies`` that one contraction reads, as its operand ``b``, and nothing else."""
    found: dict[str, Keys] = {}
    for node in copies:
        readers = [plans.get(i) for i in uses.get(node.tile, ())]
        c = readers[0] if len(readers) == 1 else None
        if c is None or not isinstance(node.value, Load) or not isinstance(c.b, Ref) or c.b.tile != node.tile:
            continue
        if c.steps or not {c.column, c.depth} <= set(node.axes) or not contiguous(node.value, c.depth, params, facts):
            continue
        direct = c.row is not None and contiguous(c.a, c.depth, params, facts)
        found[node.tile] = Keys(
            node, node.value, c.column, c.depth, c.row if direct else None, f"{node.tile}_direct" if direct else None
        )
    return found


def contiguous(v: Value, axis: str, params: Mapping[str, Param], facts: Mapping[str, Range]) -> bool:
    """Whether ``v`` is f32 in memory, in order along ``axis``."""
    if not isinstance(v, Load) or v.dtype is not DType.F32 or v.fill is not None:
        return False
    if any(not isinstance(i, Expr) for i in v.index):
        return False
    return Vectorized(axis, facts, 1).stride(_offset(v, params)) == 1


def _offset(v: Load, params: Mapping[str, Param]) -> Expr:
    return offset_of(params[v.tensor], tuple(i for i in v.index if isinstance(i, Expr)))


@dataclass(frozen=True, slots=True)
class DotCall:
    """Few rows by dot products: both operands are contiguous along the depth; ``rows`` and ``columns`` are C texts."""

    a: Operand
    b: Operand
    rows: str
    columns: str

    def emit(self, place: Place, c: Contraction, tiles: RegisterTiles) -> None:
        """Append the call to the place, and its function to the register tiles."""
        shape, pointers = tiles.arguments(place, c, self.a, (self.b,))
        depth, a_row, _, _, c_row = shape
        sizes = {"depth": depth, "a_row": a_row, "b_row": place.index(self.b.along), "c_row": c_row}
        free = [label for label, text in sizes.items() if not text.isdigit()]
        texts = {label: text if text.isdigit() else label for label, text in sizes.items()}
        name, out = place.fresh(f"{tiles.kernel}_{c.node.tile}_dot"), tiles.functions
        parameters = ["int64_t rows", "int64_t columns", "const float *a", "const float *b", "float *c"]
        parameters += [f"int64_t {label}" for label in free]
        out.comment(f"{c.node.tile}: few rows, dot products along the depth.")
        with (
            out.block(f"static __attribute__((noinline)) void {name}({', '.join(parameters)})"),
            out.block("switch (rows)"),
        ):
            for rows in [int(self.rows)] if self.rows.isdigit() else range(1, MOST_ROWS + 1):
                left = f"{rows}, columns, {texts['depth']}, a, {texts['a_row']}, b, {texts['b_row']}"
                out.line(f"case {rows}: dot_f32({left}, c, {texts['c_row']}); break;")
        out.line()
        arguments = [self.rows, self.columns, *pointers, *(sizes[label] for label in free)]
        place.out.line(f"{name}({', '.join(arguments)});")
