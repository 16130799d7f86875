"""The template of sums of products: matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.runs import POINTERS, run_axis
from tilewright.backends.cpu.templates.axes import least_blocks, most, stored_axes, unit_stride
from tilewright.backends.cpu.templates.matvec import column_block
from tilewright.ir.symbolic import Expr, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import Product, loads_of
from tilewright.kernel.expr import Load
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule, Stage
from tilewright.kernel.tile import Define, Kernel
from tilewright.target import Target

#: Row tiles of one block of a contraction: their operand (9 × 14 rows of 1536 f32: 756 KB) stays in a 1 MiB L2, and the
#: 49 rows of an image of 7 × 7 are one block where a tile has 6 rows.
ROW_TILES = 9


#: Elements of runs (times panels of columns) for which the table of a row is reckoned once: filling an entry takes
#: about 5 cycles, its use 2 cycles an element and panel, so that the table takes 1 % of the time.
RUN_ELEMENTS = 256
#: Blocks for each core of a target at the least, so that cores finish together.
BLOCKS_PER_UNIT = 4


def contraction(kernel: Kernel, define: Define, product: Product, target: Target) -> Iterator[Schedule]:
    table = codegen(target)
    rows, panel = int(table["tile_rows"]), int(table["panel"])
    free = stored_axes(kernel)
    column, row = product.n[-1], product.m[-1] if product.m else None
    single = tuple(Loop(a, 1, "block") for a in free if a not in (column, row))
    packs = tuple(_packs(kernel, product, column, panel))
    width = column_block(kernel, column, panel)
    stretches = not packs and not unit_stride(kernel, product.b, column)
    blocks = list(single)
    if row in free:
        assert row is not None
        blocks.append(Loop(row, ROW_TILES * rows, "block", balanced=True, unit=rows))
        if packs and column in free:
            yield from _by_table(kernel, product, Schedule(tuple(blocks), packs=packs), target)
    columns = [Loop(column, width, "block")] if column in free else []
    if packs and columns and _in_rows(kernel, product, rows):
        yield Schedule(loops=(*blocks, *columns), packs=packs)
    tiles = [Loop(row, rows, "tile", balanced=True)] if row in free and row is not None and not stretches else []
    best = Schedule(loops=(*blocks, *columns, *tiles), packs=packs)
    yield best
    if columns:
        yield replace(best, loops=(*blocks, *tiles))
    yield replace(best, loops=single, packs=packs)
    yield replace(best, loops=single, packs=())


def _in_rows(kernel: Kernel, product: Product, rows: int) -> bool:
    """Whether a block of many rows can be read as it lies in memory, each row in the order of the reduction."""
    plain = isinstance(product.a, Load) and isinstance(product.b, Load) and len(product.k) == 1
    return (
        plain
        and bool(product.m)
        and most(kernel, product.m[-1]) > rows
        and product.b.dtype is DType.F32
        and unit_stride(kernel, product.a, product.k[0])
    )


def _by_table(kernel: Kernel, product: Product, rows: Schedule, target: Target) -> Iterator[Schedule]:
    """Schedules for an operand whose rows are irregular in memory: a table tells where their pieces are. ``rows`` has
    the loops over blocks of rows."""
    run = run_axis(kernel, product.a, product.k)
    if run is None:
        return
    assert isinstance(product.a, Load)
    column, panel = product.n[-1], int(codegen(target)["panel"])
    panels = -(-most(kernel, column) // panel)
    together = min(panels, -(-RUN_ELEMENTS // most(kernel, run)))
    wanted = BLOCKS_PER_UNIT * target.units
    while together > 1 and least_blocks(kernel, rows.loops) * -(-panels // together) < wanted:
        together -= 1
    blocks = rows.loops
    if together < panels:
        blocks = (*blocks, Loop(column, together * panel, "block"))
    inner = (Loop(column, panel),) if together > 1 else ()
    stage = Stage(product.a.tensor, len(blocks), POINTERS, window=True)
    yield replace(rows, loops=(*blocks, *inner), stages=(stage,))


def _packs(kernel: Kernel, product: Product, column: str, panel: int) -> Iterator[Pack]:
    """Panels of a constant operand along its column dimension, in each of them the reduced axes in the order in which
    sums run over them."""
    run = run_axis(kernel, product.a, product.k)
    inner = [k for k in product.k if k != run] + [run] if run is not None else []
    for load in loads_of(product.b):
        param = kernel.param(load.tensor)
        dims = [n for n, i in enumerate(load.index) if isinstance(i, Expr) and i == symbol(column)]
        if param.role == "const" and load.fill is None and len(dims) == 1 and len(param.shape) > 1:
            order = sorted(
                (n for n in range(len(param.shape)) if n != dims[0]),
                key=lambda n: inner.index(str(load.index[n])) if str(load.index[n]) in inner else -1,
            )
            yield blocked(load.tensor, param.shape, dims[0], panel, order)
