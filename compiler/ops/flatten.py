"""Merging axes that memory does not tell apart: ``[B, S, 384]`` read and written as ``[B*S, 384]`` is one axis less.

Two axes merge when every access uses them as neighbouring dimensions ``[…, a, b, …]`` over their whole extents, or not
at all, and every tile has both or neither. Axes of extent 1 disappear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.kernel.analysis import gathered, walk
from tilewright.kernel.expr import Binary, Cast, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.tile import Axis, Define, Kernel, Param, Scan, Statement, Store


def flatten_axes(kernel: Kernel) -> Kernel:
    """``kernel`` with as few axes as its accesses allow."""
    kernel = _drop_unit_axes(kernel)
    merged = True
    while merged:
        merged = False
        names = [a.name for a in kernel.axes]
        for a in names:
            for b in names:
                if a != b and (places := _mergeable(kernel, a, b)) is not None:
                    kernel, merged = _merge(kernel, a, b, places), True
                    break
            if merged:
                break
    return kernel


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
    return replace(kernel, axes=renamed, body=tuple(_rewrite(s, names, index, symbols) for s in kernel.body))


def values_of(s: Statement) -> Iterator[Value]:
    """Every value in a statement."""
    for d in s.body if isinstance(s, Scan) else (s,):
        yield from walk(d.value)
    for i in gathered(s.index) if isinstance(s, Store) else ():
        yield from walk(i)


@dataclass(frozen=True, slots=True)
class _Access:
    tensor: str
    index: tuple[Expr | Value, ...]


def _accesses(kernel: Kernel) -> Iterator[_Access]:
    for s in kernel.body:
        if isinstance(s, Store):
            yield _Access(s.tensor, s.index)
        for v in values_of(s):
            if isinstance(v, Load):
                yield _Access(v.tensor, v.index)


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


def _mergeable(kernel: Kernel, a: str, b: str) -> dict[str, int] | None:
    """Per tensor, the dimension where ``a, b`` stand as neighbours; ``None`` when the axes cannot merge."""
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
        if place is None or (access.tensor in seen and places.get(access.tensor, -1) != place):
            return None
        seen.add(access.tensor)
        if place >= 0:
            places[access.tensor] = place
    return places if places else None


def _place(kernel: Kernel, access: _Access, a: str, b: str) -> int | None:
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
    extent = kernel.extent(a) * kernel.extent(b)

    def names(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(x for x in axes if x != b)

    def index(tensor: str, old: tuple[Expr | Value, ...]) -> tuple[Expr | Value, ...]:
        d = places.get(tensor)
        return old if d is None else old[: d + 1] + old[d + 2 :]

    sources = {p.alias: p.name for p in kernel.params}

    def param(p: Param) -> Param:
        d = places.get(p.name, places.get(sources.get(p.name, "")))
        return p if d is None else replace(p, shape=(*p.shape[:d], extent, *p.shape[d + 2 :]))

    axes = tuple(Axis(a, extent) if x.name == a else x for x in kernel.axes if x.name != b)
    body = tuple(_rewrite(s, names, index) for s in kernel.body)
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

    body = tuple(_rewrite(s, names, index, units) for s in kernel.body)
    return replace(kernel, axes=tuple(a for a in kernel.axes if a.name not in units), body=body)


Names = Callable[[tuple[str, ...]], tuple[str, ...]]
Reindex = Callable[[str, tuple[Expr | Value, ...]], tuple[Expr | Value, ...]]


def _rewrite(s: Statement, names: Names, index: Reindex, units: Mapping[str, Expr] | None = None) -> Statement:
    """``s`` with axes renamed or dropped; ``units`` replaces axes inside the values of indices."""

    def value(v: Value) -> Value:
        match v:
            case Load():
                inner = tuple(i if isinstance(i, Expr) else value(i) for i in v.index)
                return replace(v, index=index(v.tensor, inner))
            case Ref():
                return replace(v, axes=names(v.axes))
            case IndexValue():
                return replace(v, index=v.index.substitute(units or {}))
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
            inner = tuple(_rewrite(d, names, index, units) for d in s.body)
            return replace(s, carries=carries, body=tuple(d for d in inner if isinstance(d, Define)))
