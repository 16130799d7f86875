"""Products with weights in groups as the cores compute them: scales go into the weights, and one sum is left.

    part[m, n, b] = sum(j, x[m, g·b + j] * f32(W[g·b + j, n]))
    acc[m, n] = sum(b, (part[m, n, b] - row[m, b] * f32(Z[b, n])) * f32(S[b, n]))
  →
    acc[m, n] = sum(k, x[m, k] * f32(T((f32(W[k, n]) - f32(Z[k // g, n])) * f32(S[k // g, n]))))

``T`` is the type of ``x``: weights are rounded to it, as DequantizeLinear of that type does. The cube unit has no
sums over groups that something multiplies before they are added.

Scales of whole columns go into the weights as well where there are more rows than the cube unit takes in one step:
sums then leave L0C as they are, where vector cores would have to scale each. For one row that would cost 9 % (11008 x
4096 in 8 bits on 910B1: 69,862 modelled cycles for 64,058), on a fused core, whose vector unit widens the weights and
takes every sum, 43 % (512 rows on 310P3: 664,662 for 463,380).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilewright.backends.ascend.placing.dequantized import dequantized
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import loads_of, refs_of, transform, used_symbols, walk
from tilewright.kernel.expr import Binary, Cast, IndexValue, Load, Ref, Value
from tilewright.kernel.tile import Axis, Define, Kernel, Reduction, Scan, Store
from tilewright.target import Target

#: Rows of one step of the cube unit.
_STEP = 16


@dataclass(frozen=True, slots=True)
class _Group:
    """What one definition sums: ``x`` times integers in groups along ``block`` and ``j``, of ``size`` each."""

    block: str
    j: str
    size: int
    x: Value
    integers: Value
    zero: Value | None
    scale: Value
    parts: frozenset[str]


def merged_groups(kernel: Kernel, target: Target) -> Kernel:
    """``kernel`` with every such sum written as one; parameters and stores stay as they are."""
    made = {d.tile: d for d in kernel.body if isinstance(d, Define)}
    for define in made.values():
        group = _group_of(kernel, define, made)
        if group is not None and (found := _merged(kernel, define, group)) is not None:
            return merged_groups(found, target)
    for define in made.values():
        if "split" in target.features and (whole := _scaled_columns(kernel, define)) is not None:
            return merged_groups(whole, target)
    return kernel


def _scaled_columns(kernel: Kernel, define: Define) -> Kernel | None:
    """``kernel`` with the scales of columns in the weights of ``define``; ``None`` where sums are used otherwise, or
    rows are few."""
    match define:
        case Define(value=Binary(op="mul", a=Cast(x=Load() as x) as left, b=integers), reduce=Reduction(op="sum")):
            pass
        case _:
            return None
    found = dequantized(integers)
    if found is None or found.scale is not None or x.dtype not in (DType.F16, DType.BF16):
        return None
    rows = [kernel.extent(a) for a in define.axes if a in used_symbols(left)]
    statements = [s for s in kernel.body if not isinstance(s, Scan)]
    if bounds(product(rows), dict(kernel.facts))[1] <= _STEP or len(statements) < len(kernel.body):
        return None
    scaled = {v for s in statements if s != define for v in walk(s.value) if _scales(v, define.tile, x.dtype)}
    if len(scaled) != 1:
        return None
    (whole,) = scaled
    assert isinstance(whole, Binary)
    weights = Cast(DType.F32, Cast(x.dtype, Binary("mul", integers, whole.b)))
    body: list[Define | Store] = []
    for s in statements:
        value: Value = Binary("mul", left, weights)
        if s != define:
            without = transform(s.value, lambda v: whole.b if v == whole else v)
            if any(r.tile == define.tile for r in refs_of(without)):
                return None
            value = transform(s.value, lambda v: whole.a if v == whole else v)
        body.append(Store(s.tensor, s.axes, s.index, value) if isinstance(s, Store) else replace(s, value=value))
    return replace(kernel, body=tuple(body))


def _scales(v: Value, tile: str, dtype: DType) -> bool:
    """Whether ``v`` is a sum times the scale of its column, of the type that weights are rounded to."""
    match v:
        case Binary(op="mul", a=Ref(tile=name), b=Cast(x=Load(dtype=kind, fill=None) as scale)):
            return name == tile and kind is dtype and len(scale.index) == 1
    return False


def _group_of(kernel: Kernel, define: Define, made: dict[str, Define]) -> _Group | None:
    """The groups that ``define`` sums over, where all that they are made of is used for nothing else."""
    match define:
        case Define(value=Binary(op="mul", a=inner, b=scale), reduce=Reduction(op="sum", axes=(block,))):
            pass
        case _:
            return None
    part: Ref
    zero: Value | None = None
    row: Ref | None = None
    match inner:
        case Binary(op="sub", a=Ref() as sums_of, b=Binary(op="mul", a=Ref() as rows, b=points)):
            part, row, zero = sums_of, rows, points
        case Ref() as sums_of:
            part = sums_of
        case _:
            return None
    sums = made.get(part.tile)
    match sums:
        case Define(value=Binary(op="mul", a=x, b=integers), reduce=Reduction(op="sum", axes=(j,))):
            pass
        case _:
            return None
    if row is not None and (row.tile not in made or made[row.tile].value != x or made[row.tile].reduce != sums.reduce):
        return None
    extent = kernel.extent(j)
    parts = frozenset(r.tile for r in (part, row) if r is not None)
    if not extent.is_constant or _read_elsewhere(kernel, parts, define) or not _is_matrix(integers):
        return None
    return _Group(block, j, extent.value, x, integers, zero, scale, parts)


def _is_matrix(integers: Value) -> bool:
    return isinstance(integers, Cast) and isinstance(integers.x, Load) and integers.x.dtype.is_integer


def _read_elsewhere(kernel: Kernel, tiles: frozenset[str], reader: Define) -> bool:
    for s in kernel.body:
        if isinstance(s, Scan):
            return True
        if s != reader and any(r.tile in tiles for r in refs_of(s.value)):
            return True
    return False


def _merged(kernel: Kernel, define: Define, g: _Group) -> Kernel | None:
    """``kernel`` with one sum over all groups; ``None`` where an index is of another form."""
    names = {a.name for a in kernel.axes} | {p.name for p in kernel.params} | {n for n, _ in kernel.facts}
    depth = "k"
    while depth in names:
        depth += "k"
    along = {g.j: symbol(depth) - g.size * symbol(g.block)}

    def whole(v: Value) -> Value:
        """``v`` along the new axis: the lane of a group goes first, so that it and the group's number cancel."""
        return transform(v, lambda x: _moved(_moved(x, along), {g.block: symbol(depth) // g.size}))

    x, integers, scale = whole(g.x), whole(g.integers), whole(g.scale)
    number = integers if g.zero is None else Binary("sub", integers, whole(g.zero))
    rounded: Value = Binary("mul", number, scale)
    if isinstance(x, Cast) and x.x.dtype in (DType.F16, DType.BF16):
        rounded = Cast(DType.F32, Cast(x.x.dtype, rounded))
    if symbol(depth) not in [i for load in loads_of(integers) for i in load.index]:
        return None
    new = replace(define, value=Binary("mul", x, rounded), reduce=Reduction("sum", (depth,)))
    if not used_symbols(new.value).isdisjoint({g.block, g.j}):
        return None
    body = tuple(new if s == define else s for s in kernel.body if not (isinstance(s, Define) and s.tile in g.parts))
    used = set().union(*(_axes(s) for s in body))
    axes = [a for a in kernel.axes if a.name not in (g.block, g.j) or a.name in used]
    return replace(kernel, axes=(*axes, Axis(depth, g.size * kernel.extent(g.block))), body=body)


def _moved(v: Value, by: dict[str, Expr]) -> Value:
    match v:
        case Load(index=index):
            return replace(v, index=tuple(i.substitute(by) if isinstance(i, Expr) else i for i in index))
        case IndexValue(index=i):
            return replace(v, index=i.substitute(by))
    return v


def _axes(s: Define | Store | Scan) -> set[str]:
    assert not isinstance(s, Scan)
    reduced = set(s.reduce.axes) if isinstance(s, Define) and s.reduce is not None else set()
    return {*s.axes, *reduced, *used_symbols(s.value)}
