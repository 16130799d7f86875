"""The template of products with constant weights of 4 and 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cpu.byte_product import byte_products
from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.templates.axes import stored_axes
from tilewright.backends.cpu.templates.matvec import column_block
from tilewright.backends.cpu.weights import PANEL, byte_panels
from tilewright.ir.symbolic import Expr, symbol
from tilewright.kernel.analysis import loads_of
from tilewright.kernel.expr import Load
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Rows of one block: their integers (48 rows of 2048 bytes) stay in a 1 MiB L2 beside a panel of weights.
BLOCK_ROWS = 48


def byte_product(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Blocks of rows and panels; scales lie in panels as the weights do."""
    products = byte_products(kernel)
    if not products or int(codegen(target)["panel"]) != PANEL:
        return
    free = stored_axes(kernel)
    column = products[0].column
    rows = [a for a in products[0].total.axes if a != column]
    packs: dict[str, Pack] = {}
    for p in products:
        packs[p.w.tensor] = byte_panels(kernel.param(p.w.tensor))
        for load in loads_of(p.total.value):
            if load.tensor not in packs and _is_scale(kernel, load, p.column):
                packs[load.tensor] = blocked(load.tensor, kernel.param(load.tensor).shape, 1, PANEL)
    loops = [Loop(a, 1, "block") for a in free if a != column and a not in rows[-1:]]
    loops += [Loop(a, BLOCK_ROWS, "block", balanced=True) for a in rows[-1:] if a in free]
    if column in free:
        loops.append(Loop(column, column_block(kernel, column, PANEL), "block"))
    yield Schedule(loops=tuple(loops), packs=tuple(packs.values()))
    yield Schedule(loops=tuple(x for x in loops if x.axis != column), packs=tuple(packs.values()))


def _is_scale(kernel: Kernel, load: Load, column: str) -> bool:
    """Whether a constant matrix is read in the order of its columns and everywhere alike."""
    param = kernel.param(load.tensor)
    plain = all(isinstance(i, Expr) for i in load.index) and load.fill is None and len(load.index) == 2
    return param.role == "const" and plain and load.index[1] == symbol(column) and param.dtype.bits >= 8
