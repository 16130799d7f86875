"""Merging axes that memory does not tell apart: ``[B, S, 384]`` read and written as ``[B*S, 384]`` is one axis less.

Two axes merge when every access uses them as neighbouring dimensions ``[…, a, b, …]`` over their whole extents, or not
at all, and every tile has both or neither. Axes of extent 1 disappear.

The rows of a sum of products merge even where its own operand tells them apart, as a convolution's input does: a tile
of rows may then cross from one image row to the next, and ``a, b`` are read there as ``m // extent, m % extent``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol
from tilewright.kernel.analysis import as_product, gathered, loads_of, used_symbols, walk
from tilewright.kernel.expr import Binary, Cast, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.proof import at_most, inside
from tilewright.kernel.tile import Axis, Define, Kernel, Param, Scan, Statement, Store
from tilewright.ops.simplify import simplify


def flatten_axes(kernel: Kernel) -> Kernel:
    """``kernel`` with as few axes as its accesses allow."""
    kernel = _drop_unit_axes(kernel)
    if any(a.extent == 0 for a in kernel.axes):
        return kernel  # nothing is computed, and no index has digits of size 0
    while (merged := _merged_once(kernel)) is not None:
        kernel = merged
    return kernel


def _merged_once(kernel: Kernel) -> Kernel | None:
    """``kernel`` with two axes merged: if possible two that no access tells apart."""
    names = [a.name for a in kernel.axes if a.extent != ZERO]  # of an axis without elements nothing is a digit
    apart = _row_operands(kernel)
    for a in names:
        for b in names:
            if a != b and (places := _mergeable(kernel, a, b, frozenset())) is not None:
                merged = _merge(kernel, a, b, places)
                if at_most(ZERO, merged.extent(a), dict(kernel.facts)):
                    return merged
    for a in names:
        for b in names:
            exempt = frozenset(load for load, rows in apart if a in rows and b in rows)
            if a != b and exempt and (places := _mergeable(kernel, a, b, exempt)) is not None:
                merged = _merge(kernel, a, b, places)
                if _provable(merged, a):
                    return merged
    return None


def _row_operands(kernel: Kernel) -> list[tuple[Load, tuple[str, ...]]]:
    """The reads through which sums of products take their rows, with the axes of those rows."""
    found: list[tuple[Load, tuple[str, ...]]] = []
    for s in kernel.body:
        product = as_product(s) if isinstance(s, Define) else None
        if product is not None and product.n:
            found += [(load, product.m) for load in loads_of(product.a)]
    return found


def _provable(kernel: Kernel, axis: str) -> bool:
    """Whether what the verifier asks of a kernel can still be proved with ``axis`` merged."""
    facts, extents = dict(kernel.facts), {a.name: a.extent for a in kernel.axes}
    if not at_most(ZERO, kernel.extent(axis), facts):
        return False
    for load, _ in _row_operands(kernel):
        for i, size in zip(load.index, kernel.param(load.tensor).shape, strict=True):
            if load.fill is None and isinstance(i, Expr) and axis in i.symbols and not inside(i, size, extents, facts):
                return False
    return True


def name_axes(kernel: Kernel, hints: Sequence[str]) -> Kernel:
    """Name the axes of the (first) store after the last of ``hints``: rows and columns are ``m`` and ``n``."""
    axes = next((s.axes for s in kernel.body if isinstance(s, Store)), ())
    if len(axes) > len(hints):
        return kernel
    new = dict(zip(axes, hints[len(hints) - len(axes) :], strict=True))
    taken = {a.name for a in kernel.axes} - set(axes) | {n for n, _ in kernel.facts} | {p.name for p in kernel.params}
    if taken & set(new.values()):
        return kernel
    symbols = {old: symbol(name) for old, name in new.items()}

    def names(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new.get(x, x) for x in old)

    def index(_: str, old: tuple[Expr | Value, ...]) -> tuple[Expr | Value, ...]:
        return tuple(i.substitute(symbols) if isinstance(i, Expr) else i for i in old)

    renamed = tuple(Axis(new.get(a.name, a.name), a.extent) for a in kernel.axes)
    return replace(
        kernel,
        axes=renamed,
        body=tuple(rewrite_axes(s, names, index, lambda e: e.substitute(symbols)) for s in kernel.body),
    )


def values_of(s: Statement) -> Iterator[Value]:
    """Every value in a statement."""
    for d in s.body if isinstance(s, Scan) else (s,):
        yield from walk(d.value)
    for i in gathered(s.index) if isinstance(s, Store) else ():
        yield from walk(i)


def _accesses(kernel: Kernel) -> Iterator[Load | Store]:
    for s in kernel.body:
        if isinstance(s, Store):
            yield s
        yield from (v for v in values_of(s) if isinstance(v, Load))


def _axis_groups(kernel: Kernel) -> Iterator[tuple[str, ...]]:
    """Every list of axes in the kernel: tiles, references, reductions, carries."""
    for s in kernel.body:
        parts: tuple[Define | Store, ...] = s.body if isinstance(s, Scan) else (s,)
        if isinstance(s, Scan):
            yield (s.axis,)
            yield from (c.axes for c in s.carries)
        for part in parts:
            yield part.axes
            if isinstance(part, Define) and part.reduce:
                yield part.reduce.axes
            yield from (v.axes for v in walk(part.value) if isinstance(v, Ref))


def _mergeable(kernel: Kernel, a: str, b: str, exempt: frozenset[Load]) -> dict[str, int] | None:
    """Per tensor, the dimension where ``a, b`` stand as neighbours; ``None`` when the axes cannot merge. The reads in
    ``exempt`` may tell them apart, as long as they walk the two in the same order."""
    for group in _axis_groups(kernel):
        if (a in group) != (b in group):
            return None
        if a in group and group.index(b) != group.index(a) + 1:
            return None
    for s in kernel.body:
        if any(isinstance(v, IndexValue) and {a, b} & v.index.symbols for v in values_of(s)):
            return None
    places: dict[str, int] = {}
    seen: set[str] = set()
    for access in _accesses(kernel):
        place = _place(kernel, access, a, b)
        if place != -1 and access in exempt:
            if not _in_order(access.index, a, b):
                return None
            place = -1
        if place is None or (access.tensor in seen and places.get(access.tensor, -1) != place):
            return None
        seen.add(access.tensor)
        if place >= 0:
            places[access.tensor] = place
    return places if places else None


def _in_order(index: tuple[Expr | Value, ...], a: str, b: str) -> bool:
    """Whether ``a`` and then ``b`` index neighbouring dimensions."""
    names = [i.symbols if isinstance(i, Expr) else used_symbols(i) for i in index]
    of_a = [d for d, n in enumerate(names) if a in n]
    of_b = [d for d, n in enumerate(names) if b in n]
    both = of_a + of_b
    return bool(of_a and of_b) and both == list(range(both[0], both[0] + len(both)))


def _place(kernel: Kernel, access: Load | Store, a: str, b: str) -> int | None:
    """The dimension of ``a`` in an access, -1 when neither axis occurs, ``None`` when they are used otherwise."""
    # A gathered index is a value: the reads inside it are accesses of their own.
    names = [i.symbols if isinstance(i, Expr) else frozenset[str]() for i in access.index]
    if not any({a, b} & n for n in names):
        return -1
    shape = kernel.param(access.tensor).shape
    for d, (x, y) in enumerate(pairwise(access.index)):
        if isinstance(x, Expr) and isinstance(y, Expr) and str(x) == a and str(y) == b:
            whole = shape[d + 1] == kernel.extent(b) and shape[d] == kernel.extent(a)
            alone = not any({a, b} & n for i, n in enumerate(names) if i not in (d, d + 1))
            return d if whole and alone else None
    return None


def _merge(kernel: Kernel, a: str, b: str, places: dict[str, int]) -> Kernel:
    inner, extent = kernel.extent(b), kernel.extent(a) * kernel.extent(b)
    digits = {a: symbol(a) // inner, b: symbol(a) % inner}
    ranges = dict(kernel.facts) | {a: Range(0, max(0, bounds(extent, dict(kernel.facts))[1] - 1))}

    def names(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(x for x in axes if x != b)

    def index(tensor: str, old: tuple[Expr | Value, ...]) -> tuple[Expr | Value, ...]:
        d = places.get(tensor)
        if d is not None:
            return old[: d + 1] + old[d + 2 :]
        return tuple(simplify(i.substitute(digits), ranges) if isinstance(i, Expr) else i for i in old)

    sources = {p.alias: p.name for p in kernel.params}

    def param(p: Param) -> Param:
        d = places.get(p.name, places.get(sources.get(p.name, "")))
        return p if d is None else replace(p, shape=(*p.shape[:d], extent, *p.shape[d + 2 :]))

    axes = tuple(Axis(a, extent) if x.name == a else x for x in kernel.axes if x.name != b)
    body = tuple(rewrite_axes(s, names, index) for s in kernel.body)
    return replace(kernel, params=tuple(map(param, kernel.params)), axes=axes, body=body)


def _drop_unit_axes(kernel: Kernel) -> Kernel:
    units = {a.name: constant(0) for a in kernel.axes if a.extent == 1}
    units = {n: z for n, z in units.items() if not any(isinstance(s, Scan) and s.axis == n for s in kernel.body)}
    if not units:
        return kernel

    def names(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(x for x in axes if x not in units)

    def index(_: str, old: tuple[Expr | Value, ...]) -> tuple[Expr | Value, ...]:
        return tuple(i.substitute(units) if isinstance(i, Expr) else i for i in old)

    body = tuple(rewrite_axes(s, names, index, lambda e: e.substitute(units)) for s in kernel.body)
    return replace(kernel, axes=tuple(a for a in kernel.axes if a.name not in units), body=body)


Names = Callable[[tuple[str, ...]], tuple[str, ...]]
Reindex = Callable[[str, tuple[Expr | Value, ...]], tuple[Expr | Value, ...]]


def rewrite_axes(
    s: Statement, names: Names, index: Reindex, position: Callable[[Expr], Expr] | None = None
) -> Statement:
    """``s`` on other axes: ``names`` for lists of them, ``index`` for accesses, ``position`` for indices as values."""

    def value(v: Value) -> Value:
        match v:
            case Load():
                inner = tuple(i if isinstance(i, Expr) else value(i) for i in v.index)
                return replace(v, index=index(v.tensor, inner))
            case Ref():
                return replace(v, axes=names(v.axes))
            case IndexValue():
                return replace(v, index=position(v.index)) if position is not None else v
            case Unary() | Cast():
                return replace(v, x=value(v.x))
            case Binary():
                return replace(v, a=value(v.a), b=value(v.b))
            case Select():
                return replace(v, cond=value(v.cond), a=value(v.a), b=value(v.b))
        return v

    match s:
        case Store():
            entries = tuple(i if isinstance(i, Expr) else value(i) for i in s.index)
            return replace(s, axes=names(s.axes), index=index(s.tensor, entries), value=value(s.value))
        case Define():
            reduce = replace(s.reduce, axes=names(s.reduce.axes)) if s.reduce else None
            reduce = reduce if reduce and reduce.axes else None
            return replace(s, axes=names(s.axes), value=value(s.value), reduce=reduce)
        case Scan():
            carries = tuple(replace(c, axes=names(c.axes)) for c in s.carries)
            inner = tuple(rewrite_axes(d, names, index, position) for d in s.body)
            return replace(s, carries=carries, body=tuple(d for d in inner if isinstance(d, Define)))
