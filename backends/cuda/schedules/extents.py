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


def lanes_of(n: int) -> int:
    """The smallest power of two that holds ``n``."""
    return 1 << max(0, n - 1).bit_length()


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
