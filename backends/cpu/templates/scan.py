"""The template of scans: attention."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.templates.axes import stored_axes, unit_stride
from tilewright.kernel.analysis import as_product, loads_of
from tilewright.kernel.schedule import Loop, Schedule, Stage
from tilewright.kernel.tile import Kernel, Scan
from tilewright.target import Target

#: Elements of the scanned axis at a time: 14 rows of 256 f32 scores are 14 KB, which leaves L1 room for the operands.
SCAN_PIECE = 256


def attention(kernel: Kernel, scan: Scan, target: Target) -> Iterator[Schedule]:
    rows = int(codegen(target)["tile_rows"])
    products = [p for d in scan.body if (p := as_product(d)) is not None]
    free = stored_axes(kernel)
    row = next((a for p in products for a in reversed(p.m) if a in free), None)
    columns = {a for p in products for a in p.n}
    batch = tuple(a for a in free if a != row and a not in columns)
    blocks = tuple(Loop(a, 1, "block") for a in batch)
    reduce = (Loop(scan.axis, SCAN_PIECE),)
    stages = tuple(
        Stage(x.tensor, len(blocks), "l2")
        for p in products
        for x in loads_of(p.b)
        if p.n and not unit_stride(kernel, x, p.n[-1])
    )
    tile = (Loop(row, rows, "tile", balanced=True),) if row is not None else ()
    yield Schedule(loops=blocks + tile, reduce=reduce, stages=stages)
    # An operand that cannot be staged once is copied for each tile of rows: fewer, larger ones.
    tall = (Loop(row, 4 * rows, "tile", balanced=True),) if row is not None else ()
    yield Schedule(loops=blocks + tall, reduce=reduce)
    yield Schedule(loops=blocks, reduce=reduce)
