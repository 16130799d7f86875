"""One name for kernels that differ in names only: what may share code, and the key of schedule records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.ir.symbolic import Expr, symbol
from tilewright.kernel.analysis import transform
from tilewright.kernel.expr import IndexValue, Load, Ref, Value
from tilewright.kernel.print import print_kernel
from tilewright.kernel.record import schedule_to_json
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Define, Kernel, Scan, Statement, Store


@dataclass(frozen=True, slots=True)
class Renaming:
    """New names by old name; what is not in a mapping keeps its name. ``symbols`` are dimensions and axes."""

    symbols: Mapping[str, str]
    params: Mapping[str, str]
    tiles: Mapping[str, str]


def canonical(kernel: Kernel) -> Kernel:
    """``kernel`` with names by position: equal for two kernels that differ in names only."""
    return rename(kernel, canonical_names(kernel))


def canonical_names(kernel: Kernel) -> Renaming:
    """The names that :func:`canonical` gives: ``p0 …`` parameters, ``d0 …`` dimensions, ``a0 …`` axes, ``t0 …`` tiles,
    each in order of first appearance (dimensions in parameters, then axes, then facts; those that stand alone in a size
    first, and two that never do in order of their names)."""
    dims: dict[str, str] = {}
    axes = {a.name: f"a{n}" for n, a in enumerate(kernel.axes)}

    def see(e: Expr) -> None:
        # Terms are in the order of their names; single symbols first make the numbering independent of it.
        for name in sorted(e.symbols, key=lambda s: (str(e) != s, s)):
            dims.setdefault(name, f"d{len(dims)}")

    for sizes in (*(p.shape for p in kernel.params), *((a.extent,) for a in kernel.axes)):
        for size in sizes:
            if len(size.symbols) == 1:
                see(size)
    for sizes in (*(p.shape for p in kernel.params), *((a.extent,) for a in kernel.axes)):
        for size in sizes:
            see(size)
    for name, _ in kernel.facts:
        dims.setdefault(name, f"d{len(dims)}")
    tiles: dict[str, str] = {}
    for s in kernel.body:
        for tile in _assigned(s):
            tiles.setdefault(tile, f"t{len(tiles)}")
    return Renaming({**dims, **axes}, {p.name: f"p{n}" for n, p in enumerate(kernel.params)}, tiles)


def _assigned(s: Statement) -> list[str]:
    match s:
        case Define(tile=tile):
            return [tile]
        case Scan(carries=carries, body=body):
            return [*(c.tile for c in carries), *(d.tile for d in body)]
    return []


def rename(kernel: Kernel, names: Renaming, name: str = "kernel") -> Kernel:
    """``kernel`` called ``name`` under new names. Facts are put in order of their new names."""
    values = {old: symbol(new) for old, new in names.symbols.items()}

    def size(e: Expr) -> Expr:
        return e.substitute(values)

    def axes(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.symbols.get(a, a) for a in old)

    def value(v: Value) -> Value:
        match v:
            case Load():
                index = tuple(size(i) if isinstance(i, Expr) else i for i in v.index)
                return replace(v, tensor=names.params.get(v.tensor, v.tensor), index=index)
            case Ref():
                return replace(v, tile=names.tiles.get(v.tile, v.tile), axes=axes(v.axes))
            case IndexValue():
                return replace(v, index=size(v.index))
        return v

    def define(d: Define) -> Define:
        reduce = d.reduce and replace(d.reduce, axes=axes(d.reduce.axes))
        return Define(names.tiles.get(d.tile, d.tile), axes(d.axes), transform(d.value, value), reduce)

    def statement(s: Statement) -> Statement:
        match s:
            case Define():
                return define(s)
            case Store():
                index = tuple(size(i) if isinstance(i, Expr) else transform(i, value) for i in s.index)
                tensor = names.params.get(s.tensor, s.tensor)
                return Store(tensor, axes(s.axes), index, transform(s.value, value))
            case Scan():
                carries = tuple(replace(c, tile=names.tiles[c.tile], axes=axes(c.axes)) for c in s.carries)
                yields = tuple((names.tiles[c], names.tiles[t]) for c, t in s.yields)
                return Scan(axes((s.axis,))[0], carries, tuple(map(define, s.body)), yields)

    params = tuple(
        replace(
            p,
            name=names.params.get(p.name, p.name),
            shape=tuple(map(size, p.shape)),
            alias=names.params.get(p.alias, p.alias) if p.alias is not None else None,
        )
        for p in kernel.params
    )
    facts = tuple(sorted(((names.symbols.get(n, n), r) for n, r in kernel.facts), key=lambda f: (len(f[0]), f[0])))
    renamed = tuple(replace(a, name=axes((a.name,))[0], extent=size(a.extent)) for a in kernel.axes)
    return Kernel(name, params, facts, renamed, tuple(map(statement, kernel.body)))


def rename_schedule(schedule: Schedule, names: Renaming) -> Schedule:
    """``schedule`` for the kernel under new names."""

    def axis(name: str) -> str:
        return names.symbols.get(name, name)

    def extra(name: str) -> str:
        what, of, name_of_axis = name.partition(":")  # whole:n, split:k
        return f"{what}:{axis(name_of_axis)}" if of else name

    return replace(
        schedule,
        loops=tuple(replace(x, axis=axis(x.axis)) for x in schedule.loops),
        reduce=tuple(replace(x, axis=axis(x.axis)) for x in schedule.reduce),
        stages=tuple(replace(s, tensor=names.params.get(s.tensor, s.tensor)) for s in schedule.stages),
        packs=tuple(replace(p, tensor=names.params.get(p.tensor, p.tensor)) for p in schedule.packs),
        spaces=tuple((names.tiles.get(t, t), space) for t, space in schedule.spaces),
        extra=tuple((extra(n), v) for n, v in schedule.extra),
    )


def fingerprint(what: Kernel | Scheduled) -> str:
    """SHA-256 of the canonical text of a kernel, and of the schedule's record for a scheduled one."""
    kernel = what if isinstance(what, Kernel) else what.kernel
    names = canonical_names(kernel)
    text = print_kernel(rename(kernel, names))
    if isinstance(what, Scheduled):
        text += schedule_to_json(rename_schedule(what.schedule, names))
    return hashlib.sha256(text.encode()).hexdigest()
