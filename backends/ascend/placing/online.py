"""Attention with an online softmax, recognised: which axes, tensors and values of a kernel play which part in it.

    raw = sum(depth, Q * K);  s = score(raw);  p = exp(s - max so far);  acc = acc * shrink + p V;  result = acc / total

What is recognised is the scan that lowering makes of softmax(scores) V (Milakov and Gimelshein, Online normalizer
calculation for softmax, 2018), statement by statement; any other scan is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import as_product, offset_of, transform, used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, Load, Ref, Select, Unary, Value
from tilewright.kernel.tile import Define, Kernel, Scan, Store

#: What ``Schedule.extra`` says of a kernel that is placed as a pipeline: turns between a piece's weights and their
#: product.
PIPELINED = "pipelined"


@dataclass(frozen=True, slots=True)
class Online:
    """One attention kernel.

    Attributes:
        raw: the tile of the products of queries and keys.
        score: what the softmax is over, a value over ``raw`` and tensors.
        query, key, values: loads of the three operands.
        rows, keys, depth, columns: axes of the queries, of the scan, of the first sum, and of the result's last one.
        others: axes of the result that have one lane a block, outermost first.
        store: how the result is written.
        zero: whether a row without any weight gives 0.
    """

    raw: Ref
    score: Value
    query: Load
    key: Load
    values: Load
    rows: str
    keys: str
    depth: str
    columns: str
    others: tuple[str, ...]
    store: Store
    zero: bool

    @property
    def dtype(self) -> DType:
        """The element type of the operands of both products."""
        return self.query.dtype

    def offset(self, kernel: Kernel, load: Load | Store) -> Expr:
        """The element offset of a load, or of the result, over the axes."""
        index = tuple(i for i in load.index if isinstance(i, Expr))
        return offset_of(kernel.param(load.tensor), index)


def online_of(kernel: Kernel) -> Online | None:
    """``kernel`` as attention; ``None`` where any part of it is something else."""
    scans = [s for s in kernel.body if isinstance(s, Scan)]
    stores = [s for s in kernel.body if isinstance(s, Store)]
    if len(kernel.body) != 2 or len(scans) != 1 or len(stores) != 1:
        return None
    scan, store = scans[0], stores[0]
    made = {d.tile: d for d in scan.body}
    final = _final(store.value)
    if final is None:
        return None
    acc, total, zero = final
    yields = dict(scan.yields)
    top = next((c.tile for c in scan.carries if c.tile not in (acc.tile, total.tile)), None)
    starts = {c.tile: float(c.init.value) for c in scan.carries}
    if top is None or starts != {top: -math.inf, acc.tile: 0.0, total.tile: 0.0}:
        return None
    pv = _added(made, yields[acc.tile])
    part = _added(made, yields[total.tile])
    if pv is None or part is None or part.reduce is None or part.reduce.op != "sum":
        return None
    weights = _expanded(made, part.value)
    score = _score(made, weights, top)
    if score is None or not _steps_as_known(made, yields, (top, acc.tile, total.tile), score, scan.axis, (pv, part)):
        return None
    return _with_roles(kernel, made, scan, store, (pv, weights, score), zero)


def _final(value: Value) -> tuple[Ref, Ref, bool] | None:
    """The carries of the quotient that is stored, and whether an empty row gives 0."""
    inner = value.x if isinstance(value, Cast) else value
    zero = False
    match inner:
        case Select(cond=Binary(op="gt", a=Ref() as tested, b=Const(value=0)), a=a, b=Const(value=0)):
            inner, zero = a, True
            if not isinstance(a, Binary) or a.b != tested:
                return None
    match inner:
        case Binary(op="div", a=Ref() as acc, b=Ref() as total) if inner.dtype is DType.F32:
            return acc, total, zero
    return None


def _expanded(made: Mapping[str, Define], value: Value) -> Value:
    """``value`` with every tile that is no reduction replaced by what it is."""

    def step(v: Value) -> Value:
        if isinstance(v, Ref) and v.tile in made and made[v.tile].reduce is None:
            return _expanded(made, made[v.tile].value)
        return v

    return transform(value, step)


def _added(made: Mapping[str, Define], tile: str) -> Define | None:
    """The reduction that a carry's next value adds to the scaled one."""
    value = made[tile].value if tile in made else None
    if isinstance(value, Binary) and value.op == "add" and isinstance(value.b, Ref):
        found = made.get(value.b.tile)
        return found if found is not None and found.reduce is not None else None
    return None


def _score(made: Mapping[str, Define], weights: Value, top: str) -> Value | None:
    """What the softmax is over, from ``exp(score - base)``."""
    match weights:
        case Unary(op="exp", x=Binary(op="sub", a=score, b=Select())) if score.dtype is DType.F32:
            return score
    return None


def _steps_as_known(
    made: Mapping[str, Define],
    yields: Mapping[str, str],
    carries: tuple[str, str, str],
    score: Value,
    keys: str,
    sums: tuple[Define, Define],
) -> bool:
    """Whether maximum, weights, total and result go on from piece to piece as an online softmax does."""
    top, acc, total = carries
    highest = _expanded(made, made[yields[top]].value)
    if not isinstance(highest, Binary) or highest.op != "max" or not isinstance(highest.b, Ref):
        return False
    new = made.get(highest.b.tile)
    if new is None or new.reduce is None or new.reduce.op != "max" or new.reduce.axes != (keys,):
        return False
    if not isinstance(highest.a, Ref) or highest.a.tile != top or _expanded(made, new.value) != score:
        return False
    lowest, nothing = Const(-math.inf, DType.F32), Const(0.0, DType.F32)
    base = Select(Binary("eq", highest, lowest), nothing, highest)
    shrink = Unary("exp", Binary("sub", highest.a, base))
    pv, part = sums
    if _expanded(made, part.value) != Unary("exp", Binary("sub", score, base)):
        return False
    for carry, added in ((acc, pv), (total, part)):
        value = _expanded(made, made[yields[carry]].value)
        match value:
            case Binary(op="add", a=Binary(op="mul", a=Ref(tile=before), b=factor), b=Ref(tile=more)):
                if (before, factor, more) != (carry, shrink, added.tile):
                    return False
            case _:
                return False
        if added.reduce is None or added.reduce.op != "sum" or added.reduce.axes != (keys,):
            return False
    return True


def _with_roles(
    kernel: Kernel,
    made: Mapping[str, Define],
    scan: Scan,
    store: Store,
    parts: tuple[Define, Value, Value],
    zero: bool,
) -> Online | None:
    """Axes and operands; ``None`` where they do not lie in memory as two plain products want them."""
    pv, weights, score = parts
    product = pv.value
    match product:
        case Binary(op="mul", a=Cast(x=Cast(dtype=narrow, x=p)), b=Cast(x=Load() as values)):
            if _expanded(made, p) != weights or narrow != values.dtype:
                return None
        case _:
            return None
    raws = [d for d in made.values() if d.reduce is not None and as_product(d) is not None and d is not pv]
    if len(raws) != 1 or raws[0].reduce is None or len(raws[0].reduce.axes) != 1:
        return None
    raw, depth = raws[0], raws[0].reduce.axes[0]
    match raw.value:
        case Binary(op="mul", a=Cast(x=Load() as a), b=Cast(x=Load() as b)) if raw.value.dtype is DType.F32:
            query, key = (b, a) if scan.axis in used_symbols(a) else (a, b)
        case _:
            return None
    if {query.dtype, key.dtype, values.dtype} not in ({DType.F16}, {DType.BF16}) or raw.reduce is None:
        return None
    if any(x.fill is not None or not all(isinstance(i, Expr) for i in x.index) for x in (query, key, values)):
        return None
    if not all(isinstance(i, Expr) for i in store.index):
        return None
    own = [a for a in store.axes if a in used_symbols(query) and a not in used_symbols(key) | used_symbols(values)]
    columns = [a for a in store.axes if a in used_symbols(values) and a not in used_symbols(query)]
    columns = [a for a in columns if a not in used_symbols(key)]
    if not own or len(columns) != 1 or scan.axis in used_symbols(query):
        return None
    rows, column = own[-1], columns[0]
    others = tuple(a for a in store.axes if a not in (rows, column))
    ref = Ref(raw.tile, raw.axes, DType.F32)
    found = Online(ref, score, query, key, values, rows, scan.axis, depth, column, others, store, zero)
    return found if _lies_well(kernel, found) else None


def _lies_well(kernel: Kernel, o: Online) -> bool:
    """Whether each operand's last axis is contiguous and its other one goes in equal steps."""
    for load, near, far in (
        (o.query, o.depth, o.rows),
        (o.key, o.depth, o.keys),
        (o.values, o.columns, o.keys),
        (o.store, o.columns, o.rows),
    ):
        flat = o.offset(kernel, load)
        try:
            if flat.coefficient(near) != 1:
                return False
            flat.coefficient(far)
        except ValueError:
            return False
    return all(kernel.extent(a).is_constant for a in (o.depth, o.columns))
