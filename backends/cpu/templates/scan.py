"""The template of scans: attention."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.register_tile import as_rows
from tilewright.backends.cpu.templates.axes import most, stored_axes, unit_stride
from tilewright.kernel.analysis import as_product, loads_of
from tilewright.kernel.schedule import Loop, Schedule, Stage
from tilewright.kernel.tile import Kernel, Scan
from tilewright.target import Target

#: Elements of the scanned axis at a time: scores and weights of 24 rows are 12 KB each, which leaves L1 room for strips
#: of keys and values.
SCAN_PIECE = 128
#: Rows of one tile, those of a group of heads together: so many share what is read of keys and values.
TILE_ROWS = 28
#: Tiles of one block: keys are copied once for all of them.
BLOCK_TILES = 8


def attention(kernel: Kernel, scan: Scan, target: Target) -> Iterator[Schedule]:
    rows = int(codegen(target)["tile_rows"])
    products = [as_rows(p) for d in scan.body if (p := as_product(d)) is not None]
    free = stored_axes(kernel)
    row = next((a for p in products for a in reversed(p.m) if a in free), None)
    columns = {a for p in products for a in p.n}
    # Heads that share keys and values: axes of the queries alone.
    group = [a for a in free if a != row and products and all(a in p.m for p in products)]
    batch = tuple(a for a in free if a != row and a not in columns and a not in group)
    tile = rows * max(1, TILE_ROWS // (rows * math.prod(most(kernel, a) for a in group)))
    single = tuple(Loop(a, 1, "block") for a in batch)
    blocks = single if row is None else (*single, Loop(row, BLOCK_TILES * tile, "block", balanced=True))
    tiles = () if row is None else (Loop(row, tile, "tile", balanced=True),)
    reduce = (Loop(scan.axis, SCAN_PIECE),)
    both = [p for p in products if p.m and p.n]  # a product with one column has nothing to transpose
    transposed = {x.tensor for p in both for x in loads_of(p.b) if not unit_stride(kernel, x, p.n[-1])}
    stages = tuple(Stage(x, len(blocks), "l2") for x in sorted(transposed))
    yield Schedule(loops=blocks + tiles, reduce=reduce, stages=stages)
    # An operand that cannot be staged once is copied for each tile of rows: fewer, larger ones.
    tall = () if row is None else (Loop(row, 4 * rows, "tile", balanced=True),)
    yield Schedule(loops=single + tall, reduce=reduce)
    yield Schedule(loops=single, reduce=reduce)
