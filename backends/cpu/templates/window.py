"""The template of reductions down the lanes: windows over an image, sums over its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tilewright.backends.cpu.lanes import Vectorized, plain_index
from tilewright.backends.cpu.machine import codegen
from tilewright.backends.cpu.templates.axes import cut, most, stored_axes
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, symbol
from tilewright.kernel.analysis import Product, loads_of, offset_of, refs_of
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Elements that one block reads, about: what is read again by the next row of windows is still in the L2 of a core.
BLOCK_ELEMENTS = 32768
#: Elements of the rows of a product that are computed on the way: 64 KB, an eighth of a core's L2.
PRODUCT_ELEMENTS = 16384
#: Input under a row of windows: three quarters of an L1 of 32 KB.
NEAR_BYTES = 24576
#: Lanes of one block along the channels, at most: the weights of 9 taps for them take 9 KB of L1.
BLOCK_LANES = 256


def window(kernel: Kernel, define: Define, target: Target) -> Iterator[Schedule]:
    """Blocks of rows and channels; constants packed so that the lanes lie side by side."""
    lane = lane_of(kernel, define, stored_axes(kernel))
    if lane is None or define.reduce is None:
        return
    panel = int(codegen(target)["panel"])
    packs = tuple(_packs(kernel, define.value, lane, panel))
    free = [a for a in by_stride(kernel) if a != lane]
    room = BLOCK_ELEMENTS
    wide = lane in stored_axes(kernel) and most(kernel, lane) > BLOCK_LANES
    room //= min(BLOCK_LANES, most(kernel, lane))
    for axis in define.reduce.axes:
        if not any(axis in i.symbols and len(i.symbols) > 1 for x in loads_of(define.value) for i in _plain(x)):
            room = max(1, room // max(1, most(kernel, axis)))  # no window: each output reads its own
    blocks = (*cut(kernel, free, room), *([Loop(lane, BLOCK_LANES, "block")] if wide else []))
    near = _near_lanes(kernel, define, panel)
    tile = (Loop(lane, near, "tile"),) if 2 * panel <= near < min(BLOCK_LANES, most(kernel, lane)) else ()
    yield Schedule(loops=(*blocks, *tile), packs=packs)
    yield Schedule(loops=blocks)


def _near_lanes(kernel: Kernel, define: Define, panel: int) -> int:
    """For how many lanes, whole panels, the rows under one window lie in L1, where windows of the next row read them
    again; 0 where no rows are read twice."""
    assert define.reduce is not None
    for load in loads_of(define.value):
        moving = [(n, i) for n, i in enumerate(load.index) if isinstance(i, Expr) and len(i.symbols) > 1]
        taps = [a for _, i in moving for a in define.reduce.axes if a in i.symbols]
        if len(taps) == 2 and len(moving) == 2:
            width = bounds(kernel.param(load.tensor).shape[moving[1][0]], dict(kernel.facts))[1]
            return NEAR_BYTES // (4 * most(kernel, taps[0]) * max(1, width)) // panel * panel
    return 0


def window_product(kernel: Kernel, product: Product, target: Target) -> Iterator[Schedule]:
    """A product whose rows are computed by windows (depthwise, then pointwise): blocks of image rows with all their
    channels and columns, so that each element of the rows is computed once and read from the caches."""
    defines = {d.tile: d for d in kernel.body if isinstance(d, Define)}
    windows = [d for d in _behind(defines, product.a) if d.reduce is not None]
    lanes = [lane_of(kernel, d, product.k) for d in windows]
    if not windows or any(lane is None or lane not in product.k for lane in lanes):
        return
    panel = int(codegen(target)["panel"])
    packs = [p for d, lane in zip(windows, lanes, strict=True) if lane for p in _packs(kernel, d.value, lane, panel)]
    packs += _packs(kernel, product.b, product.n[-1], panel)
    room = max(1, PRODUCT_ELEMENTS // max(1, math.prod(most(kernel, k) for k in product.k)))
    rows = [a for a in by_stride(kernel) if a in product.m]
    yield Schedule(loops=tuple(cut(kernel, rows, room, balanced=True)), packs=tuple(packs))


def _behind(defines: Mapping[str, Define], v: Value) -> Iterator[Define]:
    """The definitions that ``v`` is computed from."""
    for ref in refs_of(v):
        if ref.tile in defines:
            yield defines[ref.tile]
            yield from _behind(defines, defines[ref.tile].value)


def lane_of(kernel: Kernel, define: Define, among: tuple[str, ...]) -> str | None:
    """The axis of the result, one of ``among``, along which inputs lie in order (constants may be packed so)."""
    for axis in define.axes:
        steps = []
        for load in loads_of(define.value):
            constant = kernel.param(load.tensor).role == "const" and load.fill is None
            steps.append(1 if constant and symbol(axis) in load.index else _step(kernel, load, axis))
        if any(s == 1 for s in steps) and all(s is not None and s in (0, 1) for s in steps):
            inputs = [x for x in loads_of(define.value) if kernel.param(x.tensor).role != "const"]
            if any(_step(kernel, x, axis) == 1 for x in inputs) and axis in among:
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


def _packs(kernel: Kernel, value: Value, lane: str, panel: int) -> Iterator[Pack]:
    for load in loads_of(value):
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
