"""The template of sums of products: matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.templates.axes import stored_axes, unit_stride
from tilewright.backends.cpu.templates.matvec import column_block
from tilewright.ir.symbolic import Expr, symbol
from tilewright.kernel.analysis import Product, loads_of
from tilewright.kernel.expr import Value
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel
from tilewright.target import Target

#: Row tiles of one block of a contraction: their operand (8 × 14 rows of 1536 f32: 688 KB) stays in a 1 MiB L2.
ROW_TILES = 8


def contraction(kernel: Kernel, define: Define, product: Product, target: Target) -> Iterator[Schedule]:
    table = codegen(target)
    rows, panel = int(table["tile_rows"]), int(table["panel"])
    free = stored_axes(kernel)
    column, row = product.n[-1], product.m[-1] if product.m else None
    single = tuple(Loop(a, 1, "block") for a in free if a not in (column, row))
    packs = tuple(_packs(kernel, product.b, column, panel))
    width = column_block(kernel, column, panel)
    stretches = not packs and not unit_stride(kernel, product.b, column)
    blocks = list(single)
    if row in free:
        assert row is not None
        blocks.append(Loop(row, ROW_TILES * rows, "block", balanced=True))
    columns = [Loop(column, width, "block")] if column in free else []
    tiles = [Loop(row, rows, "tile", balanced=True)] if row in free and row is not None and not stretches else []
    best = Schedule(loops=(*blocks, *columns, *tiles), packs=packs)
    yield best
    if columns:
        yield replace(best, loops=(*blocks, *tiles))
    yield replace(best, loops=single, packs=packs)
    yield replace(best, loops=single, packs=())


def _packs(kernel: Kernel, b: Value, column: str, panel: int) -> Iterator[Pack]:
    """Panels of a constant operand along its column dimension."""
    for load in loads_of(b):
        param = kernel.param(load.tensor)
        dims = [n for n, i in enumerate(load.index) if isinstance(i, Expr) and i == symbol(column)]
        if param.role == "const" and load.fill is None and len(dims) == 1 and len(param.shape) > 1:
            yield blocked(load.tensor, param.shape, dims[0], panel)
