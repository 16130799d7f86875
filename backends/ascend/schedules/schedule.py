"""Schedules for Ascend from the sizes of L0, L1 and UB: candidates by class of kernel, best guess first."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.ascend.placing.online import online_of
from tilewright.backends.ascend.schedules.attention import attention_schedules
from tilewright.backends.ascend.schedules.convolutions import convolution_schedules
from tilewright.backends.ascend.schedules.products import product_schedules
from tilewright.backends.ascend.schedules.quickest import quickest_first
from tilewright.backends.ascend.schedules.vector import vector_schedules
from tilewright.kernel.analysis import as_product
from tilewright.kernel.schedule import Loop, Schedule, ScheduleError
from tilewright.kernel.tile import Define, Kernel, Scan, Store
from tilewright.target import Target

#: Rows and columns of a block, best guess first: 128 × 128 halves of L0A and L0B hold 128 reduced fp16 lanes each.
_BLOCKS = ((128, 128), (128, 64), (64, 64), (32, 64), (16, 64), (16, 32))


def schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Candidate schedules; a caller takes the first whose tiles fit (``place`` raises :class:`ScheduleError`)."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    products = [p for d in _defines(kernel) if (p := as_product(d)) is not None and p.m and p.n]
    if not products:
        yield from quickest_first(kernel, vector_schedules(kernel, target), target)
        return
    scan = next((s for s in kernel.body if isinstance(s, Scan)), None)
    if scan is None:
        define = next(d for d in _defines(kernel) if (p := as_product(d)) is not None and p.m and p.n)
        yield from convolution_schedules(kernel, define, target)
        yield from product_schedules(kernel, define, products[0], target)
        return
    if "split" in target.features and (online := online_of(kernel)) is not None:
        yield from attention_schedules(kernel, online)
    row = _row_axis(kernel, store, products[0].m)
    for rows, columns in _BLOCKS:
        loops: list[Loop] = []
        for axis in store.axes:
            if axis == row:
                loops.append(Loop(axis, rows, "block"))
            elif axis != store.axes[-1]:
                loops.append(Loop(axis, 1, "block"))
        yield Schedule(tuple(loops), (Loop(scan.axis, columns, "pipeline"),))


def first_fit(kernel: Kernel, target: Target) -> Schedule:
    """The first candidate whose tiles fit the target's memories. Raises the last :class:`ScheduleError`."""
    from tilewright.backends.ascend.placing.place import place_unsynchronized
    from tilewright.kernel.apply import apply

    problem: ScheduleError | None = None
    for schedule in schedules(kernel, target):
        try:
            place_unsynchronized(apply(kernel, schedule), target)
            return schedule
        except ScheduleError as error:
            problem = error
    raise problem or ScheduleError(kernel.name, "no schedule of this backend fits its accesses")


def _defines(kernel: Kernel) -> Iterator[Define]:
    for s in kernel.body:
        if isinstance(s, Scan):
            yield from s.body
        elif isinstance(s, Define):
            yield s


def _row_axis(kernel: Kernel, store: Store, m: tuple[str, ...]) -> str:
    """The row axis that is tiled: the last one of the product's rows, the others having one lane a block."""
    own = [a for a in store.axes[:-1] if a in m]
    return own[-1] if own else store.axes[0]
