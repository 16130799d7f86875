"""Bytes of memory that a kernel touches, each tensor's touched elements once, as expressions over its dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tilewright.cost.kind import defines_of
from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, minimum, product
from tilewright.kernel.analysis import gathered, loads_of, used_symbols
from tilewright.kernel.expr import Load
from tilewright.kernel.tile import Kernel, Param, Store

Facts = Mapping[str, Range]


def bytes_read(kernel: Kernel, role: str) -> Expr:
    """Bytes read of the parameters of ``role`` (``in`` or ``const``).

    What one load touches of a dimension is at most the dimension, and at most the positions of the axes in its index;
    of a tensor at most the positions of all axes in its indices. Several loads of a tensor add up, to no more than the
    tensor. An upper bound of the union that is exact for whole tensors, slices, windows and gathered rows.
    """
    facts, extents = dict(kernel.facts), {a.name: a.extent for a in kernel.axes}
    loads = tuple(dict.fromkeys(_loads(kernel)))
    total = ZERO
    for param in kernel.params:
        if param.role == role:
            touched = [_touched(load, param, extents, facts) for load in loads if load.tensor == param.name]
            total = total + _bytes(param, smallest([sum(touched, ZERO), product(param.shape)], facts))
    return total


def bytes_written(kernel: Kernel) -> Expr:
    """Bytes stored: positions of one store are distinct elements, and two stores write different ones."""
    extents = {a.name: a.extent for a in kernel.axes}
    total = ZERO
    for store in kernel.body:
        if isinstance(store, Store):
            total = total + _bytes(kernel.param(store.tensor), product(extents[a] for a in store.axes))
    return total


def smallest(candidates: Iterable[Expr], facts: Facts) -> Expr:
    """The minimum of ``candidates``, without those that the bounds of their symbols show to be no smaller."""
    kept: list[Expr] = []
    for e in dict.fromkeys(candidates):
        if any(bounds(e - other, facts)[0] >= 0 for other in kept):
            continue
        kept = [other for other in kept if bounds(other - e, facts)[0] < 0]
        kept.append(e)
    return minimum(*kept)


def _loads(kernel: Kernel) -> Iterator[Load]:
    for define in defines_of(kernel):
        yield from loads_of(define.value)
    for store in kernel.body:
        if isinstance(store, Store):
            yield from loads_of(store.value)
            for index in gathered(store.index):  # where a scatter writes is read as well
                yield from loads_of(index)


def _touched(load: Load, param: Param, extents: Mapping[str, Expr], facts: Facts) -> Expr:
    """Elements of ``param`` that ``load`` reads."""
    sizes, seen, shared = [], set[str](), False
    for index, size in zip(load.index, param.shape, strict=True):
        axes = {n for n in (index.symbols if isinstance(index, Expr) else used_symbols(index)) if n in extents}
        shared |= bool(seen & axes)
        seen |= axes
        sizes.append(smallest([size, _positions(axes, extents)], facts))
    # Only where an axis stands in several indices are there fewer positions than the product of what each index takes.
    return smallest([product(sizes), _positions(seen, extents)], facts) if shared else product(sizes)


def _positions(axes: Iterable[str], extents: Mapping[str, Expr]) -> Expr:
    return product(extents[a] for a in sorted(axes)) if axes else constant(1)


def _bytes(param: Param, elements: Expr) -> Expr:
    return ceildiv(elements * param.dtype.bits, 8)
