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
class Parameter:
    """Scales or zero points: a value, and which dimensions of the quantized tensor its own are."""

    value: Value
    dims: tuple[int, ...]

    def over(self, labels: str, out: str, shape: Sequence[int]) -> Value:
        """Repeated over a result with labels ``out``; ``labels`` are those of the quantized tensor."""
        return spread(self.value, [out.index(labels[d]) for d in self.dims], shape)


@dataclass(frozen=True, slots=True)
class Signed:
    """A quantized tensor as signed bytes: ``value - zero`` are its integers.

    Attributes:
        value: of type i8.
        zero: i32; ``None`` for 0.
        scale: f32.
        array: the elements where they are constant.
    """

    value: Tensor
    zero: Parameter | None
    scale: Parameter
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
        found = Parameter(build.splat(0, DType.I32), ())
        if quantized.zero is not None:
            found = _required(parameter(quantized, quantized.zero))
        moved = build.convert(found.value, DType.I32)
        if shift:
            moved = hlo.subtract(moved, build.splat(shift, DType.I32, build.shape_of(moved)))
        zero = replace(found, value=moved)
    array = None
    if x.source is not None and is_constant(x.source):
        array = constant_array(x.source).astype(np.int64) - shift
    scale = _required(parameter(quantized, quantized.scale))
    return Signed(
        Tensor(value, TensorType(DType.I8, x.type.shape)),
        zero,
        replace(scale, value=build.convert(scale.value, DType.F32)),
        array,
    )


def is_zero(zero: Tensor | None, shift: int = 0) -> bool:
    """Whether a zero point is known to be ``shift``."""
    if zero is None:
        return shift == 0
    return zero.source is not None and is_constant(zero.source) and bool((constant_array(zero.source) == shift).all())


def parameter(quantized: Quantized, of: Tensor) -> Parameter | None:
    """The scales or zero points of a tensor; ``None`` where several blocks of a dimension have their own."""
    axis, value = quantized.axis, widened(of)
    if axis is None or of.rank == 0 or (of.rank == 1 and of.shape[0] == 1):
        return Parameter(build.reshape(value, ()), ())
    if not quantized.block:
        return Parameter(value, (axis,))
    if of.shape[axis] != 1:
        return None
    dims = tuple(d for d in range(of.rank) if d != axis)  # one block: a scale for each row
    return Parameter(build.reshape(value, [of.shape[d] for d in dims]), dims)


def _required(found: Parameter | None) -> Parameter:
    assert found is not None  # as taken_as_integers said
    return found


def taken_as_integers(quantized: Quantized | None, forbidden: Sequence[int]) -> bool:
    """Whether products can be computed on the integers: bytes, with parameters that none of the ``forbidden``
    dimensions (those that are summed) has."""
    if quantized is None or quantized.value.dtype not in BYTES:
        return False
    given = [p for p in (quantized.scale, quantized.zero) if p is not None]
    found = [parameter(quantized, p) for p in given]
    return all(p is not None and not set(p.dims) & set(forbidden) for p in found)


def spread(value: Value, places: Sequence[int], shape: Sequence[int]) -> Value:
    """Dimension ``n`` of a value becomes ``places[n]`` of ``shape``; those of size 1 are repeated."""
    own = build.shape_of(value)
    kept = [n for n, size in enumerate(own) if size != 1 or shape[places[n]] == 1]
    order = sorted(range(len(kept)), key=lambda n: places[kept[n]])
    value = build.transpose(build.reshape(value, [own[n] for n in kept]), order)
    return build.broadcast(value, shape, [places[kept[n]] for n in order])


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
    zeros = [None if s.zero is None else s.zero.over(v.labels, out, shape) for s, v in ((a, x), (b, y))]
    for zero, other, s, dims in ((zeros[0], y, b, sums[1]), (zeros[1], x, a, sums[0])):
        if zero is not None:
            total = hlo.subtract(total, hlo.multiply(zero, _sums(ctx, other, s, dims, out, shape)))
    if zeros[0] is not None and zeros[1] is not None:
        both = hlo.multiply(zeros[0], zeros[1])
        terms = build.broadcast(count(ctx, x.tensor, sums[0], DType.I32), shape, ())
        total = hlo.add(total, hlo.multiply(terms, both))
    return scaled(ctx, total, [(a, x.labels), (b, y.labels)], out)


def scaled(ctx: Rule, total: Value, sides: Sequence[tuple[Signed, str]], out: str) -> Value:
    """32-bit sums times both scales, in the type of the result."""
    hlo, shape = stablehlo(), build.shape_of(total)
    (one, _), (many, labels) = sorted(sides, key=lambda side: len(side[0].scale.dims))
    if one.scale.dims:
        factors = [s.scale.over(labels, out, shape) for s, labels in sides]
        scale = hlo.multiply(*factors)
    else:
        repeated = build.broadcast(one.scale.value, build.shape_of(many.scale.value), ())
        scale = replace(many.scale, value=hlo.multiply(many.scale.value, repeated)).over(labels, out, shape)
    return build.convert(hlo.multiply(build.convert(total, DType.F32), scale), ctx.type().dtype)


def _sums(ctx: Rule, x: Operand, s: Signed, dims: Sequence[int], out: str, shape: Sequence[int]) -> Value:
    """Sums over ``dims``, spread over the result."""
    if s.array is not None and not ctx.padded(x.tensor, dims):
        made = build.literal(s.array.sum(tuple(dims)).astype(np.int32), DType.I32)
    else:
        wide = build.convert(ctx.masked(s.value, dims, 0).value, DType.I32)
        made = build.reduce(wide, build.splat(0, DType.I32), dims, stablehlo().add)
    return spread(made, [out.index(label) for d, label in enumerate(x.labels) if d not in dims], shape)


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
            zero = _required(parameter(q, q.zero))
            placed = spread(build.convert(zero.value, dtype), zero.dims, q.value.shape)
            value = stablehlo().subtract(value, placed)
        exact = replace(one, tensor=Tensor(value, TensorType(dtype, q.value.type.shape)))
        wide = accumulator(dtype, ctx)
        made = product(ctx, exact, other, out, wide) if one is x else product(ctx, other, exact, out, wide)
        scale = _required(parameter(q, q.scale))
        factor = replace(scale, value=build.convert(scale.value, wide)).over(one.labels, out, build.shape_of(made))
        return build.convert(stablehlo().multiply(made, factor), ctx.type().dtype)
    return None
