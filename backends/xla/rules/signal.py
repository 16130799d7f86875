"""Spectra and filter banks, determinants, and n-grams. Complex numbers are pairs along the last axis."""

from __future__ import annotations

import numpy as np
from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value, shape_of
from tilewright.backends.xla.dialect import bindings, element_type, stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.sampling import Arithmetic
from tilewright.ir.types import DType
from tilewright.ops.ngrams import NGrams

#: Comparisons of n-grams with places in a row, at most.
_MOST_COMPARED = 2**24


@rule("DFT", padding=Padding.NONE)
def dft(ctx: Rule) -> Tensor:
    """The transform of one axis, whose signal is cut or filled with zeros to ``dft_length``."""
    x = ctx.input(0)
    inverse, onesided = bool(ctx.attribute("inverse", 0)), bool(ctx.attribute("onesided", 0))
    axis = _axis(ctx, x.rank)
    out = ctx.shape()
    if 0 in (*out, *x.shape):
        raise ctx.unsupported("there is nothing to transform")
    if ctx.has(1):
        (length,) = ctx.integers(1)
    elif onesided and inverse:
        length = 2 * (x.shape[axis] - 1)
    else:
        length = x.shape[axis]
    dtype = DType.F32 if x.dtype.bits < 32 else x.dtype
    # The axis goes last, in front of the parts of complex numbers.
    order = [d for d in range(x.rank - 1) if d != axis]
    value = build.transpose(build.convert(x.value, dtype), [*order, axis, x.rank - 1])
    value = _sized(value, x.rank - 2, length // 2 + 1 if onesided and inverse else length, dtype)
    made = transformed(value, length, inverse, onesided, dtype)
    back = [*range(axis), x.rank - 2, *range(axis, x.rank - 2), x.rank - 1]
    return ctx.result(build.convert(build.transpose(made, back), x.dtype))


def _axis(ctx: Rule, rank: int) -> int:
    if ctx.has(2):
        (axis,) = ctx.integers(2)
    else:
        axis = int(ctx.attribute("axis", 1 if ctx.model.opset_imports.get("", 20) < 20 else -2))
    return axis % rank


def _sized(x: Value, dim: int, size: int, dtype: DType) -> Value:
    """``x`` cut off, or with zeros after it."""
    shape = shape_of(x)
    x = indexing.cut_dim(x, dim, 0, min(size, shape[dim]))
    missing = [size - s if d == dim else 0 for d, s in enumerate(shape_of(x))]
    if not any(missing):
        return x
    none = [0] * len(shape)
    return stablehlo().pad(x, build.splat(0, dtype), none, missing, none)


def transformed(x: Value, length: int, inverse: bool, onesided: bool, dtype: DType) -> Value:
    """``[…, n, 1 or 2]`` to its spectrum along the last axis but one.

    The second half of a real signal's spectrum mirrors the first.
    """
    hlo, shape = stablehlo(), shape_of(x)
    if shape[-1] == 1 and not inverse:
        half = _pairs(_fft("RFFT", _part(x, 0), length // 2 + 1, length, dtype))
        if onesided:
            return half
        dim = len(shape) - 2
        mirrored = hlo.reverse(indexing.cut_dim(half, dim, 1, (length + 1) // 2), [dim])
        signs = build.literal(np.array([1, -1]), dtype)
        mirrored = hlo.multiply(mirrored, build.broadcast(signs, shape_of(mirrored), [dim + 1]))
        return hlo.concatenate([half, mirrored], dim)
    other = _part(x, 1) if shape[-1] == 2 else build.splat(0, dtype, shape[:-1])
    given = hlo.complex(_part(x, 0), other)
    if onesided and inverse:
        return build.reshape(_fft("IRFFT", given, length, length, dtype), (*shape[:-2], length, 1))
    return _pairs(_fft("IFFT" if inverse else "FFT", given, length, length, dtype))


def _fft(kind: str, x: Value, found: int, length: int, dtype: DType) -> Value:
    hlo, mlir = stablehlo(), bindings()
    element = element_type(dtype) if kind == "IRFFT" else mlir.ComplexType.get(element_type(dtype))
    type_ = mlir.RankedTensorType.get([*shape_of(x)[:-1], found], element)
    return hlo.FftOp(x, hlo.FftTypeAttr.get(kind), [length], results=[type_]).results[0]


def _pairs(x: Value) -> Value:
    """Complex numbers as pairs of numbers."""
    hlo, shape = stablehlo(), shape_of(x)
    return hlo.concatenate([build.reshape(part(x), (*shape, 1)) for part in (hlo.real, hlo.imag)], len(shape))


def _part(x: Value, n: int) -> Value:
    shape = shape_of(x)
    return build.reshape(indexing.cut_dim(x, len(shape) - 1, n, n + 1), shape[:-1])


@rule("STFT", padding=Padding.NONE)
def stft(ctx: Rule) -> Tensor:
    """``[batch, frames, bins, 2]``: each frame times the window, transformed."""
    x = ctx.input(0)
    (step,) = ctx.integers(1)
    length = ctx.integers(3)[0] if ctx.has(3) else ctx.input(2).shape[0] if ctx.has(2) else x.shape[1]
    frames, bins = ctx.shape()[1:3]
    if 0 in (*ctx.shape(), *x.shape):
        return ctx.result(build.splat(0, x.dtype, ctx.shape()))
    dtype = DType.F32 if x.dtype.bits < 32 else x.dtype
    value = build.convert(x.value, dtype)
    value = build.reshape(value, (*x.shape, 1)) if x.rank == 2 else value
    places = np.arange(frames)[:, None] * step + np.arange(length)
    value = indexing.take(value, build.literal(places, DType.I32), 1)
    if ctx.has(2):
        window = build.convert(ctx.input(2).value, dtype)
        value = stablehlo().multiply(value, build.broadcast(window, shape_of(value), [2]))
    onesided = bool(ctx.attribute("onesided", 1)) and shape_of(value)[-1] == 1
    made = transformed(value, length, False, onesided, dtype)
    return ctx.result(build.convert(indexing.cut_dim(made, 2, 0, bins), x.dtype))


@rule("MelWeightMatrix", padding=Padding.NONE)
def mel_weight_matrix(ctx: Rule) -> Tensor:
    """Triangles between bins that are spaced evenly on the mel scale (HTK's: ``2595 · log10(1 + f / 700)``)."""
    hlo, type_ = stablehlo(), ctx.type()
    rows, bins = ctx.shape()
    (length,) = ctx.integers(1)
    if 0 in (rows, bins):
        return ctx.result(build.splat(0, type_.dtype, (rows, bins)))
    on, dtype = Arithmetic(DType.F64), DType.F64
    rate, low, high = (build.convert(build.reshape(ctx.input(i).value, ()), dtype) for i in (2, 3, 4))

    def mel(hertz: Value) -> Value:
        return on.mul(hlo.log(on.add(on.mul(hertz, 1 / 700), 1)), 2595 / float(np.log(10)))

    start, end = mel(low), mel(high)
    step = on.mul(hlo.subtract(end, start), 1 / (bins + 2))
    shape = (bins + 2,)
    at = hlo.add(
        hlo.multiply(build.iota(dtype, shape, 0), build.broadcast(step, shape, ())), build.broadcast(start, shape, ())
    )
    hertz = on.mul(on.add(hlo.exponential(on.mul(at, float(np.log(10)) / 2595)), -1), 700)
    places = hlo.floor(hlo.divide(on.mul(hertz, length + 1), build.broadcast(rate, shape, ())))
    first, middle, last = (
        build.broadcast(indexing.cut_dim(places, 0, n, n + bins), (rows, bins), [1]) for n in range(3)
    )
    row = build.iota(dtype, (rows, bins), 0)

    def share(above: Value, below: Value) -> Value:
        return hlo.divide(above, hlo.maximum(below, on.number(1, below)))

    rising = share(hlo.subtract(row, first), hlo.subtract(middle, first))
    rising = hlo.select(build.compare(first, middle, "EQ", "FLOAT"), on.number(1, row), rising)
    falling = share(hlo.subtract(last, row), hlo.subtract(last, middle))
    up = hlo.and_(build.compare(row, first, "GE", "FLOAT"), build.compare(row, middle, "LE", "FLOAT"))
    down = hlo.and_(build.compare(row, middle, "GT", "FLOAT"), build.compare(row, last, "LT", "FLOAT"))
    none = on.number(0, row)
    return ctx.result(build.convert(hlo.select(down, falling, hlo.select(up, rising, none)), type_.dtype))


@rule("Det", padding=Padding.NONE)
def determinant(ctx: Rule) -> Tensor:
    """Elimination with the largest pivot of each column."""
    hlo, x = stablehlo(), ctx.input(0)
    size = x.shape[-1]
    if 0 in x.shape:
        return ctx.result(build.splat(1, x.dtype, ctx.shape()))
    dtype = DType.F32 if x.dtype.bits < 32 else x.dtype
    on, whole = Arithmetic(dtype), Arithmetic(DType.I32)
    batch = int(np.prod(x.shape[:-2]))
    lines = (batch, size)

    def body(turn: Value, carried: list[Value]) -> list[Value]:
        matrix, product = carried
        zero = build.splat(0, DType.I32)
        at = build.broadcast(turn, lines, ())
        row = build.iota(DType.I32, lines, 1)
        column = build.reshape(hlo.dynamic_slice(matrix, [zero, zero, turn], [batch, size, 1]), lines)
        left = build.compare(row, at, "GE", "SIGNED")
        sizes = hlo.select(left, hlo.abs(column), on.number(-1, column))
        largest = build.broadcast(build.reduce(sizes, build.splat(-1, dtype), [1], hlo.maximum), lines, [0])
        # The first of the largest; a NaN is never found, and the last row is taken.
        found = hlo.select(build.compare(sizes, largest, "EQ", "FLOAT"), row, whole.number(size - 1, row))
        pivot = build.reduce(found, build.splat(size - 1, DType.I32), [1], hlo.minimum)
        spread = build.broadcast(pivot, lines, [0])
        places = hlo.select(build.compare(row, at, "EQ", "SIGNED"), spread, row)
        places = hlo.select(build.compare(row, spread, "EQ", "SIGNED"), at, places)
        matrix = indexing.take_points(matrix, indexing.points([build.iota(DType.I32, lines, 0), places]), [0, 1])
        own = build.reshape(hlo.dynamic_slice(matrix, [zero, turn, zero], [batch, 1, size]), lines)
        head = build.reshape(hlo.dynamic_slice(own, [zero, turn], [batch, 1]), (batch,))
        column = build.reshape(hlo.dynamic_slice(matrix, [zero, zero, turn], [batch, size, 1]), lines)
        factor = hlo.divide(column, build.broadcast(head, lines, [0]))
        used = hlo.and_(build.compare(row, at, "GT", "SIGNED"), on.compare(build.broadcast(head, lines, [0]), "NE", 0))
        factor = hlo.select(used, factor, on.number(0, factor))
        full = (batch, size, size)
        away = hlo.multiply(build.broadcast(factor, full, [0, 1]), build.broadcast(own, full, [0, 2]))
        same = build.compare(pivot, build.broadcast(turn, (batch,), ()), "EQ", "SIGNED")
        signed = hlo.select(same, head, hlo.negate(head))
        return [hlo.subtract(matrix, away), hlo.multiply(product, signed)]

    matrix = build.reshape(build.convert(x.value, dtype), (batch, size, size))
    _, product = indexing.repeat(size, [matrix, build.splat(1, dtype, (batch,))], body)
    return ctx.result(build.convert(build.reshape(product, ctx.shape()), x.dtype))


@rule("TfIdfVectorizer", padding=Padding.NONE)
def tf_idf_vectorizer(ctx: Rule) -> Tensor:
    """How often each n-gram of the pool stands in a row, by comparing it with every place."""
    hlo, x = stablehlo(), ctx.input(0)
    grams = NGrams.of(ctx.attribute)
    rows, items = (1, x.shape[0]) if x.rank == 1 else x.shape
    counts = build.splat(0, DType.F32, (rows, grams.columns))
    value = build.reshape(build.convert(x.value, DType.I64), (rows, items))
    start = number = 0
    for length, many in enumerate(grams.counts, start=1):
        of_length = np.array(grams.items[start : start + many * length], np.int64).reshape(many, length)
        columns = np.array(grams.columns_of[number : number + many], np.int64)
        start, number = start + many * length, number + many
        if not grams.lengths[0] <= length <= grams.lengths[1] or not many:
            continue
        for skip in range(1 if length == 1 else min(grams.skips, items) + 1):
            places = items - (length - 1) * (skip + 1)
            if places <= 0:
                break
            if rows * places * many * length > _MOST_COMPARED:
                raise ctx.unsupported(f"{many} n-grams of length {length} at {places} places are too many comparisons")
            at = np.arange(places)[:, None] + np.arange(length) * (skip + 1)
            windows = indexing.take(value, build.literal(at, DType.I32), 1)
            shape = (rows, places, many, length)
            equal = build.compare(
                build.broadcast(windows, shape, [0, 1, 3]),
                build.broadcast(build.literal(of_length, DType.I64), shape, [2, 3]),
                "EQ",
                "SIGNED",
            )
            whole = build.reduce(equal, build.splat(True, DType.BOOL), [3], hlo.and_)
            hits = build.reduce(build.convert(whole, DType.F32), build.splat(0, DType.F32), [1], hlo.add)
            table = np.zeros((many, grams.columns), np.float32)
            table[np.arange(many), columns] = 1
            made = build.dot(hits, build.literal(table, DType.F32), ((), ()), ([1], [0]), DType.F32)
            counts = hlo.add(counts, made)
    return ctx.result(build.reshape(_weighted(ctx, grams, counts), ctx.shape()))


def _weighted(ctx: Rule, grams: NGrams, counts: Value) -> Value:
    mode = str(ctx.attribute("mode"))
    if mode == "TF":
        return counts
    hlo, on, shape = stablehlo(), Arithmetic(DType.F32), shape_of(counts)
    table = np.zeros(grams.columns, np.float32)
    table[list(grams.columns_of)] = grams.weights
    weights = build.broadcast(build.literal(table, DType.F32), shape, [1])
    if mode == "TFIDF":
        return hlo.multiply(counts, weights)
    return hlo.select(on.compare(counts, "GT", 0), weights, on.number(0, counts))
