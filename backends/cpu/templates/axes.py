"""What templates ask of axes: which may be cut into blocks, how long they are, how memory lies along them."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.backends.cpu.lanes import Vectorized
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of, walk
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.schedule import Loop, LoopKind
from tilewright.kernel.tile import Define, Kernel, Scan, Store


def stored_axes(kernel: Kernel) -> tuple[str, ...]:
    """Axes that every output has and no statement reduces: those that may be cut into blocks."""
    stores = [s for s in kernel.body if isinstance(s, Store)]
    bodies = [d for s in kernel.body for d in (s.body if isinstance(s, Scan) else (s,)) if isinstance(d, Define)]
    reduced = {a for d in bodies if d.reduce is not None for a in d.reduce.axes}
    reduced |= {s.axis for s in kernel.body if isinstance(s, Scan)}
    return tuple(a for a in stores[0].axes if a not in reduced and all(a in s.axes for s in stores))


def most(kernel: Kernel, axis: str) -> int:
    """The largest possible extent of an axis."""
    return bounds(kernel.extent(axis), dict(kernel.facts))[1]


def least_blocks(kernel: Kernel, loops: Sequence[Loop]) -> int:
    """How many blocks ``loops`` make at the smallest sizes that a kernel is for."""
    count = 1
    for loop in loops:
        count *= max(1, -(-bounds(kernel.extent(loop.axis), dict(kernel.facts))[0] // loop.size))
    return count


def unit_stride(kernel: Kernel, v: Value, axis: str) -> bool:
    """Whether every load in ``v`` is f32 in memory order along ``axis``."""
    lane = Vectorized(axis, dict(kernel.facts), 1)
    for x in walk(v):
        if isinstance(x, Load):
            index = tuple(i for i in x.index if isinstance(i, Expr))
            if len(index) < len(x.index) or x.fill is not None or x.dtype is not DType.F32:
                return False
            if lane.stride(offset_of(kernel.param(x.tensor), index)) != 1:
                return False
    return True


def cut(kernel: Kernel, axes: Sequence[str], room: int, kind: LoopKind = "block", balanced: bool = False) -> list[Loop]:
    """Loops over ``axes``, given outermost first, so that about ``room`` elements are inside them all; ``balanced``
    ones where a piece has more than one."""
    loops: list[Loop] = []
    for axis in reversed(axes):
        longest = max(1, most(kernel, axis))
        if longest > room:
            loops.append(Loop(axis, max(1, room), kind, balanced and room > 1))
        room = max(1, room // longest)
    return loops[::-1]
