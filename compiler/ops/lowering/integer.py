"""Products of dequantized tensors, computed on their integers.

``Σ (a - za)·sa · (b - zb)·sb`` is ``(Σ a·b - za·Σb - zb·Σa + K·za·zb) · sa·sb`` where scales and zero points do not
change along the sum. The sums are exact in 32 bits; what hangs on weights only is computed while compiling
(:mod:`tilewright.ops.hoist`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tilewright.ir.symbolic import ZERO, Expr
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Const, Value
from tilewright.ops.compose import Index, Operand, Quantized, binary, cast, const, select
from tilewright.ops.lower import Context

#: Terms of a sum of products of 8-bit integers that 32 bits hold for sure: 2^31 / (255 · 255).
MOST_TERMS = 33025

_BYTES = (DType.U8, DType.I8)


@dataclass(frozen=True, slots=True)
class Factor:
    """One side of a product: the integers, and scale and zero point of the element at an index (``zero`` is ``None``
    where it is 0 throughout)."""

    stored: Operand
    scale: Callable[[Sequence[Index]], Value]
    zero: Callable[[Sequence[Index]], Value] | None

    def integers(self) -> Operand:
        """The integers in 32 bits."""
        return Operand(TensorType(DType.I32, self.stored.type.shape), lambda i: cast(self.stored.at(i), DType.I32))


def factors(
    ctx: Context, a: Operand, b: Operand, summed: tuple[Collection[int], Collection[int]]
) -> tuple[Factor, Factor] | None:
    """Both sides of a product that sums over dimensions ``summed`` of them, where it can be computed on integers: both
    are dequantized 8-bit integers, the second one a constant, and no scale changes along the sum."""
    qa, qb = a.quantized, b.quantized
    if qa is None or qb is None or a.type.dtype is not DType.F32 or b.type.dtype is not DType.F32:
        return None
    if qa.stored.type.dtype not in _BYTES or qb.stored.type.dtype not in _BYTES:
        return None
    sizes = [qb.stored.type.shape[d] for d in summed[1]]
    if not all(n.is_constant for n in sizes) or math.prod(n.value for n in sizes) > MOST_TERMS:
        return None
    if not ctx.composer.is_weight(qb.stored):
        return None
    if not all(_is_even(q, axes) for q, axes in zip((qa, qb), summed, strict=True)):
        return None
    ctx.composer.integral = True
    return _factor(qa), _factor(_signed(qb))


def _is_even(q: Quantized, axes: Collection[int]) -> bool:
    """Whether scale and zero point are the same along ``axes``."""
    if q.block == 0:
        return q.axis not in axes
    return all(q.scale.type.shape[d] == 1 for d in axes)


def _factor(q: Quantized) -> Factor:
    zero = None if q.zero is None or q.zero.is_zero else q.zero
    return Factor(q.stored, lambda i: cast(_entry(q, q.scale, i), DType.F32), None if zero is None else _zero(q, zero))


def _zero(q: Quantized, zero: Operand) -> Callable[[Sequence[Index]], Value]:
    def at(index: Sequence[Index]) -> Value:
        value = _entry(q, zero, index)
        return const(value.value, DType.I32) if isinstance(value, Const) else cast(value, DType.I32)

    return at


def _entry(q: Quantized, parameter: Operand, index: Sequence[Index]) -> Value:
    """The element of a scale or zero point for the integer at ``index``."""
    if q.axis is None:
        return parameter.scalar()
    position = index[q.axis]
    if not q.block:
        return parameter.at((position,))
    assert isinstance(position, Expr)
    one = parameter.type.shape[q.axis] == 1
    return parameter.at((*index[: q.axis], 0 if one else position // q.block, *index[q.axis + 1 :]))


def _signed(q: Quantized) -> Quantized:
    """Weights as signed integers: unsigned ones are moved by 128, with their zero point."""
    if q.stored.type.dtype is DType.I8:
        return q
    moved = Operand(
        TensorType(DType.I8, q.stored.type.shape),
        lambda i: cast(binary("sub", cast(q.stored.at(i), DType.I32), 128), DType.I8),
    )
    known = None
    if q.zero is None:
        zero = Operand(TensorType(DType.I32, q.scale.type.shape), lambda i: const(-128, DType.I32))
        return Quantized(moved, q.scale, zero, q.axis, q.block)
    if q.zero.known is not None:
        known = q.zero.known.astype("int32") - 128
    zero = Operand(
        TensorType(DType.I32, q.zero.type.shape),
        lambda i: _less(q.zero.at(i)),  # type: ignore[union-attr]
        known=known,
    )
    return Quantized(moved, q.scale, zero, q.axis, q.block)


def _less(v: Value) -> Value:
    if isinstance(v, Const):
        return const(int(v.value) - 128, DType.I32)
    return binary("sub", cast(v, DType.I32), 128)


#: Index of an operand as a function of the position along the sum.
Place = Callable[[Sequence[Expr]], Sequence[Index]]


def scaled_product(
    ctx: Context, sides: tuple[Factor, Factor], places: tuple[Place, Place], over: Sequence[Expr], left: Value
) -> Value:
    """The sum over ``over`` of the products of both sides, as f32. ``places`` tell where each side is read, ``left`` is
    what the first one has there, as an integer of 32 bits."""
    (a, b), composer = sides, ctx.composer
    right = cast(b.stored.at(places[1](over)), DType.I32)
    summed = [k for k in over if not k.is_constant]

    def total(value: Value, hint: str) -> Value:
        return composer.reduce("sum", summed, value, hint) if summed else value

    start = [ZERO] * len(over)
    za = None if a.zero is None else a.zero(places[0](start))
    zb = None if b.zero is None else b.zero(places[1](start))
    value = total(binary("mul", left, right), "acc")
    if za is not None:
        value = binary("sub", value, binary("mul", total(right, "sum_b"), za))
    if zb is not None:
        value = binary("sub", value, binary("mul", total(left, "sum_a"), zb))
        if za is not None:
            terms = math.prod(composer.axes[str(k)].value for k in summed)
            value = binary("add", value, binary("mul", binary("mul", zb, za), terms))
    scale_a, scale_b = a.scale(places[0](start)), b.scale(places[1](start))
    if isinstance(scale_a, Const):  # a scale that a run computes is multiplied by itself: the other one is a constant
        return binary("mul", cast(value, DType.F32), binary("mul", scale_b, scale_a))
    return binary("mul", binary("mul", cast(value, DType.F32), scale_b), scale_a)


def padding(ctx: Context, side: Factor, place: Sequence[Index]) -> Value:
    """The integer at ``place`` in 32 bits; outside the tensor, its zero point, which stands for 0."""
    zero = None if side.zero is None else side.zero(place)
    if zero is None or isinstance(zero, Const):
        return cast(ctx.composer.padded(side.stored, place, 0 if zero is None else int(zero.value)), DType.I32)
    inside = ctx.composer.inside(place, side.stored.type.shape)
    value = cast(ctx.composer.padded(side.stored, place, 0), DType.I32)
    return value if inside is None else select(inside, value, zero)
