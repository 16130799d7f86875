"""Spectra, windows and filter banks. Complex numbers are pairs along the last axis."""

from __future__ import annotations

from tilewright.ir.ranges import NEGATIVE_INFINITY
from tilewright.ir.symbolic import Expr, constant, maximum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.choose import choose, from_front, is_equal, is_negative, pick
from tilewright.ops.context import Infer
from tilewright.ops.ngrams import NGrams
from tilewright.ops.registry import shape_rule


@shape_rule("BlackmanWindow", "HammingWindow", "HannWindow")
def signal_window(ctx: Infer) -> TensorType:
    """A vector of ``size`` coefficients."""
    size = _number(ctx, 0, "size", lo=0)
    return TensorType(ctx.dtype("output_datatype", DType.F32), (size,))


@shape_rule("MelWeightMatrix")
def mel_weight_matrix(ctx: Infer) -> TensorType:
    """``[dft_length // 2 + 1, num_mel_bins]``."""
    bins, length = _number(ctx, 0, "num_mel_bins", lo=0), _number(ctx, 1, "dft_length", lo=0)
    rows = ctx.define("rows", length // 2 + 1)
    return TensorType(ctx.dtype("output_datatype", DType.F32), (rows, bins))


@shape_rule("DFT")
def dft(ctx: Infer) -> TensorType:
    """The axis gets ``dft_length`` elements, half of them and one in a one-sided spectrum."""
    x, onesided, inverse = ctx.input(0), ctx.integer("onesided", 0), ctx.integer("inverse", 0)
    if x.rank < 2:
        ctx.fail("the input needs an axis for the signal and one for complex numbers")
    complex_input = _is_complex(ctx, x)
    if onesided and complex_input != bool(inverse):
        ctx.fail(f"one-sided is a transform of {'complex' if inverse else 'real'} input")
    signal = x.shape[:-1]
    axis = _axis(ctx, x.rank)
    for hint, sign in (("before", 1), ("after", -1)):
        sizes = [choose(is_negative(sign * (d - axis)), size, 1) for d, size in enumerate(signal)]
        ctx.define(hint, ctx.product(ctx.define(f"{hint}{d}", size) for d, size in enumerate(sizes)))
    at = ctx.define("at", pick(signal, axis))
    if ctx.has(1):
        length = ctx.define("length", _number(ctx, 1, "dft_length"), lo=1)
    else:
        length = ctx.define("length", (at - 1) * 2 if onesided and inverse else at, lo=1)
    found = ctx.define("found", length // 2 + 1 if onesided and not inverse else length)
    sizes = [ctx.define(f"size{d}", choose(is_equal(axis, d), found, size)) for d, size in enumerate(signal)]
    return TensorType(x.dtype, (*sizes, constant(1 if onesided and inverse else 2)))


@shape_rule("STFT")
def stft(ctx: Infer) -> TensorType:
    """``[batch, frames, bins, 2]``; whole frames of ``frame_length`` every ``frame_step`` elements."""
    x = ctx.input(0)
    if x.rank not in (2, 3):
        ctx.fail("the signal needs rank 3")
    if x.rank == 3:
        _is_complex(ctx, x)
    step = ctx.define("step", _number(ctx, 1, "frame_step"), lo=1)
    length = x.shape[1]
    if ctx.has(3):
        length = _number(ctx, 3, "frame_length")
    if (window := ctx.optional(2)) is not None:
        if window.rank != 1:
            ctx.fail(f"the window needs rank 1, not {window.rank}")
        length = ctx.equal(window.shape[0], length) if ctx.has(3) else window.shape[0]
    length = ctx.define("length", length, lo=1)
    frames = ctx.define("frames", maximum(0, (x.shape[1] - length) // step + 1))
    bins = ctx.define("bins", length // 2 + 1 if ctx.integer("onesided", 1) else length)
    return TensorType(x.dtype, (x.shape[0], frames, bins, constant(2)))


@shape_rule("TfIdfVectorizer")
def tf_idf_vectorizer(ctx: Infer) -> TensorType:
    """One number for each n-gram of the pool, for each row."""
    x = ctx.input(0)
    if not x.dtype.is_integer:
        ctx.unsupported("n-grams of text")
    if x.rank not in (1, 2):
        ctx.fail(f"the input needs rank 1 or 2, not {x.rank}")
    if ctx.attribute("pool_int64s") is None:
        ctx.unsupported("a pool of text for integer input")
    try:
        grams = NGrams.of(ctx.attribute)
    except ValueError as problem:
        ctx.fail(str(problem))
    return TensorType(DType.F32, (*x.shape[:-1], constant(grams.columns)))


def _number(ctx: Infer, index: int, what: str, lo: int = NEGATIVE_INFINITY) -> Expr:
    """The only element of an integer input."""
    ctx.equal(ctx.product(ctx.input(index).shape), 1)
    return ctx.known_list(index, what, lo)[0]


def _is_complex(ctx: Infer, x: TensorType) -> bool:
    if x.shape[-1] not in (1, 2):
        ctx.unsupported(f"a last axis of {x.shape[-1]} elements, where 1 (real) or 2 (complex) has to be known")
    return bool(x.shape[-1] == 2)


def _axis(ctx: Infer, rank: int) -> Expr:
    """The axis of the transform, counted from the front; not the last one."""
    if not ctx.has(2):
        axis: Expr = constant(ctx.axis(ctx.integer("axis", 1 if ctx.opset < 20 else -2), rank))
    else:
        axis = ctx.define("axis", from_front(_number(ctx, 2, "axis"), rank), hi=rank - 2)
    return (
        axis if not axis.is_constant or axis.value < rank - 1 else ctx.fail("the last axis is that of complex numbers")
    )
