"""Spectra, and counts of n-grams."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tilewright.ir.symbolic import Expr, constant, product
from tilewright.ir.types import DType
from tilewright.ops.ngrams import NGrams
from tilewright.ops.steps import Program, program


@program("DFT")
def dft(ctx: Program) -> None:
    """Each row along the axis by itself."""
    x, onesided, inverse = ctx.type(0), ctx.attribute("onesided", 0), ctx.attribute("inverse", 0)
    before, at, after, length, found = map(ctx.defined, ("before", "at", "after", "length", "found"))
    table, scratch = _table(ctx, length)
    halved = int(bool(onesided and inverse))
    ctx.call(
        "dft",
        [ctx.input(0), table, ctx.output()],
        [at, after, length, found, inverse, x.shape[-1], 2 - halved, halved],
        grid=before * after,
        scratch=scratch,
    )


@program("STFT")
def stft(ctx: Program) -> None:
    """Each frame by itself."""
    x = ctx.type(0)
    step, length, frames, bins = map(ctx.defined, ("step", "length", "frames", "bins"))
    table, scratch = _table(ctx, length)
    window = ctx.input(2) if ctx.has(2) else table
    numbers = x.shape[2] if x.rank == 3 else constant(1)
    ctx.call(
        "stft",
        [ctx.input(0), window, table, ctx.output()],
        [x.shape[1], frames, step, length, bins, numbers, int(ctx.has(2))],
        grid=x.shape[0] * frames,
        scratch=scratch,
    )


def _table(ctx: Program, length: Expr) -> tuple[ir.Value, Expr]:
    """The roots of unity for a length, and the bytes that a transform of that length works in."""
    size = _transformed(length)
    chirped = size != length
    table = ctx.temporary(DType.F64, 2 * length + (4 * size if chirped else constant(0)))
    ctx.call("fft_table", [table], [length], scratch=32 * size)
    return table, 32 * size


def _transformed(length: Expr) -> Expr:
    """How long the transform by radices is: the length, or what holds a convolution where a prime is too large."""
    if not length.is_constant:
        return 4 * length  # at most: the smallest power of two that is not below 2 * length - 1
    rest = length.value
    for radix in (2, 3, 5, 7, 11, 13):
        while rest % radix == 0:
            rest //= radix
    return length if rest == 1 else constant(1 << (2 * length.value - 2).bit_length())


@program("TfIdfVectorizer")
def tf_idf_vectorizer(ctx: Program) -> None:
    """Count n-grams in each row."""
    grams, x = NGrams.of(ctx.attribute), ctx.type(0)
    items, counts = ctx.constant(np.array(grams.items, np.int64)), ctx.constant(np.array(grams.counts, np.int64))
    columns = ctx.constant(np.array(grams.columns_of, np.int64))
    weights = ctx.constant(np.array(grams.weights, np.float32))
    mode = ("TF", "IDF", "TFIDF").index(ctx.attribute("mode"))
    ctx.call(
        "ngrams",
        [ctx.input(0), items, counts, columns, weights, ctx.output()],
        [x.shape[-1], grams.columns, *grams.lengths, grams.skips, mode],
        grid=product(x.shape[:-1]),
    )
