"""Products of few rows: decoding, small batches, a classifier. Memory is the limit, so operand ``b`` is read once.

The register tile of many rows walks a packed panel in strips of its own width, which reads every second cache line of
it, twice. Here a piece is as wide as a panel, and one row takes two pieces at once: two streams from memory. Sums run
in the order of the reduction as they do there: a row's result is the same bytes however many rows come with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import LABELS, Contraction, Operand, RegisterTiles, Tiling

#: Rows of one pass over ``b`` (``TW_FEW_ROWS`` of ``matvec.h``).
PASS_ROWS = 4
#: Passes over ``b`` up to which they beat the tile of many rows, where that is narrower than a panel: with 16 rows of
#: [768, 3072] they take 0.6 of its time, with [768, 768], which stays in the cache, the same.
MOST_PASSES = 6
#: Columns of one piece: a packed panel of every target.
PIECE = 32


def pass_rows(tiling: Tiling, lanes: int) -> int:
    """The most rows of a piece whose sums fit into the registers; 0 where not even one row's do."""
    return min(PASS_ROWS, tiling.rows * tiling.vectors // (PIECE // lanes))


def most_rows(tiling: Tiling, lanes: int) -> int:
    """Rows of a whole product up to which it goes this way: those of several passes, of which the later ones read what
    the first left in the cache, where the tile of many rows is narrower than a piece."""
    return pass_rows(tiling, lanes) * (MOST_PASSES if tiling.vectors * lanes < PIECE else 1)


@dataclass(frozen=True, slots=True)
class FewRows:
    """One call: ``second`` is operand ``b`` at the second piece of columns, of which there are two at most.

    ``rows`` and ``columns`` are C texts. Whole vectors of ``b`` may be read beyond the last column when ``padded``,
    whole pieces where ``columns`` is no number. There are ``most`` rows at most.
    """

    a: Operand
    b: Operand
    second: Operand
    rows: str
    columns: str
    padded: bool
    most: int

    def emit(self, place: Place, c: Contraction, tiles: RegisterTiles) -> None:
        """Append the call to the place, and its function to the register tiles."""
        shape, pointers = tiles.arguments(place, c, self.a, (self.b, self.second))
        name, out = place.fresh(f"{tiles.kernel}_{c.node.tile}_few"), tiles.functions
        free = [label for label, text in zip(LABELS, shape, strict=True) if not text.isdigit()]
        parameters = ["int64_t rows", "int64_t columns", "const float *a", "const float *b", "const float *second"]
        parameters += ["float *c", *(f"int64_t {label}" for label in free)]
        texts = tuple(text if text.isdigit() else label for label, text in zip(LABELS, shape, strict=True))
        out.comment(f"{c.node.tile}: few rows x pieces of columns, the whole depth, in registers.")
        with (
            out.block(f"static __attribute__((noinline)) void {name}({', '.join(parameters)})"),
            out.block("switch (rows)"),
        ):
            for rows in [int(self.rows)] if self.rows.isdigit() else range(1, min(self.most, tiles.tiling.rows) + 1):
                out.line(f"case {rows}:")
                for condition, widths in self._columns():
                    with out.block(condition):
                        out.lines(*self._calls(place.lanes, tiles.tiling, rows, widths, texts, c.node.accumulate))
                out.line("break;")
        out.line()
        sizes = [text for text in shape if not text.isdigit()]
        place.out.line(f"{name}({', '.join([self.rows, self.columns, *pointers, *sizes])});")

    def _columns(self) -> list[tuple[str, tuple[int, ...]]]:
        """C conditions and the widths of the pieces where they hold."""
        if not self.columns.isdigit():
            return [(f"if (columns > {PIECE})", (PIECE, PIECE)), ("else", (PIECE,))]
        n = int(self.columns)
        return [("", (n,) if n <= PIECE else (PIECE, n - PIECE))]

    def _calls(
        self, lanes: int, tiling: Tiling, rows: int, widths: tuple[int, ...], texts: tuple[str, ...], accumulate: bool
    ) -> list[str]:
        """Both pieces at once where they are whole and their sums fit into the registers, else one after the other."""
        depth, a_row, a_deep, b_deep, c_row = texts

        def call(b: str, c: str, width: int, pieces: int, first: int, count: int) -> str:
            live = "TW_LANES" if self.padded or width % lanes == 0 else str(width % lanes)
            # The first pass waits for memory; the second one fetches what the next panel's would wait for.
            ahead = int(first > 0 and not self.columns.isdigit())
            head = f"{count}, {-(-width // lanes)}, {pieces}, {live}, {int(not accumulate)}, {ahead}, {depth}"
            a, c = (f"{x} + {first} * {row}" if first else x for x, row in (("a", a_row), (c, c_row)))
            return f"few_f32({head}, {a}, {a_row}, {a_deep}, {b}, second, {b_deep}, {c}, {c_row});"

        if widths == (PIECE, PIECE) and 2 * (PIECE // lanes) * rows <= tiling.rows * tiling.vectors:
            return [call("b", "c", PIECE, 2, 0, rows)]
        size = -(-rows // -(-rows // pass_rows(tiling, lanes)))
        spots = zip((("b", "c"), ("second", f"c + {PIECE}")), widths, strict=False)
        passes = [(first, min(size, rows - first)) for first in range(0, rows, size)]
        return [call(b, c, width, 1, *rows_of) for (b, c), width in spots for rows_of in passes]
