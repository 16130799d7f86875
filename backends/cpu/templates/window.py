"""The template of reductions down the lanes: windows over an image, sums over its pixels."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.cpu.lanes import Vectorized, offset_of, plain_index
from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.templates.axes import most, stored_axes
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, symbol
from tilewright.kernel.analysis import loads_of
from tilewright.kernel.expr import Load
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Elements that one block reads, about: what is read again by the next row of windows is still in the L2 of a core.
BLOCK_ELEMENTS = 32768
#: Lanes of one block along the channels, at most: the weights of 9 taps for them take 9 KB of L1.
BLOCK_LANES = 256


def window(kernel: Kernel, define: Define, target: Target) -> Iterator[Schedule]:
    """Blocks of rows and channels; constants packed so that the lanes lie side by side."""
    lane = lane_of(kernel, define)
    if lane is None or define.reduce is None:
        return
    panel = int(codegen(target)["panel"])
    packs = tuple(_packs(kernel, define, lane, panel))
    free = [a for a in by_stride(kernel) if a != lane]
    room = BLOCK_ELEMENTS
    loops: list[Loop] = []
    if lane in stored_axes(kernel) and most(kernel, lane) > BLOCK_LANES:
        loops.append(Loop(lane, BLOCK_LANES, "block"))
    room //= min(BLOCK_LANES, most(kernel, lane))
    for axis in define.reduce.axes:
        if not any(axis in i.symbols and len(i.symbols) > 1 for x in loads_of(define.value) for i in _plain(x)):
            room = max(1, room // max(1, most(kernel, axis)))  # no window: each output reads its own
    for axis in reversed(free):
        longest = max(1, most(kernel, axis))
        if longest > room:
            loops.append(Loop(axis, max(1, room), "block"))
        room = max(1, room // longest)
    yield Schedule(loops=tuple(reversed(loops)), packs=packs)
    yield Schedule(loops=tuple(reversed(loops)))


def lane_of(kernel: Kernel, define: Define) -> str | None:
    """The axis of the result along which inputs lie in order (constants may be packed so), the lanes' axis."""
    for axis in define.axes:
        steps = []
        for load in loads_of(define.value):
            constant = kernel.param(load.tensor).role == "const" and load.fill is None
            steps.append(1 if constant and symbol(axis) in load.index else _step(kernel, load, axis))
        if any(s == 1 for s in steps) and all(s is not None and s in (0, 1) for s in steps):
            inputs = [x for x in loads_of(define.value) if kernel.param(x.tensor).role != "const"]
            if any(_step(kernel, x, axis) == 1 for x in inputs) and axis in stored_axes(kernel):
                return axis
    return None


def _plain(load: Load) -> tuple[Expr, ...]:
    return tuple(i for i in load.index if isinstance(i, Expr))


def _step(kernel: Kernel, load: Load, axis: str) -> Expr | None:
    index = _plain(load)
    if len(index) < len(load.index) or (load.fill is not None and symbol(axis) not in index and _moves(index, axis)):
        return None
    return Vectorized(axis, dict(kernel.facts), 1).stride(offset_of(kernel.param(load.tensor), index))


def _moves(index: tuple[Expr, ...], axis: str) -> bool:
    return any(axis in i.symbols for i in index)


def _packs(kernel: Kernel, define: Define, lane: str, panel: int) -> Iterator[Pack]:
    for load in loads_of(define.value):
        param = kernel.param(load.tensor)
        dims = [n for n, i in enumerate(load.index) if isinstance(i, Expr) and i == symbol(lane)]
        if param.role == "const" and load.fill is None and len(dims) == 1 and len(param.shape) > 1:
            yield blocked(load.tensor, param.shape, dims[0], panel)


def by_stride(kernel: Kernel) -> list[str]:
    """Axes that may be cut into blocks, those with the largest steps through the output first."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    offset = offset_of(kernel.param(store.tensor), plain_index(store.index))
    facts = dict(kernel.facts)

    def step(axis: str) -> int:
        stride = Vectorized(axis, facts, 1).stride(offset)
        return 0 if stride is None else bounds(stride, facts)[1]

    return sorted(stored_axes(kernel), key=step, reverse=True)
