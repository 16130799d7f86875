"""First schedules from target data, by the class of kernel. Heuristics, not tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tilewright.backends.cuda.contraction import Contraction, contraction
from tilewright.backends.cuda.merging import merge_of
from tilewright.backends.cuda.schedules.extents import with_whole_axes
from tilewright.backends.cuda.schedules.general import general_schedules
from tilewright.backends.cuda.schedules.matvec import skinny_of, skinny_schedules
from tilewright.backends.cuda.schedules.products import product_schedules
from tilewright.backends.cuda.schedules.rows import row_schedules
from tilewright.backends.cuda.schedules.scans import lone_scan_schedules, scan_schedules
from tilewright.backends.cuda.schedules.windows import window_of, window_schedules
from tilewright.kernel.apply import defines
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Define, Kernel, Scan
from tilewright.target import Target

#: So many of a class's own schedules come before those for any kernel, which come before the rest.
_GUESSES = 3


def schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Candidates for ``kernel``, best guess first; each is complete (axes taken whole have their padded lanes)."""
    scan = next((s for s in kernel.body if isinstance(s, Scan)), None)
    products = [(d, c) for d in defines(kernel) if (c := _product(d)) is not None]
    if scan is not None and products:
        found: Iterable[Schedule] = scan_schedules(kernel, scan, [c for _, c in products], target)
    elif scan is not None and merge_of(scan) is not None:
        found = lone_scan_schedules(kernel, scan, target)
    elif (skinny := skinny_of(kernel)) is not None:
        found = skinny_schedules(kernel, skinny, target)
    elif products:
        found = product_schedules(kernel, products[0][1], target)
    elif (window := window_of(kernel)) is not None:
        found = window_schedules(kernel, window)
    else:
        found = row_schedules(kernel, target)
    unique = iter(dict.fromkeys(with_whole_axes(kernel, schedule) for schedule in found))
    yield from islice(unique, _GUESSES)
    yield from (with_whole_axes(kernel, schedule) for schedule in general_schedules(kernel))
    yield from unique


def _product(d: Define) -> Contraction | None:
    c = contraction(d.axes, d.value, d.reduce)
    return c if c is not None and c.rows and c.columns else None
