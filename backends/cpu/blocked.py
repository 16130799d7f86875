"""Products of many rows with a packed constant: pieces of the depth that stay in L1, and what follows in registers.

A block of rows goes through one panel of columns in pieces of the depth. A strip of the panel, as wide as the register
tile, stays in L1 while all rows of the block pass it, and meanwhile the next strip is brought near from memory. Sums
wait between pieces in the tile of the result, so that each is summed in the order of the reduction. After the last
piece the statements that follow are computed on the sums while they are in registers, where these are cheap.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from tilewright.backends.cpu.contraction import operand_of, padded_columns
from tilewright.backends.cpu.finish import Finish
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import Contraction, Operand, Tiling, strip_casts
from tilewright.backends.cpu.runs import Runs
from tilewright.codegen.cstyle import Text, parenthesized
from tilewright.ir.symbolic import ZERO, Expr, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load
from tilewright.kernel.print import print_node


@dataclass(frozen=True, slots=True)
class Rows:
    """Operand ``a``: C text of where row and depth begin, of further arguments with their parameters, and of the call
    that adds to the sums."""

    pointer: str
    arguments: tuple[str, ...]
    parameters: tuple[str, ...]
    add: str


@dataclass(frozen=True, slots=True)
class Block:
    """A product that this file spells: operand ``b``, and ``a`` with a fixed stride or by a table."""

    c: Contraction
    b: Operand
    a: Operand | Runs
    taps: int
    b_tap: Expr
    panel: int


def plan_block(place: Place, c: Contraction, runs: Runs | None, tiling: Tiling) -> Block | None:
    """``c`` as a block, or ``None`` where it has few rows or its operands lie otherwise."""
    v, width = strip_casts(c.b), tiling.vectors * place.lanes
    if c.row is None or c.node.accumulate or not isinstance(v, Load) or v.dtype is not DType.F32:
        return None
    lanes = place.scope.ranges[c.row].lanes
    if lanes is None or lanes <= tiling.rows or place.start(c.depth) != ZERO:
        return None  # few rows, or a piece of the depth only
    b = operand_of(place, v, c.column, c.depth, width)
    panel = place.params[v.tensor].shape[-1]
    if b is None or b.along != 1 or not padded_columns(place, v, c.column, width) or b.deep != panel:
        return None
    if runs is None:
        a = operand_of(place, strip_casts(c.a), c.row, c.depth, 1)
        if a is None or a.deep != 1 or c.steps:
            return None
        return Block(c, b, a, 1, ZERO, panel.value)
    return Block(c, b, runs, *_taps(place, c, b, runs), panel.value)


def _taps(place: Place, c: Contraction, b: Operand, runs: Runs) -> tuple[int, Expr]:
    """How many pieces a row has, and from one to the next the step of ``b``: table and panel list them in one order."""
    count, table, memory = 1, None, None
    for axis in reversed(c.steps):
        step = place.vectorized(axis, 1).stride(b.offset)
        assert step is not None and place.count(axis) is not None
        table, memory = table or runs.strides[axis], memory or step
        assert runs.strides[axis] == table * count and step == memory * count, "taps lie otherwise in the table"
        count *= place.count(axis) or 1
    return count, memory if memory is not None else ZERO


#: Variables of the nest, in the order of its loops.
_NAMES = (
    "count",
    "pieces",
    "panel",
    "tap",
    "depth",
    "taps",
    "deep",
    "first",
    "last",
    "column",
    "strip",
    "near",
    "piece",
    "row",
    "stop",
)


class BlockEmitter:
    """Spells the blocks of one kernel. ``piece``: elements of the depth at a time."""

    def __init__(self, kernel: str, tiling: Tiling, piece: int, functions: Text):
        self.kernel, self.tiling, self.piece, self.functions = kernel, tiling, piece, functions

    def pieces(self, place: Place, block: Block) -> tuple[int, int] | None:
        """Taps and elements of the depth of one piece; ``None`` where one piece is all."""
        depth = place.count(block.c.depth)
        if depth is None or block.taps * depth <= self.piece:
            return None
        if depth <= self.piece:
            return -(-block.taps // -(-block.taps * depth // self.piece)), depth
        even = -(-depth // -(-depth // self.piece))
        return 1, -(-even // 8) * 8

    def emit(self, place: Place, block: Block, finish: Finish | None) -> None:
        """Append the nest; the sums are stored in the tile of the result unless ``finish`` takes them."""
        c, out = block.c, place.out
        assert c.row is not None
        out.comment(print_node(c.node))
        width = self.tiling.vectors * place.lanes
        names = {k: place.fresh(k) for k in _NAMES}
        start, end = place.index(place.start(c.column)), place.end(c.column)
        depth = self._depth(place, c.depth)
        split = self.pieces(place, block)
        with ExitStack() as stack:
            stack.enter_context(out.block(""))
            for axis in c.outer:
                place.open_loop(stack, axis)
            first_row, n = place.index(place.start(c.row)), names["count"]
            out.line(f"const int64_t {n} = {place.end(c.row)} - {parenthesized(first_row)};")
            out.line(f"const int64_t {names['pieces']} = ceil_int({n}, {self.tiling.rows});")
            panel = names["panel"]
            stack.enter_context(
                out.block(f"for (int64_t {panel} = {start}; {panel} < {end}; {panel} += {block.panel})")
            )
            first = last = "1"
            tap, at, taps, deep = "0", "0", str(block.taps), depth
            if split is not None:
                if split[0] < block.taps:
                    tap, taps = names["tap"], f"min_int({split[0]}, {block.taps} - {names['tap']})"
                    stack.enter_context(
                        out.block(f"for (int64_t {tap} = 0; {tap} < {block.taps}; {tap} += {split[0]})")
                    )
                if split[1] < int(depth):
                    at, deep = names["depth"], f"min_int({split[1]}, {depth} - {names['depth']})"
                    stack.enter_context(out.block(f"for (int64_t {at} = 0; {at} < {depth}; {at} += {split[1]})"))
                first = " && ".join(f"{x} == 0" for x in (tap, at) if x != "0")
                ends = ((tap, split[0], block.taps), (at, split[1], depth))
                last = " && ".join(f"{x} + {n} >= {size}" for x, n, size in ends if x != "0")
            if split is not None:
                out.line(f"const int64_t {names['taps']} = {taps}, {names['deep']} = {deep};")
                out.line(f"const int {names['first']} = {first}, {names['last']} = {last};")
                taps, deep, first, last = (names[k] for k in ("taps", "deep", "first", "last"))
            column, stop = names["column"], f"min_int({panel} + {block.panel}, {end})"
            stack.enter_context(out.block(f"for (int64_t {column} = {panel}; {column} < {stop}; {column} += {width})"))
            self._strip(place, block, names, (tap, taps, at, deep))
            head = f"for (int64_t {names['piece']} = 0, {names['row']} = {first_row}, {names['stop']};"
            head += f" {names['piece']} < {names['pieces']}; {names['piece']}++, {names['row']} = {names['stop']})"
            stack.enter_context(out.block(head))
            more = f"({names['piece']} < {n} % {names['pieces']})"
            out.line(f"{names['stop']} = {names['row']} + {n} / {names['pieces']} + {more};")
            self._call(place, block, finish, names, (first, last), (tap, taps, at, deep))

    def _depth(self, place: Place, axis: str) -> str:
        count = place.count(axis)
        return str(count) if count is not None else place.end(axis)

    def _strip(self, place: Place, block: Block, names: dict[str, str], piece: tuple[str, str, str, str]) -> None:
        """Where the strip of this piece begins, and the one after it: beside it in the panel, or beyond the piece."""
        c, width = block.c, self.tiling.vectors * place.lanes
        tap, taps, at, deep = piece
        column = names["column"]
        inner = replace(place, names={**place.names, column: column})
        place_of = {c.column: symbol(column), c.depth: ZERO, **dict.fromkeys(c.steps, ZERO)}
        b_deep = place.index(block.b.deep)
        moved = [inner.index(block.b.offset.substitute(place_of))]
        moved += [f"{tap} * {place.index(block.b_tap)}"] if tap != "0" else []
        moved += [f"{at} * {b_deep}"] if at != "0" else []
        place.out.line(f"const float *const {names['strip']} = {block.b.base} + {' + '.join(moved)};")
        part = f"{column} - {names['panel']}"
        beyond = f"{taps} * {deep} * {b_deep} - ({part})"
        nearer = f"({part} + {width} < {block.panel} ? {width} : {beyond})" if width < block.panel else beyond
        place.out.line(f"const float *const {names['near']} = {names['strip']} + {nearer};")

    def _call(
        self,
        place: Place,
        block: Block,
        finish: Finish | None,
        names: dict[str, str],
        ends: tuple[str, str],
        piece: tuple[str, str, str, str],
    ) -> None:
        c = block.c
        assert c.row is not None
        tap, taps, at, deep = piece
        inner = replace(place, names={**place.names, **{names[k]: names[k] for k in ("column", "row")}})
        place_of = {c.column: symbol(names["column"]), c.row: symbol(names["row"]), c.depth: ZERO}
        place_of |= dict.fromkeys(c.steps, ZERO)
        b_deep = place.index(block.b.deep)
        share = f"{names['piece']} * ({taps} * {deep} / 8) * {b_deep}"
        tile = place.buffers[c.node.tile]
        kept = finish is None or self.pieces(place, block) is not None
        sums = f"{tile.name} + {inner.index(tile.offset(c.node.axes).substitute(place_of))}" if kept else "0"
        if isinstance(block.a, Runs):
            entry = inner.index(block.a.entry().substitute(place_of))
            a_tap = block.a.strides[c.steps[-1]] if c.steps else ZERO
            moved_a = f" + {tap} * {place.index(a_tap)}" if tap != "0" else ""
            rows = Rows(
                f"{block.a.name} + {entry}{moved_a}",
                (taps, deep, at),
                ("int64_t taps", "int64_t depth", "int64_t shift"),
                f"add_runs_f32(rows, vectors, taps, depth, a, {place.index(a_tap)}, shift, b, "
                f"{place.index(block.b_tap)}, {b_deep}, ahead, sum);",
            )
            kind = "const float *const *a"
        else:
            offset = inner.index(block.a.offset.substitute(place_of))
            moved_a = f" + {at}" if at != "0" else ""
            rows = Rows(
                f"{block.a.base} + {offset}{moved_a}",
                (deep, place.index(block.a.along)),
                ("int64_t depth", "int64_t a_row"),
                f"add_rows_f32(rows, vectors, depth, a, a_row, b, {b_deep}, ahead, sum);",
            )
            kind = "const float *a"
        left = place.fresh("left")
        place.out.line(f"{kind[:-1]}const {left} = {rows.pointer};")
        function = self._function(place, block, finish, kind, rows)
        arguments = [
            f"{names['stop']} - {names['row']}",
            f"{place.end(c.column)} - {names['column']}",
            *ends,
            left,
            names["strip"],
            sums,
            f"{names['near']} + {share}",
            *rows.arguments,
        ]
        if finish is not None:
            arguments += ["args", names["row"], names["column"], *finish.arguments]
        place.out.line(f"{function}({', '.join(arguments)});")

    def _function(self, place: Place, block: Block, finish: Finish | None, kind: str, rows: Rows) -> str:
        c, out, lanes = block.c, self.functions, place.lanes
        assert c.row is not None
        name = place.fresh(f"{self.kernel}_{c.node.tile}")
        shared = ["int first", "int last", kind, "const float *b", "float *c", "const float *ahead", *rows.parameters]
        if finish is not None:
            shared += ["const tw_args *args", f"int64_t {finish.row}_at", f"int64_t {finish.column}_at"]
            shared += finish.parameters
        c_row = place.index(place.buffers[c.node.tile].strides[c.row])
        passed = ", ".join(p.split()[-1].lstrip("*") for p in shared)
        out.comment(f"{c.node.tile}: rows x columns of the result, a piece of the depth, in registers.")
        out.line(f"TW_INLINE void {name}_tile(const int rows, const int vectors, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"):
            out.line("f32v sum[TW_MOST_ROWS][TW_MOST_VECTORS];")
            if finish is not None:
                finish.near(out)
            out.line(f"start_sums_f32(rows, vectors, first, c, {c_row}, sum);")
            out.line(rows.add)
            if finish is None:
                out.line(f"keep_sums_f32(rows, vectors, sum, c, {c_row});")
            else:
                with out.block("if (!last)"):
                    out.lines(f"keep_sums_f32(rows, vectors, sum, c, {c_row});", "return;")
                finish.spell(out)
        widths = range(1, self.tiling.vectors + 1)
        count = place.count(c.column)
        if count is not None and count % (self.tiling.vectors * lanes) == 0:
            widths = range(self.tiling.vectors, self.tiling.vectors + 1)
        out.line(f"static __attribute__((noinline)) void {name}(int64_t rows, int64_t columns,")
        with out.block(f"    {', '.join(shared)})"):
            for v in widths:
                with ExitStack() as stack:
                    if v < widths[-1]:
                        stack.enter_context(out.block(f"{'else ' if v > 1 else ''}if (columns <= {v * lanes})"))
                    elif len(widths) > 1:
                        stack.enter_context(out.block("else"))
                    stack.enter_context(out.block("switch (rows)"))
                    for n in range(1, self.tiling.rows + 1):
                        out.line(f"case {n}: {name}_tile({n}, {v}, columns, {passed}); break;")
        out.line()
        return name
