"""Sizes that schedules are chosen by: the largest that an axis may have, and powers of two that hold them."""

from __future__ import annotations

from dataclasses import replace

from tilewright.ir.ranges import bounds
from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel


def extent(kernel: Kernel, axis: str) -> int:
    """The largest extent that ``axis`` may have."""
    return bounds(kernel.extent(axis), dict(kernel.facts))[1]


#: Shares that stand for a range together, and the ratio of ends up to which a range is short.
SHARES, _SHORT = (0.7, 0.85, 1.0), 64
#: Sizes beyond this are not what a schedule is chosen for, whatever a symbol's range allows.
_FAR = 8192


def extent_at(kernel: Kernel, axis: str, share: float) -> int:
    """The extent of ``axis`` where symbols of long ranges (lengths) stand at ``share`` of the way through, in ratios,
    and those of short ranges (batches) near their lower ends."""
    symbols = {}
    for name, r in kernel.facts:
        low = max(1, r.lo)
        ratio = max(low, min(r.hi, _FAR)) / low
        symbols[name] = round(low * ratio ** (share if ratio > _SHORT else max(0.0, share - SHARES[0])))
    return max(1, kernel.extent(axis).evaluate(symbols))


def lanes_of(n: int) -> int:
    """The smallest power of two that holds ``n``."""
    return 1 << max(0, n - 1).bit_length()


def dealt(kernel: Kernel, axes: tuple[str, ...], lanes: int) -> dict[str, int]:
    """``lanes`` dealt out to ``axes`` from the last on; what is left over pads the last."""
    sizes: dict[str, int] = {}
    for axis in reversed(axes):
        sizes[axis] = min(lanes, lanes_of(extent(kernel, axis)))
        lanes //= sizes[axis]
    if axes:
        sizes[axes[-1]] *= lanes
    return sizes


def has_unit(left: Value, precision: str) -> bool:
    """Whether a matrix unit takes operands of this type; f32 needs the schedule to allow tf32."""
    return left.dtype not in (DType.F32, DType.F64) or precision == "tf32"


def with_whole_axes(kernel: Kernel, schedule: Schedule) -> Schedule:
    """``schedule`` with padded lanes for the axes that it takes whole and that are no power of two."""
    cut = {loop.axis for loop in (*schedule.loops, *schedule.reduce)}
    extra = [
        (f"whole:{a.name}", lanes_of(extent(kernel, a.name)))
        for a in kernel.axes
        if a.name not in cut and not (a.extent.is_constant and a.extent.value == lanes_of(a.extent.value))
    ]
    return replace(schedule, extra=(*schedule.extra, *extra))
