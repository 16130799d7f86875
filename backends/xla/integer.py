"""Products of dequantized tensors on their integers: scales outside, zero points as sums taken off.

    Σ s(x - a)·t(w - b) = s·t·(Σ x·w - a·Σ w - b·Σ x + K·a·b)

Unsigned bytes are moved by 128 first, with their zero point, so that products are of signed bytes, which is what matrix
units take. Sums of constant weights are computed here and written into the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.contract import Operand, accumulator, count, product
from tilewright.backends.xla.dialect import bindings, element_type, stablehlo
from tilewright.backends.xla.narrow import widened
from tilewright.backends.xla.rule import Quantized, Rule, Tensor
from tilewright.ir.graph import constant_array, is_constant
from tilewright.ir.types import DType, TensorType

#: Integers whose products are computed on signed bytes.
BYTES = frozenset((DType.I8, DType.U8, DType.I4, DType.U4, DType.I2, DType.U2))


@dataclass(frozen=True, slots=True)
class Signed:
    """A quantized tensor as signed bytes: ``value - zero`` are its integers.

    Attributes:
        value: of type i8.
        zero: i32, a scalar or a vector along ``axis``; ``None`` for 0.
        scale: f32, a scalar or a vector along ``axis``.
        axis: a dimension, or ``None`` where scale and zero are scalars.
        array: the elements where they are constant.
    """

    value: Tensor
    zero: Value | None
    scale: Value
    axis: int | None
    array: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None


def signed(quantized: Quantized) -> Signed:
    """A quantized tensor as signed bytes."""
    x, hlo = quantized.value, stablehlo()
    shift = 128 if x.dtype is DType.U8 else 0
    value = build.convert(widened(x), DType.I8)
    if shift:
        flipped = hlo.xor(x.value, build.splat(128, DType.U8, x.shape))
        bytes_ = bindings().RankedTensorType.get(list(x.shape), element_type(DType.I8))
        value = hlo.bitcast_convert(bytes_, flipped)
    zero = None
    if not is_zero(quantized.zero, shift):
        raw = build.splat(0, DType.I32) if quantized.zero is None else _vector(quantized.zero, quantized.axis)
        zero = build.convert(raw, DType.I32)
        if shift:
            zero = hlo.subtract(zero, build.splat(shift, DType.I32, build.shape_of(zero)))
    array = None
    if x.source is not None and is_constant(x.source):
        array = constant_array(x.source).astype(np.int64) - shift
    return Signed(
        Tensor(value, TensorType(DType.I8, x.type.shape)),
        zero,
        build.convert(_vector(quantized.scale, quantized.axis), DType.F32),
        quantized.axis,
        array,
    )


def is_zero(zero: Tensor | None, shift: int = 0) -> bool:
    """Whether a zero point is known to be ``shift``."""
    if zero is None:
        return shift == 0
    return zero.source is not None and is_constant(zero.source) and bool((constant_array(zero.source) == shift).all())


def _vector(parameter: Tensor, axis: int | None) -> Value:
    return build.reshape(widened(parameter), () if axis is None else parameter.shape)


def taken_as_integers(quantized: Quantized | None, forbidden: Sequence[int]) -> bool:
    """Whether products can be computed on the integers: bytes, with parameters that none of the ``forbidden``
    dimensions (those that are summed) has."""
    return (
        quantized is not None
        and quantized.value.dtype in BYTES
        and not quantized.block
        and quantized.axis not in forbidden
        and quantized.scale.dtype.is_float
    )


def integer_product(ctx: Rule, x: Operand, y: Operand, out: str) -> Value | None:
    """The product of two dequantized tensors in the type of the result; ``None`` where one is no such tensor."""
    p, q = x.tensor.quantized, y.tensor.quantized
    sums = [[d for d, label in enumerate(v.labels) if label not in out] for v in (x, y)]
    if p is None or q is None or not taken_as_integers(p, sums[0]) or not taken_as_integers(q, sums[1]):
        return None
    a, b, hlo = signed(p), signed(q), stablehlo()
    left, right = replace(x, tensor=a.value), replace(y, tensor=b.value)
    total = product(ctx, left, right, out, DType.I32)
    shape = build.shape_of(total)
    zeros = [None if s.zero is None else _spread(s.zero, s.axis, v, out, shape) for s, v in ((a, left), (b, right))]
    for zero, other, s, dims in ((zeros[0], right, b, sums[1]), (zeros[1], left, a, sums[0])):
        if zero is not None:
            total = hlo.subtract(total, hlo.multiply(zero, _sums(ctx, other, s, dims, out, shape)))
    if zeros[0] is not None and zeros[1] is not None:
        both = hlo.multiply(zeros[0], zeros[1])
        terms = build.broadcast(count(ctx, x.tensor, sums[0], DType.I32), shape, ())
        total = hlo.add(total, hlo.multiply(terms, both))
    return scaled(ctx, total, [(a, left.labels), (b, right.labels)], out)


def scaled(ctx: Rule, total: Value, sides: Sequence[tuple[Signed, str]], out: str) -> Value:
    """32-bit sums times both scales, in the type of the result."""
    hlo, shape = stablehlo(), build.shape_of(total)
    (a, left), (b, right) = sides
    if a.axis is None and b.axis is None:
        scale = build.broadcast(hlo.multiply(a.scale, b.scale), shape, ())
    elif a.axis is None or b.axis is None:
        one, (many, labels) = (a, (b, right)) if a.axis is None else (b, (a, left))
        vector = hlo.multiply(many.scale, build.broadcast(one.scale, build.shape_of(many.scale), ()))
        scale = _along(vector, many.axis, labels, out, shape)
    else:
        scale = hlo.multiply(*(_along(s.scale, s.axis, labels, out, shape) for s, labels in sides))
    return build.convert(hlo.multiply(build.convert(total, DType.F32), scale), ctx.type().dtype)


def _along(vector: Value, axis: int | None, labels: str, out: str, shape: Sequence[int]) -> Value:
    return build.broadcast(vector, shape, () if axis is None else [out.index(labels[axis])])


def _spread(zero: Value, axis: int | None, of: Operand, out: str, shape: Sequence[int]) -> Value:
    return _along(zero, axis, of.labels, out, shape)


def _sums(ctx: Rule, x: Operand, s: Signed, dims: Sequence[int], out: str, shape: Sequence[int]) -> Value:
    """Sums over ``dims``, spread over the result."""
    labels = [label for d, label in enumerate(x.labels) if d not in dims]
    if s.array is not None and not ctx.padded(x.tensor, dims):
        made = build.literal(s.array.sum(tuple(dims)).astype(np.int32), DType.I32)
    else:
        wide = build.convert(ctx.masked(s.value, dims, 0).value, DType.I32)
        made = build.reduce(wide, build.splat(0, DType.I32), dims, stablehlo().add)
    kept = [n for n, size in enumerate(build.shape_of(made)) if size != 1 or shape[out.index(labels[n])] == 1]
    made = build.reshape(made, [build.shape_of(made)[n] for n in kept])
    places = [out.index(labels[n]) for n in kept]
    order = sorted(range(len(places)), key=places.__getitem__)
    return build.broadcast(build.transpose(made, order), shape, [places[n] for n in order])


def with_scaled_weight(ctx: Rule, x: Operand, y: Operand, out: str) -> Value | None:
    """A float times a dequantized tensor: the product with its integers, which every float of 16 bits holds exactly,
    times the scale of each column. ``None`` where neither is such a tensor, or scales differ among what is summed."""
    for one, other in ((x, y), (y, x)):
        q = one.tensor.quantized
        dims = [d for d, label in enumerate(one.labels) if label not in out]
        if q is None or not taken_as_integers(q, dims) or q.value.source is None or not is_constant(q.value.source):
            continue
        dtype = other.tensor.dtype
        value = build.convert(widened(q.value), dtype)
        if not is_zero(q.zero):
            assert q.zero is not None
            zero = build.convert(_vector(q.zero, q.axis), dtype)
            placed = build.broadcast(zero, q.value.shape, () if q.axis is None else [q.axis])
            value = stablehlo().subtract(value, placed)
        exact = replace(one, tensor=Tensor(value, TensorType(dtype, q.value.type.shape)))
        wide = accumulator(dtype, ctx)
        made = product(ctx, exact, other, out, wide) if one is x else product(ctx, other, exact, out, wide)
        vector = build.convert(_vector(q.scale, q.axis), wide)
        scale = _along(vector, q.axis, one.labels, out, build.shape_of(made))
        return build.convert(stablehlo().multiply(made, scale), ctx.type().dtype)
    return None
