"""Where a pixel of a resized image lies in the original one, under every ``coordinate_transformation_mode``.

Along a dimension whose scale is a simple fraction positions are exact quotients of integers, so that reads keep a plain
index; otherwise they are floating-point numbers, computed as ONNX Runtime computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Union

from tilewright.ir.symbolic import Expr, constant
from tilewright.kernel.expr import Value
from tilewright.ops.compose import binary, const, select, size_of

#: Fractions of terms up to this are exact in f32, and so is what is computed from them for any size of an image.
SIMPLE = 64


@dataclass(frozen=True, slots=True)
class Exact:
    """The position ``numerator / denominator``."""

    numerator: Expr
    denominator: int


Position = Union[Exact, Value]


@dataclass(frozen=True, slots=True)
class Dimension:
    """One resized dimension.

    Attributes:
        axis: of the tensor.
        size: of the input; ``out`` of the output.
        taps: pixels that take part.
        ratio: the scale where it is known and simple.
        scale: the scale as a value, of the dtype of positions.
        length: the size of the output before it is rounded to an integer, likewise.
        roi: start and end of the region, for ``tf_crop_and_resize``.
    """

    axis: int
    size: Expr
    out: Expr
    taps: Expr
    ratio: Fraction | None
    scale: Value
    length: Value
    roi: tuple[Value, Value] | None

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes along it, whatever the mode."""
        return self.ratio == 1 and self.roi is None


def position(mode: str, i: Expr, d: Dimension) -> Position:
    """Where element ``i`` of the output lies in the input along ``d``."""
    exact = _exact(mode, i, d)
    return exact if exact is not None else _computed(mode, i, d)


def _exact(mode: str, i: Expr, d: Dimension) -> Exact | None:
    if d.ratio is None or max(d.ratio.numerator, d.ratio.denominator) > SIMPLE:
        return None
    a, b = d.ratio.numerator, d.ratio.denominator
    whole = (d.size * a) % b == 0
    if mode == "asymmetric":
        return Exact(i * b, a)
    if mode == "half_pixel" or (mode == "half_pixel_symmetric" and whole):
        return Exact((2 * i + 1) * b - a, 2 * a)
    if mode == "tf_half_pixel_for_nn":
        return Exact((2 * i + 1) * b, 2 * a)
    if mode == "pytorch_half_pixel" and d.out.is_constant:
        return Exact((2 * i + 1) * b - a, 2 * a) if d.out.value > 1 else Exact(constant(0), 1)
    if mode == "align_corners" and whole and d.out.is_constant:
        return Exact(i * (d.size - 1), max(1, d.out.value - 1))
    return None


def _computed(mode: str, i: Expr, d: Dimension) -> Value:
    dtype = d.scale.dtype
    at, last = size_of(i, dtype), size_of(d.size - 1, dtype)
    centre = binary("sub", binary("div", binary("add", at, 0.5), d.scale), 0.5)
    single = binary("eq", d.length, 1.0)
    steps = select(single, const(1.0, dtype), binary("sub", d.length, 1.0))
    match mode:
        case "asymmetric":
            return binary("div", at, d.scale)
        case "tf_half_pixel_for_nn":  # opsets 11 and 12
            return binary("div", binary("add", at, 0.5), d.scale)
        case "align_corners":
            return select(single, const(0.0, dtype), binary("div", binary("mul", at, last), steps))
        case "tf_crop_and_resize":
            assert d.roi is not None
            start, end = d.roi
            spread = binary("div", binary("mul", binary("mul", at, binary("sub", end, start)), last), steps)
            middle = binary("mul", binary("mul", binary("add", start, end), 0.5), last)
            return select(single, middle, binary("add", binary("mul", start, last), spread))
        case "pytorch_half_pixel":
            return select(binary("gt", size_of(d.out, dtype), 1.0), centre, 0.0)
        case "half_pixel_symmetric":
            rest = binary("sub", const(1.0, dtype), binary("div", size_of(d.out, dtype), d.length))
            return binary("add", binary("mul", binary("div", size_of(d.size, dtype), 2.0), rest), centre)
    return centre
