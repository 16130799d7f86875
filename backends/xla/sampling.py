"""Images read at positions that are computed at run time: neighbours, their weights, and what lies outside.

Images are ``[N, C, *sizes]``; positions ``[N, *points]``, one value a dimension; what is read is ``[N, *points, C]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value, shape_of
from tilewright.backends.xla.dialect import stablehlo
from tilewright.ir.types import DType

#: Positions are cut off so far outside of an image: further than any kernel reaches, and no integer overflows.
_BEYOND = 8


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One position that takes part along a dimension: its index (``i32``, may lie outside), and its weight."""

    index: Value
    weight: Value | None


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Arithmetic with numbers on values of one type."""

    dtype: DType

    def number(self, number: float, like: Value) -> Value:
        """``number`` in every element."""
        return build.splat(number if self.dtype.is_float else int(number), self.dtype, shape_of(like))

    def add(self, x: Value, number: float) -> Value:
        """``x + number``."""
        return stablehlo().add(x, self.number(number, x))

    def mul(self, x: Value, number: float) -> Value:
        """``x · number``."""
        return stablehlo().multiply(x, self.number(number, x))

    def clamp(self, low: float, x: Value, high: float) -> Value:
        """``x`` within limits."""
        return stablehlo().clamp(self.number(low, x), x, self.number(high, x))

    def compare(self, x: Value, direction: str, number: float) -> Value:
        """Whether ``x`` stands in a relation to a number."""
        kind = "FLOAT" if self.dtype.is_float else "SIGNED"
        return build.compare(x, self.number(number, x), direction, kind)


def neighbours(position: Value, size: int, mode: str, dtype: DType, a: float = -0.75) -> list[Neighbour]:
    """Those that ``nearest`` (of a whole ``position``), ``linear`` or ``cubic`` interpolation reads.

    ``a`` is the coefficient of the cubic kernel (R. G. Keys, Cubic convolution interpolation, 1981).
    """
    hlo, on = stablehlo(), Arithmetic(dtype)
    near = on.clamp(-_BEYOND, position, size + _BEYOND)
    if mode == "nearest":
        return [Neighbour(build.convert(near, DType.I32), None)]
    floor = hlo.floor(near)
    ratio, base = hlo.subtract(near, floor), build.convert(floor, DType.I32)
    rest = on.add(on.mul(ratio, -1), 1)
    if mode == "linear":
        shares, first = [rest, ratio], 0
    else:
        shares, first = [_outer(on.add(ratio, 1), on, a), *(_inner(x, on, a) for x in (ratio, rest))], -1
        shares.append(_outer(on.add(rest, 1), on, a))
    return [Neighbour(Arithmetic(DType.I32).add(base, first + n), w) for n, w in enumerate(shares)]


def _inner(x: Value, on: Arithmetic, a: float) -> Value:
    """The cubic kernel at distances up to 1."""
    hlo = stablehlo()
    return on.add(hlo.multiply(hlo.multiply(on.add(on.mul(x, a + 2), -(a + 3)), x), x), 1)


def _outer(x: Value, on: Arithmetic, a: float) -> Value:
    """The cubic kernel at distances from 1 to 2."""
    hlo = stablehlo()
    once = on.add(hlo.multiply(on.add(on.mul(x, a), -5 * a), x), 8 * a)
    return on.add(hlo.multiply(once, x), -4 * a)


def read(image: Value, dtype: DType, indices: Sequence[Value], padding: str, corners: bool = False) -> Value:
    """Pixels (of type ``dtype``) at indices ``[N, *points]``: those outside are ``zeros``, those at the ``border``, or
    reflected."""
    hlo, sizes = stablehlo(), shape_of(image)[2:]
    on = Arithmetic(DType.I32)
    inside: Value | None = None
    places = []
    for index, size in zip(indices, sizes, strict=True):
        if padding == "zeros":
            here = hlo.and_(on.compare(index, "GE", 0), on.compare(index, "LT", size))
            inside = here if inside is None else hlo.and_(inside, here)
        place = _reflected(index, size, corners) if padding == "reflection" else index
        places.append(on.clamp(0, place, size - 1))
    batch = build.iota(DType.I32, shape_of(places[0]), 0)
    dims = [0, *range(2, 2 + len(sizes))]
    pixels = indexing.take_points(image, indexing.points([batch, *places]), dims)
    if inside is None:
        return pixels
    shape = shape_of(pixels)
    none = build.splat(0, dtype, shape)
    return hlo.select(build.broadcast(inside, shape, range(len(shape) - 1)), pixels, none)


def _reflected(index: Value, size: int, on_centres: bool) -> Value:
    """An index reflected at the ends: at the centres of the last pixels, or at their edges."""
    hlo, on = stablehlo(), Arithmetic(DType.I32)
    period = max(1, 2 * (size - 1)) if on_centres else max(1, 2 * size)
    whole = on.number(period, index)
    turn = hlo.remainder(hlo.add(hlo.remainder(index, whole), whole), whole)
    return hlo.minimum(turn, on.add(on.mul(turn, -1), period if on_centres else period - 1))


def interpolated(
    image: Value, axes: Sequence[Sequence[Neighbour]], padding: str, dtype: DType, corners: bool = False
) -> Value:
    """The weighted sum over all combinations of neighbours; the image and all weights are of type ``dtype``."""
    hlo = stablehlo()
    total: Value | None = None
    for chosen in itertools.product(*axes):
        pixel = read(image, dtype, [n.index for n in chosen], padding, corners)
        for weight in (n.weight for n in chosen if n.weight is not None):
            shape = shape_of(pixel)
            pixel = hlo.multiply(pixel, build.broadcast(weight, shape, range(len(shape) - 1)))
        total = pixel if total is None else hlo.add(total, pixel)
    assert total is not None
    return total


def channels_second(x: Value) -> Value:
    """``[N, *points, C]`` as ``[N, C, *points]``."""
    rank = len(shape_of(x))
    return build.transpose(x, [0, rank - 1, *range(1, rank - 1)])
