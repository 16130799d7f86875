"""Schedules of matrix products: blocks of rows and columns, weights packed into fractals, the depth of an L1 tile.

Candidates are ordered by an estimate of cycles from the sizes of the cube unit: 4096 products of 16 bits a cycle, what
the transfers of a block take beside it, and how evenly blocks are dealt out to cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from itertools import product as combinations

from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.dequantized import Dequantized
from tilewright.backends.ascend.placing.operand import factor_of, factors_of
from tilewright.backends.ascend.placing.runs import run_length, slope
from tilewright.backends.ascend.schedules.weights import Sizes, in_words, widened_blocks, widened_packs
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import Product, loads_of, offset_of, walk
from tilewright.kernel.expr import Cast, Load, Ref, Value
from tilewright.kernel.schedule import INLINE, Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Rows and columns of a block: whole fractals, columns as many as the bias table has f32 for.
_ROWS = (256, 208, 192, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)
_COLUMNS = (256, 208, 192, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)
#: Bytes of a row of an L1 tile: long enough for transfers at full speed, short enough for two slots of both operands.
_DEPTH_BYTES = (512, 256)
#: How many blocks beside each other share rows that stay in L1, and how many pieces of depth those have at most, since
#: each has an event of its own.
_TURNS = (1, 2, 3, 4)
_KEPT = 4
#: A size that only the run tells is taken to be this large for estimates, where its facts allow.
_USUAL = 1024
#: Products a cycle of the cube unit, of f16; i8 has twice as many.
_RATE = 4096
#: The most candidates that are told.
_MOST = 24


@dataclass(frozen=True, slots=True)
class Tiling:
    """``rows × columns`` sums at a time, ``turns`` times beside each other with the same rows, which stay in L1 then;
    ``depth`` lanes of the reduced axis in an L1 tile."""

    rows: int
    columns: int
    turns: int
    depth: int


@dataclass(frozen=True, slots=True)
class Roles:
    """The axes of a product on the cube core: one each for rows, columns and depth; ``ones`` have one lane a block."""

    define: Define
    rows: str
    columns: str
    depth: str
    ones: tuple[str, ...]
    left: Value
    right: Value


def product_schedules(kernel: Kernel, define: Define, product: Product, target: Target) -> Iterator[Schedule]:
    """Blocks of rows and columns by rising estimate of their time."""
    roles = roles_of(kernel, define, product)
    if roles is None:
        return
    size = max(1, factor_of(roles.left).dtype.bits // 8)
    packs = (*weight_packs(kernel, roles), *row_packs(kernel, roles))
    if (weights := factor_of(roles.right).weights) is not None:
        yield from _widened(kernel, roles, weights, packs, target)
        return
    found: list[tuple[float, Tiling]] = []
    for rows, columns, turns in combinations(
        _sizes(kernel, roles.rows, _ROWS), _sizes(kernel, roles.columns, _COLUMNS), _TURNS
    ):
        if 4 * round_up(rows, FRACTAL) * round_up(columns, FRACTAL) > target.memory["l0c"].size:
            continue
        for depth in _DEPTH_BYTES:
            tiling = Tiling(rows, columns, turns, depth // size)
            if _fits(kernel, roles, tiling, size, target):
                found.append((_cycles(kernel, roles, tiling, size, target), tiling))
    spaces = tuple((tile, INLINE) for tile in used_once(kernel))
    ordered = (_schedule(kernel, roles, tiling, packs, spaces) for _, tiling in sorted(found, key=lambda f: f[0]))
    told: set[tuple[Loop, ...]] = set()
    for schedule in islice(ordered, 2 * _MOST):
        if (loops := (*schedule.loops, *schedule.reduce)) not in told and len(told) < _MOST:
            told.add(loops)
            yield schedule


def _widened(
    kernel: Kernel, roles: Roles, weights: Dequantized, packs: tuple[Pack, ...], target: Target
) -> Iterator[Schedule]:
    """Schedules of a product whose weights vector cores widen."""
    left = factors_of(roles.left, roles.right)[0].dtype
    store = next(s for s in kernel.body if isinstance(s, Store))
    depth = math.prod(_usual(kernel, a) for a in roles.define.reduce.axes) if roles.define.reduce is not None else 1
    others = math.prod(_usual(kernel, a) for a in roles.ones)
    plain = isinstance(store.value, Cast) and isinstance(store.value.x, Ref)
    rows, columns = _usual(kernel, roles.rows), _usual(kernel, roles.columns)
    sizes = Sizes(rows, columns, depth, others, max(1, left.bits // 8), not plain)
    spaces = tuple((tile, INLINE) for tile in used_once(kernel))
    blocks = widened_blocks(sizes, weights, target)
    by_shifts = weights.integers.dtype is DType.I4 and "cast_i4" not in target.features
    if by_shifts:  # words hold lanes of one slice
        blocks = [b for b in blocks if depth % b.depth == 0]
    for block in blocks[:_MOST]:
        own = tuple(in_words(p, block.depth) if by_shifts and p.tensor == weights.integers.tensor else p for p in packs)
        yield _schedule(kernel, roles, Tiling(block.rows, block.columns, 1, block.depth), own, spaces)


def roles_of(kernel: Kernel, define: Define, product: Product) -> Roles | None:
    """Which axes of a product become rows, columns and depth; ``None`` where no axis of the result is contiguous."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    indices = tuple(i for i in store.index if isinstance(i, Expr))
    if len(indices) < len(store.index):
        return None
    flat = offset_of(kernel.param(store.tensor), indices)
    left, right, m, n = product.a, product.b, product.m, product.n
    contiguous = {a for a in (*m, *n) if run_length((flat,), a) == 0 and slope(flat, a) == 1}
    if contiguous & set(m) and not contiguous & set(n):
        left, right, m, n = right, left, n, m
    rows, columns = m[-1], next((a for a in n if a in contiguous), n[-1])
    depth = _depth_axis(kernel, product.k, left, right)
    every = (*product.batch, *m, *n, *product.k)
    ones = tuple(a for a in every if a not in (rows, columns, depth))
    return Roles(define, rows, columns, depth, ones, left, right)


def _depth_axis(kernel: Kernel, axes: tuple[str, ...], left: Value, right: Value) -> str:
    """The reduced axis that is taken in tiles: one that is contiguous in an operand that is no constant, if any."""
    loads = [load for v in (left, right) for load in loads_of(v)]
    loads.sort(key=lambda load: kernel.param(load.tensor).role == "const")
    for load in loads:
        if all(isinstance(i, Expr) for i in load.index):
            flat = offset_of(kernel.param(load.tensor), tuple(i for i in load.index if isinstance(i, Expr)))
            for axis in axes:
                if run_length((flat,), axis) == 0 and slope(flat, axis) == 1:
                    return axis
    return axes[-1]


# -- constants -----------------------------------------------------------------------------------------------------


def weight_packs(kernel: Kernel, roles: Roles) -> Iterator[Pack]:
    """The right operand in fractals, where it is a constant: columns last for 16-bit types, which are turned on the way
    to L0, else depth last."""
    factor = factor_of(roles.right)
    if factor.weights is not None:
        yield from widened_packs(kernel, factor.weights, roles.depth, roles.columns)
        return
    load = factor.value
    if not isinstance(load, Load) or load.fill is not None or factor.dtype.bits < 8:
        return
    param = kernel.param(load.tensor)
    if param.role != "const" or not all(s.is_constant for s in param.shape) or _readers(kernel, load.tensor) > 1:
        return
    place = {axis: n for n, i in enumerate(load.index) for axis in (roles.columns, roles.depth) if i == symbol(axis)}
    if len(place) < 2:
        return
    lanes = BLOCK_BYTES * 8 // factor.dtype.bits
    fine, coarse = (roles.columns, roles.depth) if factor.dtype.bits == 16 else (roles.depth, roles.columns)
    d = [symbol(f"d{n}") for n in range(len(param.shape))]
    others = [n for n in range(len(param.shape)) if n not in place.values()]
    across, along = place[fine], place[coarse]
    index = (*(d[n] for n in others), d[across] // lanes, d[along], d[across] % lanes)
    shape = (
        *(param.shape[n] for n in others),
        constant(-(-param.shape[across].value // lanes)),
        constant(round_up(param.shape[along].value, FRACTAL)),
        constant(lanes),
    )
    yield Pack(param.name, index, shape)


def row_packs(kernel: Kernel, roles: Roles) -> Iterator[Pack]:
    """Rows along the columns, as biases are, filled up to whole fractals."""
    for p in kernel.params:
        plain = p.role == "const" and len(p.shape) == 1 and p.shape[0] == kernel.extent(roles.columns)
        if not plain or not p.shape[0].is_constant or p.shape[0].value % FRACTAL == 0 or p.dtype.bits < 16:
            continue
        if all(load.index == (symbol(roles.columns),) for load in _loads(kernel) if load.tensor == p.name):
            yield Pack(p.name, (symbol("d0"),), (constant(round_up(p.shape[0].value, FRACTAL)),))


def _readers(kernel: Kernel, tensor: str) -> int:
    return sum(load.tensor == tensor for load in _loads(kernel))


def _loads(kernel: Kernel) -> list[Load]:
    """Every load of the kernel, each place where it stands."""
    values = [s.value for s in kernel.body if isinstance(s, Define | Store)]
    return [load for v in values for load in loads_of(v)]


# -- sizes ---------------------------------------------------------------------------------------------------------


def _schedule(
    kernel: Kernel, roles: Roles, t: Tiling, packs: tuple[Pack, ...], spaces: tuple[tuple[str, str], ...]
) -> Schedule:
    store = next(s for s in kernel.body if isinstance(s, Store))
    sizes = {roles.rows: t.rows, roles.columns: t.columns * t.turns}
    loops = [Loop(a, sizes.get(a, 1), "block") for a in store.axes]
    if t.turns > 1:
        loops.append(Loop(roles.columns, t.columns))
    assert roles.define.reduce is not None
    ones = tuple(Loop(a, 1) for a in roles.define.reduce.axes if a != roles.depth)
    extent = kernel.extent(roles.depth)
    whole = extent.is_constant and extent.value <= t.depth
    reduce = ones if whole else (*ones, Loop(roles.depth, t.depth, "pipeline"))
    return Schedule(tuple(loops), reduce, packs=packs, spaces=spaces)


def used_once(kernel: Kernel) -> Iterator[str]:
    """Element-wise tiles that one other statement reads, in one place: they hide what the fixpipe could do."""
    values = [s.value for s in kernel.body if isinstance(s, Define | Store)]
    refs = [x.tile for v in values for x in walk(v) if isinstance(x, Ref)]
    yield from (s.tile for s in kernel.body if isinstance(s, Define) and s.reduce is None and refs.count(s.tile) == 1)


def _sizes(kernel: Kernel, axis: str, candidates: tuple[int, ...]) -> list[int]:
    """Those of ``candidates`` that are not larger than the axis needs."""
    most = round_up(min(max(candidates), bounds(kernel.extent(axis), dict(kernel.facts))[1]), FRACTAL)
    return [n for n in candidates if n <= most] or [FRACTAL]


def _fits(kernel: Kernel, roles: Roles, t: Tiling, size: int, target: Target) -> bool:
    """Whether L1 holds two slots of both operands, or all pieces of the rows that stay there."""
    pieces = 2
    if t.turns > 1:
        depth = kernel.extent(roles.depth)
        one = roles.define.reduce is not None and len(roles.define.reduce.axes) == 1
        loads = loads_of(roles.left)
        if not one or not depth.is_constant or any(load.fill is not None for load in loads):
            return False
        pieces = -(-depth.value // t.depth)
        if not 1 < pieces <= _KEPT:
            return False
    return (pieces * t.rows + 2 * t.columns) * t.depth * size <= target.memory["l1"].size


def _usual(kernel: Kernel, axis: str) -> int:
    extent = kernel.extent(axis)
    low, high = bounds(extent, dict(kernel.facts))
    return extent.value if extent.is_constant else max(low, min(high, _USUAL))


def _cycles(kernel: Kernel, roles: Roles, t: Tiling, size: int, target: Target) -> float:
    """Estimated cycles of the busiest core: products beside transfers, and what nothing hides.

    Bytes that a core is the first to read come from global memory, the others from L2.
    """
    assert roles.define.reduce is not None
    clock = float(target.extra["clock_mhz"]) * 1e6
    per_core = {m: target.memory[m].bandwidth / target.units / clock for m in _PATHS}
    rows, columns = _usual(kernel, roles.rows), _usual(kernel, roles.columns)
    depth = math.prod(_usual(kernel, a) for a in roles.define.reduce.axes)
    others = math.prod(_usual(kernel, a) for a in roles.ones if a not in roles.define.reduce.axes)
    rounds = -(-(-(-rows // t.rows) * -(-columns // (t.columns * t.turns)) * others) // target.units)
    products = rounds * t.turns * t.rows * t.columns * round_up(depth, BLOCK_BYTES // size) * size / 2 / _RATE
    read = rounds * (t.rows + t.columns * t.turns) * depth * size
    cold = min(read, (rows + columns) * depth * others * size / target.units)
    into_l1 = cold / per_core["gm"] + (read - cold) / per_core["l1"]
    into_l0 = rounds * t.turns * depth * size * (t.rows / per_core["l0a"] + t.columns / per_core["l0b"])
    out = 4 * t.rows * t.columns / per_core["l0c"]
    single = 8 * t.rows * t.columns > target.memory["l0c"].size
    exposed = out * (rounds * t.turns if single else 1)
    rate = into_l1 / max(1.0, read)
    first = (t.rows + t.columns) * min(depth, t.depth) * size * rate
    # The first of several turns brings the rows in, the others only columns.
    fetched = rounds * (t.rows + t.columns) * depth * size * rate
    one = max(products, into_l0) / t.turns
    return max(one, fetched) + max(one * (t.turns - 1), into_l1 - fetched) + exposed + first


_PATHS = ("l0a", "l0b", "l0c", "l1", "gm")
