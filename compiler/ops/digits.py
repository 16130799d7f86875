"""Splitting axes into the digits that accesses use: ``K[h // 3, t]`` over 12 heads is ``K[g, t]`` over 4 groups of 3.

A quotient hides from a schedule that several positions read the same elements (key and value heads that query heads
share), and a remainder breaks the order of memory along the axis. With one axis a digit every index is linear again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, Operation, constant, symbol
from tilewright.kernel.expr import IndexValue, Load, Value
from tilewright.kernel.tile import Axis, Kernel, Scan, Store
from tilewright.ops.flatten import rewrite_axes, values_of
from tilewright.ops.simplify import simplify


def split_digits(kernel: Kernel) -> Kernel:
    """``kernel`` without quotients and remainders of single axes by constants that divide their extents."""
    while (found := _digit(kernel)) is not None:
        kernel = _split(kernel, *found)
    return kernel


def _digit(kernel: Kernel) -> tuple[str, int] | None:
    """An axis and a divisor of its extent by which some index divides it."""
    extents = {a.name: a.extent.value for a in kernel.axes if a.extent.is_constant}
    scanned = {s.axis for s in kernel.body if isinstance(s, Scan)}
    for index in _indices(kernel):
        for atom in index.atoms:
            if not isinstance(atom, Operation) or atom.op not in ("//", "%") or not atom.args[1].is_constant:
                continue
            name, divisor = str(atom.args[0]), atom.args[1].value
            if name in extents and name not in scanned and 1 < divisor < extents[name] and not extents[name] % divisor:
                return name, divisor
    return None


def _indices(kernel: Kernel) -> Iterator[Expr]:
    for s in kernel.body:
        if isinstance(s, Store):
            yield from (i for i in s.index if isinstance(i, Expr))
        for v in values_of(s):
            if isinstance(v, Load):
                yield from (i for i in v.index if isinstance(i, Expr))
            elif isinstance(v, IndexValue):
                yield v.index


def _split(kernel: Kernel, axis: str, divisor: int) -> Kernel:
    taken = {a.name for a in kernel.axes} | {p.name for p in kernel.params} | {n for n, _ in kernel.facts}
    high, low = (_fresh(f"{axis}_{part}", taken) for part in ("high", "low"))
    extent = kernel.extent(axis).value
    digits = (Axis(high, constant(extent // divisor)), Axis(low, constant(divisor)))
    number = {axis: symbol(high) * divisor + symbol(low)}
    ranges = {**dict(kernel.facts), high: Range(0, extent // divisor - 1), low: Range(0, divisor - 1)}

    def names(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(x for o in old for x in ((high, low) if o == axis else (o,)))

    def position(e: Expr) -> Expr:
        return simplify(e.substitute(number), ranges) if axis in e.symbols else e

    def index(_: str, old: tuple[Expr | Value, ...]) -> tuple[Expr | Value, ...]:
        return tuple(position(i) if isinstance(i, Expr) else i for i in old)

    axes = tuple(x for a in kernel.axes for x in (digits if a.name == axis else (a,)))
    body = tuple(rewrite_axes(s, names, index, position) for s in kernel.body)
    return replace(kernel, axes=axes, body=body)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
