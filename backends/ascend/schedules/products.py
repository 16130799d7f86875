"""Schedules of matrix products: blocks of rows and columns, weights packed into fractals, the depth of an L1 tile.

Candidates are ordered by an estimate of cycles from the sizes of the cube unit: 4096 products of 16 bits a cycle, what
the transfers of a block take beside it, and how evenly blocks are dealt out to cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product as combinations

from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up, square
from tilewright.backends.ascend.placing.dequantized import Dequantized
from tilewright.backends.ascend.placing.exits import addend_of
from tilewright.backends.ascend.placing.frame import HEIGHT, LEAD, PANES, RING
from tilewright.backends.ascend.placing.operand import Factor, factor_of, factors_of, sides_of
from tilewright.backends.ascend.placing.runs import run_length, slope
from tilewright.backends.ascend.schedules.pace import RATE, Problem, Tiling, pace
from tilewright.backends.ascend.schedules.weights import Sizes, in_words, widened_blocks, widened_packs
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import Product, loads_of, offset_of, walk
from tilewright.kernel.expr import Binary, Cast, Load, Ref, Select, Unary, Value
from tilewright.kernel.schedule import INLINE, Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel, Store
from tilewright.target import Target

#: Rows and columns of a block: whole fractals, columns as many as the bias table has f32 for.
_ROWS = (256, 208, 192, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)
_COLUMNS = (256, 208, 192, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)
#: Bytes of a row of an L1 tile: long enough for transfers at full speed, short enough for two slots of both operands.
_DEPTH_BYTES = (512, 256, 128)
#: How many tiles beside each other share rows that stay in L1, and how many pieces of depth those have at most.
_TURNS = (1, 2, 3, 4, 6, 8, 12)
_KEPT = 16
_FUSED_TURNS, _FUSED_KEPT = 12, 4
#: Slots of the pieces that come into L1, and panes of rows that a sum has in L0C.
_RINGS = (2, 3, 4)
_PANES = (1, 2, 3)
#: Rows that may come before the columns.
_LEADS = (16, 32, 48, 64, 96)
#: How many tilings of the best estimates are looked at pipe by pipe, and how many of those with other slots.
_REFINED = 128
_BEST = 24
#: Into how many blocks beside each other the columns may be dealt evenly.
_SHARES = 24
#: Vector instructions that a function takes beyond one.
_COSTLY = 8
#: A size that only the run tells is taken to be this large for estimates, where its facts allow.
_USUAL = 1024
#: The most candidates that are told.
_MOST = 24


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

    @property
    def reduced(self) -> tuple[str, ...]:
        """Every axis that is summed over."""
        return self.define.reduce.axes if self.define.reduce is not None else ()


def product_schedules(kernel: Kernel, define: Define, product: Product, target: Target) -> Iterator[Schedule]:
    """Blocks of rows and columns by rising estimate of their time."""
    roles = roles_of(kernel, define, product)
    if roles is None:
        return
    size = max(1, factor_of(roles.left).dtype.bits // 8)
    packs = (*weight_packs(kernel, roles), *row_packs(kernel, roles.columns))
    if (weights := factor_of(roles.right).weights) is not None:
        yield from _widened(kernel, roles, weights, packs, target)
        return
    found: list[tuple[float, Tiling]] = []
    problem, widths = _problem(kernel, define, roles, size, target), _widths(kernel, roles)
    fits = _Room(kernel, roles, size, target)
    # A fused core's vector unit takes part in each sum, which the pipes' model leaves out: few and large pieces there.
    split = "split" in target.features
    depths, most, widths = (_DEPTH_BYTES, max(_TURNS), widths) if split else (_DEPTH_BYTES[:2], _FUSED_TURNS, [])
    for rows, columns, depth in combinations(
        _sizes(kernel, roles.rows, _ROWS), _sizes(kernel, roles.columns, _COLUMNS), depths
    ):
        if 4 * round_up(rows, FRACTAL) * round_up(columns, FRACTAL) > target.memory["l0c"].size:
            continue
        for width in dict.fromkeys((columns, *(columns * n for n in _TURNS), *(w for w in widths if w > columns))):
            tiling = Tiling(rows, columns, width, depth // size)
            if width <= columns * most and fits(tiling):
                found.append((_cycles(problem, tiling, target), tiling))
    found.sort(key=lambda f: f[0])
    ordered = [t for _, t in found]
    if not split:
        ordered = [r for t in ordered for r in (replace(t, ring=3), t) if fits(r)]
    if (
        split
        and len(roles.reduced) == 1
        and all(isinstance(factor_of(v).value, Load) for v in (roles.left, roles.right))
    ):
        ordered = _refined(problem, fits, ordered[:_REFINED], target)
    spaces = tuple((tile, INLINE) for tile in used_once(kernel))
    told: set[Schedule] = set()
    for tiling in ordered[: 2 * _MOST]:
        schedule = _schedule(kernel, roles, tiling, packs, spaces)
        if schedule not in told and len(told) < _MOST:
            told.add(schedule)
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
        yield _schedule(kernel, roles, Tiling(block.rows, block.columns, block.columns, block.depth), own, spaces)


def _refined(p: Problem, fits: _Room, tilings: list[Tiling], target: Target) -> list[Tiling]:
    """The best of ``tilings`` with slots and panes by rising cycles of the pipes, then all as they are."""
    best = tilings
    for rings, panes, most in ((_RINGS[:1], _PANES[:2], _BEST), (_RINGS, _PANES, _MOST)):
        # Vector cores take a sum at once; to hand over panes would hold the cube core back before each sum.
        variants = [replace(t, ring=r, panes=n) for t in best for r in rings for n in panes if n == 1 or not p.vector]
        timed = [(pace(p, t, target), n, t) for n, t in enumerate(dict.fromkeys(variants)) if fits(t)]
        best = [t for _, _, t in sorted(timed, key=lambda f: f[:2])[:most]]
    # More panes than these two would fill the cube unit's queue within one piece of depth.
    led = [replace(t, lead=n, ring=2, panes=2) for t in best for n in _LEADS if not p.vector]
    leads = list(dict.fromkeys([*best, *led]))
    step = square(p.size)
    shares = [round_up(-(-(t.rows - t.lead) // t.panes), step) + step for t in leads]
    uneven = [replace(t, height=h) for t, h in zip(leads, shares, strict=True) if t.panes > 1]
    timed = [(pace(p, t, target), n, t) for n, t in enumerate((*leads, *uneven)) if fits(t)]
    return [*(t for _, _, t in sorted(timed, key=lambda f: f[:2])[:_MOST]), *tilings]


def roles_of(kernel: Kernel, define: Define, product: Product) -> Roles | None:
    """Which axes of a product become rows, columns and depth; ``None`` where no axis of the result is contiguous."""
    store = next(s for s in kernel.body if isinstance(s, Store))
    indices = tuple(i for i in store.index if isinstance(i, Expr))
    if len(indices) < len(store.index):
        return None
    product = sides_of(kernel, product)
    left, right, m, n = product.a, product.b, product.m, product.n
    flat = offset_of(kernel.param(store.tensor), indices)
    rows = m[-1]
    columns = next((a for a in n if run_length((flat,), a) == 0 and slope(flat, a) == 1), n[-1])
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
    """The operands that are constants in fractals: of the right one columns last for 16-bit types, which are turned on
    the way to L0, else depth last, as in the left one."""
    factor = factor_of(roles.right)
    if factor.weights is not None:
        yield from widened_packs(kernel, factor.weights, roles.depth, roles.columns)
        return
    half = factor.dtype.bits == 16
    yield from _matrix_pack(kernel, factor, *((roles.columns, roles.depth) if half else (roles.depth, roles.columns)))
    yield from _matrix_pack(kernel, factor_of(roles.left), roles.depth, roles.rows)


def _matrix_pack(kernel: Kernel, factor: Factor, fine: str, coarse: str) -> Iterator[Pack]:
    """A constant in fractals whose rows go along ``fine``, one below the other along ``coarse``."""
    load = factor.value
    if factor.weights is not None or not isinstance(load, Load) or load.fill is not None or factor.dtype.bits < 8:
        return
    param = kernel.param(load.tensor)
    if param.role != "const" or not all(s.is_constant for s in param.shape) or _readers(kernel, load.tensor) > 1:
        return
    place = {axis: n for n, i in enumerate(load.index) for axis in (fine, coarse) if i == symbol(axis)}
    # Rows may begin anywhere: those of a group of filters do.
    begun = {n: i for n, i in enumerate(load.index) if isinstance(i, Expr) and coarse in i.symbols}
    if coarse not in place and len(begun) == 1:
        ((n, i),) = begun.items()
        if run_length((i,), coarse) == 0 and slope(i, coarse) == 1 and fine not in i.symbols:
            place[coarse] = n
    if len(place) < 2:
        return
    lanes = BLOCK_BYTES * 8 // factor.dtype.bits
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


def row_packs(kernel: Kernel, columns: str) -> Iterator[Pack]:
    """Rows along the columns, as biases are, filled up to whole fractals."""
    for p in kernel.params:
        plain = p.role == "const" and len(p.shape) == 1 and p.shape[0] == kernel.extent(columns)
        if not plain or not p.shape[0].is_constant or p.shape[0].value % FRACTAL == 0 or p.dtype.bits < 16:
            continue
        if all(load.index == (symbol(columns),) for load in _loads(kernel) if load.tensor == p.name):
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
    sizes = {roles.rows: t.rows, roles.columns: t.width}
    loops = [Loop(a, sizes.get(a, 1), "block") for a in store.axes]
    if t.turns > 1:
        loops.append(Loop(roles.columns, t.columns))
    assert roles.define.reduce is not None
    ones = tuple(Loop(a, 1) for a in roles.define.reduce.axes if a != roles.depth)
    extent = kernel.extent(roles.depth)
    whole = extent.is_constant and extent.value <= t.depth
    reduce = ones if whole else (*ones, Loop(roles.depth, t.depth, "pipeline"))
    chosen = ((RING, t.ring, 2), (PANES, t.panes, 1), (LEAD, t.lead, 0), (HEIGHT, t.height, 0))
    extra = tuple((name, n) for name, n, usual in chosen if n != usual)
    return Schedule(tuple(loops), reduce, packs=packs, spaces=spaces, extra=extra)


def used_once(kernel: Kernel) -> Iterator[str]:
    """Element-wise tiles that one other statement reads, in one place: they hide what the fixpipe could do."""
    values = [s.value for s in kernel.body if isinstance(s, Define | Store)]
    refs = [x.tile for v in values for x in walk(v) if isinstance(x, Ref)]
    yield from (s.tile for s in kernel.body if isinstance(s, Define) and s.reduce is None and refs.count(s.tile) == 1)


def _sizes(kernel: Kernel, axis: str, candidates: tuple[int, ...]) -> list[int]:
    """Those of ``candidates`` that are not larger than the axis needs."""
    most = round_up(min(max(candidates), bounds(kernel.extent(axis), dict(kernel.facts))[1]), FRACTAL)
    return [n for n in candidates if n <= most] or [FRACTAL]


class _Room:
    """Whether the memories hold a tiling: L0C the panes of a sum, L1 the slots of both operands, or those of the
    columns and all pieces of the rows that stay there."""

    def __init__(self, kernel: Kernel, roles: Roles, size: int, target: Target):
        depth = kernel.extent(roles.depth)
        loads = loads_of(roles.left)
        stays = len(roles.reduced) == 1 and depth.is_constant and all(load.fill is None for load in loads)
        self.depth, self.size = depth.value if stays else 0, size
        self.kept = _KEPT if "split" in target.features else _FUSED_KEPT
        self.l0c, self.l1 = target.memory["l0c"].size, target.memory["l1"].size

    def __call__(self, t: Tiling) -> bool:
        rest = t.rows - t.lead
        step = square(self.size) if t.panes > 1 else FRACTAL
        high = max(t.height, round_up(-(-rest // t.panes), step)) if rest > 0 else 0
        sums = (t.lead + t.panes * high) * round_up(t.columns, FRACTAL)
        # Flags of three transfers that go on apart are more than there are events for where the slots are many.
        if t.lead and t.ring > 2:
            return False
        if 4 * sums > self.l0c or (t.panes > 1 and rest <= FRACTAL) or rest <= 0:
            return False
        pieces = t.ring if t.turns == 1 else -(-self.depth // t.depth)
        if t.turns > 1 and not 1 < pieces <= self.kept:
            return False
        return (pieces * t.rows + t.ring * t.columns) * t.depth * self.size <= self.l1


def _widths(kernel: Kernel, roles: Roles) -> list[int]:
    """Columns of a block that deal all of them out evenly."""
    columns = _usual(kernel, roles.columns)
    return sorted({round_up(-(-columns // n), FRACTAL) for n in range(1, _SHARES + 1)}, reverse=True)


def _problem(kernel: Kernel, define: Define, roles: Roles, size: int, target: Target) -> Problem:
    """What there is to do, with usual sizes where the run tells."""
    others = math.prod(_usual(kernel, a) for a in roles.ones)
    rows, columns, depth = (_usual(kernel, a) for a in (roles.rows, roles.columns, roles.depth))
    store = next(s for s in kernel.body if isinstance(s, Store))
    added = addend_of(store.value) if "fixpipe_add" in target.features else None
    left = kernel if added is None else _replaced(kernel, store, added[0])
    work = vector_work(left, define)
    if work:
        work, added = vector_work(kernel, define), None
    out = 4 if work else max(1, kernel.param(store.tensor).dtype.bits // 8)
    return Problem(rows, columns, depth, others, size, out, work, added is not None)


def _replaced(kernel: Kernel, store: Store, value: Value) -> Kernel:
    """``kernel`` with another value in a store."""
    return replace(kernel, body=tuple(replace(s, value=value) if s is store else s for s in kernel.body))


def vector_work(kernel: Kernel, define: Define) -> float:
    """Vector instructions behind a sum, about; 0 where the cube core does everything on the way out."""
    values = [s.value for s in kernel.body if isinstance(s, Define | Store) and s is not define]
    nodes = [x for v in values for x in walk(v)]
    rows = [x for x in nodes if isinstance(x, Load) and len(x.index) == 1 and kernel.param(x.tensor).role == "const"]
    loads = [x for x in nodes if isinstance(x, Load)]
    steps = [x for x in nodes if isinstance(x, Unary | Binary | Select)]
    plain = [x for x in steps if isinstance(x, Binary) and x.op in ("add", "max")]
    if len(steps) == len(plain) <= 2 and len(loads) == len(rows) <= 1:
        return 0.0
    costly = sum(_COSTLY for x in steps if isinstance(x, Unary))
    return 2.0 + len(steps) + costly


def _usual(kernel: Kernel, axis: str) -> int:
    extent = kernel.extent(axis)
    low, high = bounds(extent, dict(kernel.facts))
    return extent.value if extent.is_constant else max(low, min(high, _USUAL))


def _cycles(p: Problem, t: Tiling, target: Target) -> float:
    """Estimated cycles of the busiest core: products beside transfers, and what nothing hides.

    Bytes that a core is the first to read come from global memory, the others from L2.
    """
    clock = float(target.extra["clock_mhz"]) * 1e6
    per_core = {m: target.memory[m].bandwidth / target.units / clock for m in _PATHS}
    rows, columns, depth, others, size = p.rows, p.columns, p.depth, p.others, p.size
    rounds = -(-(-(-rows // t.rows) * -(-columns // t.width) * others) // target.units)
    products = rounds * t.rows * t.width * round_up(depth, BLOCK_BYTES // size) * size / 2 / RATE
    read = rounds * (t.rows + t.width) * depth * size
    cold = min(read, (rows + columns) * depth * others * size / target.units)
    into_l1 = cold / per_core["gm"] + (read - cold) / per_core["l1"]
    into_l0 = rounds * depth * size * (t.turns * t.rows / per_core["l0a"] + t.width / per_core["l0b"])
    out = 4 * t.rows * t.columns / per_core["l0c"]
    # Panes of rows can leave while others are summed.
    single = 8 * t.rows * t.columns > target.memory["l0c"].size and "split" not in target.features
    exposed = out * (rounds * t.turns if single else 1)
    rate = into_l1 / max(1.0, read)
    first = (t.rows + t.columns) * min(depth, t.depth) * size * rate
    # The first of several turns brings the rows in, the others only columns.
    fetched = rounds * (t.rows + t.columns) * depth * size * rate
    every = max(products, into_l0)
    one = every * min(1.0, t.columns / t.width)
    return max(one, fetched) + max(every - one, into_l1 - fetched) + exposed + first


_PATHS = ("l0a", "l0b", "l0c", "l1", "gm")
