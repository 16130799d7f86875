"""Schedules of scans: attention, whose rows stay in registers while keys and values pass by."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.schedules.extents import has_unit
from tilewright.ir.symbolic import Expr
from tilewright.kernel.analysis import loads_of, used_symbols
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import Loop, Schedule, Stage
from tilewright.kernel.tile import Kernel, Scan, Store
from tilewright.target import Target


def scan_schedules(kernel: Kernel, scan: Scan, products: list[Contraction], target: Target) -> Iterator[Schedule]:
    """Attention: a tile of rows in registers, the scanned axis in pieces, everything else one at a time."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    first = products[0]
    row = first.rows[-1]
    kept = {a for c in products for a in (*c.columns, *c.depth)} - {scan.axis}
    unit = has_unit(first.left, "ieee")
    choices = (
        ((64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 3), (32, 32, 4, 2))
        if unit
        else ((32, 64, 8, 2), (64, 32, 8, 2), (16, 32, 4, 2))
    )
    still = tuple(x.tensor for x in loads_of(first.left) if scan.axis not in used_symbols(x) and _is_plain(kernel, x))
    for rows, piece, warps, stages in choices:
        loops = tuple(Loop(a, rows if a == row else 1, "block") for a in store.axes if a not in kept)
        reduce = (Loop(scan.axis, piece, "pipeline"),)
        stage = tuple(Stage(t, len(loops), "reg") for t in still)
        yield Schedule(loops, reduce, stage, extra=(("num_warps", warps), ("num_stages", stages)))


def _is_plain(kernel: Kernel, load: Load) -> bool:
    """Whether every index of ``load`` is an axis: only such reads can be staged."""
    return all(isinstance(i, Expr) and str(i) in {a.name for a in kernel.axes} for i in load.index)
