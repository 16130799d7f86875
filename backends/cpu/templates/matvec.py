"""What products of few rows ask of a schedule: the vector as a row, and blocks that suit one row as well as many."""

from __future__ import annotations

from tilewright.backends.cpu.register_tile import as_rows
from tilewright.backends.cpu.templates.axes import most
from tilewright.kernel.analysis import Product, loads_of
from tilewright.kernel.tile import Kernel

#: Blocks of columns that there are at least where one is wider than a panel: two for each of 16 cores.
WIDE_BLOCKS = 32


def rows_and_columns(kernel: Kernel, product: Product) -> Product:
    """``product``; that of a matrix and a vector with the vector as its only row, where the matrix is a constant (which
    can be packed) or lies in memory row by row. What is left has its rows along the reduction."""
    if product.n or not product.m:
        return product
    loads = loads_of(product.a)
    if loads and all(kernel.param(x.tensor).role == "const" and x == product.a for x in loads):
        return Product(product.b, product.a, product.batch, (), product.m, product.k)
    return as_rows(product)


def column_block(kernel: Kernel, column: str, panel: int) -> int:
    """Columns of one block: two panels, which one row reads side by side, where that leaves blocks for all cores."""
    return 2 * panel if most(kernel, column) >= 2 * panel * WIDE_BLOCKS else panel
