"""Reads of images at positions that are no whole numbers: the weights of neighbours, and what lies outside."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from tilewright.ir.symbolic import Expr, maximum
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import binary, cast, const, select, size_of, unary

#: Positions are cut off so far outside of an image: further than any kernel reaches, and no integer overflows.
_BEYOND = 8


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One position that takes part along a dimension: its index, which may lie outside, and its weight."""

    index: Value
    weight: Value


def neighbours(position: Value, size: Expr, mode: str, coefficient: float = -0.75) -> list[Neighbour]:
    """Those that ``nearest`` (of a whole ``position``), ``linear`` or ``cubic`` interpolation reads.

    ``coefficient`` is that of the cubic kernel (R. G. Keys, Cubic convolution interpolation, 1981).
    """
    near = within(position, size)
    if mode == "nearest":
        return [Neighbour(cast(near, DType.I64), const(1.0, position.dtype))]
    floor = unary("floor", near)
    ratio, base = binary("sub", near, floor), cast(floor, DType.I64)
    weights = linear(ratio) if mode == "linear" else cubic(ratio, coefficient)
    first = 0 if mode == "linear" else -1
    return [Neighbour(binary("add", base, first + n) if first + n else base, w) for n, w in enumerate(weights)]


def within(position: Value, size: Expr) -> Value:
    """``position``, at most a little outside of ``0 .. size - 1``, so that it fits an integer."""
    lowest = binary("max", position, float(-_BEYOND))
    return binary("min", lowest, size_of(size + _BEYOND, position.dtype))


def linear(ratio: Value) -> list[Value]:
    """Weights of the two neighbours of a position ``ratio`` after the first."""
    return [binary("sub", const(1.0, ratio.dtype), ratio), ratio]


def cubic(ratio: Value, coefficient: float) -> list[Value]:
    """Weights of the four neighbours of a position ``ratio`` after the second."""
    rest = binary("sub", const(1.0, ratio.dtype), ratio)
    far, near = binary("add", ratio, 1.0), binary("add", rest, 1.0)
    return [_outer(far, coefficient), _inner(ratio, coefficient), _inner(rest, coefficient), _outer(near, coefficient)]


def _inner(x: Value, a: float) -> Value:
    """The cubic kernel at distances up to 1: ``(a + 2) x³ - (a + 3) x² + 1``."""
    cubed = binary("sub", binary("mul", x, a + 2), a + 3)
    return binary("add", binary("mul", binary("mul", cubed, x), x), 1.0)


def _outer(x: Value, a: float) -> Value:
    """The cubic kernel at distances from 1 to 2: ``a x³ - 5 a x² + 8 a x - 4 a``."""
    squared = binary("sub", binary("mul", x, a), 5 * a)
    once = binary("add", binary("mul", squared, x), 8 * a)
    return binary("sub", binary("mul", once, x), 4 * a)


def kernel(distance: Value, mode: str, coefficient: float) -> Value:
    """The ``linear`` or ``cubic`` kernel at any distance from its middle."""
    x = unary("abs", distance)
    if mode == "linear":
        return binary("max", binary("sub", const(1.0, x.dtype), x), 0.0)
    outer = select(binary("lt", x, 2.0), _outer(x, coefficient), 0.0)
    return select(binary("le", x, 1.0), _inner(x, coefficient), outer)


def clamp(index: Value, size: Expr) -> Value:
    """An integer led back into ``0 .. size - 1``."""
    return binary("max", binary("min", index, IndexValue(size - 1)), 0)


def is_inside(index: Value, size: Expr) -> Value:
    """Whether an integer is within ``0 .. size - 1``."""
    return binary("and", binary("ge", index, 0), binary("lt", index, IndexValue(size)))


def reflected(index: Value, size: Expr, on_centres: bool) -> Value:
    """An integer reflected at the ends into ``0 .. size - 1``: at the centres of the last pixels, or at their edges."""
    period = maximum(1, 2 * (size - 1)) if on_centres else maximum(1, 2 * size)
    turn = binary("mod", index, IndexValue(period))
    back = binary("sub", IndexValue(period if on_centres else period - 1), turn)
    return binary("min", turn, back)


Read = Callable[[Sequence[Value]], Value]


def interpolated(axes: Sequence[Sequence[Neighbour]], read: Read, dtype: DType) -> Value:
    """The weighted sum over all combinations of neighbours; ``read`` gives the pixel at an index."""
    total: Value | None = None
    for chosen in itertools.product(*axes):
        pixel = cast(read([n.index for n in chosen]), dtype)
        weights = [n.weight for n in chosen]
        for n in weights:
            pixel = binary("mul", pixel, cast(n, dtype))
        total = pixel if total is None else binary("add", total, pixel)
    assert total is not None
    return total


def all_of(conditions: Sequence[Value]) -> Value:
    """Whether every one holds."""
    return reduce(lambda a, b: binary("and", a, b), conditions)
