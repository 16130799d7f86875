"""The simulator's numbers, each rounding against implementations that others wrote and against exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from tilewright.backends.ascend.simulator.elementwise import iota, row_sum, vector
from tilewright.backends.ascend.simulator.number import BF16, F16, F32, F64, Array, cast, narrowed, number
from tilewright.backends.ascend.simulator.products import (
    Quantization,
    columns_of_image,
    fixpipe,
    kept_scale,
    mmad,
    of_words,
)
from tilewright.ir.types import DType
from tilewright.kernel.pack import in_memory

MODES = ("rint", "floor", "ceil", "trunc", "round")


def hard(dtype: np.dtype, count: int = 4000, seed: int = 0) -> Array:
    """f32 values of every size, on, beside and between the values of ``dtype``, with ties and beyond both ends."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32)
    spread = bits.view(np.float32)
    near = (random.standard_normal(count) * 2.0 ** random.integers(-30, 18, count)).astype(np.float32)
    own = near.astype(dtype).astype(np.float32)
    one_up = np.nextafter(own.astype(np.float32), np.float32(np.inf))
    ties = (own.view(np.uint32) | np.uint32(0x1000 if dtype == F16 else 0x8000)).view(np.float32)
    edges = np.asarray(
        [0.0, -0.0, 65504, 65519.996, 65520, 65536, -65520, 1e38, 3.4e38, 2.0**-24, 2.0**-25, 2.0**-26, 0.5, 1.5, 2.5],
        np.float32,
    )
    special = np.asarray([np.inf, -np.inf, np.nan], np.float32)
    every = [spread, near, own, one_up, ties, edges, -edges, special]
    return np.concatenate([v.astype(np.float32) for v in every])


def same_bits(got: Array, want: Array) -> None:
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[got.dtype.itemsize]
    assert got.dtype == want.dtype
    nan = np.isnan(want) if want.dtype in (F16, BF16, F32) else np.zeros(want.shape, bool)
    assert (np.isnan(got) == nan).all() if nan.any() else True
    np.testing.assert_array_equal(got.view(kind)[~nan], want.view(kind)[~nan])


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_nearest_even_is_that_of_ml_dtypes_and_numpy(dtype: np.dtype) -> None:
    values = hard(dtype)
    with np.errstate(all="ignore"):
        same_bits(cast(values, dtype, "rint"), values.astype(dtype))


def _exact(value: float, dtype: np.dtype, mode: str) -> float:
    """``value`` rounded by rational arithmetic."""
    bits, least, largest = (10, -14, 65504.0) if dtype == F16 else (7, -126, float(ml_dtypes.finfo(BF16).max))
    if value == 0 or not math.isfinite(value):
        return value
    exponent = max(math.frexp(value)[1] - 1, least) - bits
    quotient = Fraction(value) / Fraction(2) ** exponent
    low = math.floor(quotient)
    rest = quotient - low
    up = {
        "floor": False,
        "ceil": rest > 0,
        "trunc": rest > 0 and quotient < 0,
        "rint": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1),
        "round": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and quotient > 0),
    }[mode]
    result = float((low + up) * Fraction(2) ** exponent)
    return math.copysign(math.inf if abs(result) > largest else abs(result), value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_every_rounding_between_floats(dtype: np.dtype, mode: str) -> None:
    values = hard(dtype, 300)
    want = np.asarray([_exact(float(v), dtype, mode) for v in values])
    same_bits(cast(values, dtype, mode), want.astype(np.float32).astype(dtype))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8, np.uint8])
def test_floats_to_integers_round_then_saturate(dtype: type, mode: str) -> None:
    values = hard(F16, 500)
    rounded: dict[str, Callable[[float], int]] = {
        "rint": round,
        "floor": math.floor,
        "ceil": math.ceil,
        "trunc": math.trunc,
        "round": lambda v: int(math.copysign(math.floor(abs(v) + 0.5), v)),
    }
    info = np.iinfo(dtype)
    got = cast(values, np.dtype(dtype), mode)
    for value, result in zip(values.tolist(), got.tolist(), strict=True):
        if math.isnan(value):
            want = 0
        elif math.isinf(value):
            want = info.max if value > 0 else info.min
        else:
            want = min(max(rounded[mode](value), info.min), info.max)
        assert result == want, value


@pytest.mark.parametrize("mode", MODES)
def test_integers_to_floats(mode: str) -> None:
    random = np.random.default_rng(1)
    wide = random.integers(-(1 << 62), 1 << 62, 2000) >> random.integers(0, 60, 2000)
    edges = [0, 1, -1, (1 << 24) + 1, (1 << 24) + 2, -(1 << 24) - 1, (1 << 53) - 1, (1 << 62) - 1, (1 << 63) - 1]
    values = np.concatenate([wide, np.asarray([*edges, -(1 << 63)], np.int64)])
    got = cast(values, F32, mode)
    for value, result in zip(values.tolist(), got.tolist(), strict=True):
        exponent = max(abs(value).bit_length() - 24, 0)
        low, rest = value >> exponent, (value & ((1 << exponent) - 1)) / (1 << exponent)
        up = {
            "floor": False,
            "ceil": rest > 0,
            "trunc": rest > 0 and value < 0,
            "rint": rest > 0.5 or (rest == 0.5 and low % 2 == 1),
            "round": rest > 0.5 or (rest == 0.5 and value > 0),
        }[mode]
        assert result == float((low + up) << exponent), (value, mode)
    small = np.arange(-(1 << 15), 1 << 15, 7).astype(np.int16)
    same_bits(cast(small, F16, "rint"), small.astype(np.float16))


def test_integers_are_cut_and_whole_floats_stay_floats() -> None:
    assert cast(np.asarray([70000, -1], np.int32), np.dtype(np.int16)).tolist() == [70000 - 65536, -1]
    values = np.asarray([0.5, 1.5, -0.5, -2.5, 1e30], np.float32)
    assert cast(values, F32, "rint").tolist() == [0.0, 2.0, -0.0, -2.0, float(np.float32(1e30))]
    assert cast(values, F32, "round").tolist() == [1.0, 2.0, -1.0, -3.0, float(np.float32(1e30))]


@pytest.mark.parametrize("op", ["exp", "ln", "sqrt"])
@pytest.mark.parametrize("dtype", [F16, F32], ids=str)
def test_functions_are_correctly_rounded(op: str, dtype: np.dtype) -> None:
    mpmath = pytest.importorskip("mpmath")
    random = np.random.default_rng(2)
    x = (random.standard_normal(600) * 8).astype(dtype)
    x = np.abs(x) if op != "exp" else np.minimum(x, dtype.type(11))
    got = vector(op, [x], dtype)
    with mpmath.workprec(200):
        exact = [getattr(mpmath, "log" if op == "ln" else op)(mpmath.mpf(float(v))) for v in x]
        for value, result, want in zip(x, got, exact, strict=True):
            beside = [np.nextafter(result, dtype.type(s)) for s in (-np.inf, np.inf)]
            error = abs(mpmath.mpf(float(result)) - want)
            assert all(error <= abs(mpmath.mpf(float(b)) - want) for b in beside), value


@pytest.mark.parametrize("dtype", [F16, F32], ids=str)
def test_quotients_and_reciprocal_roots(dtype: np.dtype) -> None:
    """1 / sqrt(x), as the placement composes it, rounds twice; each step is the nearest number."""
    random = np.random.default_rng(3)
    a, b = (random.standard_normal(400).astype(dtype) for _ in range(2))
    got = vector("div", [a, b], dtype)
    for x, y, q in zip(a.tolist(), b.tolist(), got, strict=True):
        want = Fraction(x) / Fraction(y)
        near = [np.nextafter(q, dtype.type(s)) for s in (-np.inf, np.inf)]
        assert all(abs(Fraction(float(q)) - want) <= abs(Fraction(float(n)) - want) for n in near)
    x = np.abs(a) + dtype.type(0.1)
    root = vector("sqrt", [x], dtype)
    reciprocal = vector("div", [np.asarray(1, dtype), root], dtype)
    exact = 1 / np.sqrt(x.astype(F64))
    assert (np.abs(reciprocal / exact - 1) <= 1.5 * float(np.finfo(dtype).eps)).all()


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_half_precision_operations_round_once(op: str) -> None:
    random = np.random.default_rng(4)
    bits = random.integers(0, 1 << 16, (2, 20000)).astype(np.uint16).view(np.float16)
    a, b = bits[0], bits[1]
    with np.errstate(all="ignore"):
        exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op](a.astype(F64), b.astype(F64))
        same_bits(vector(op, [a, b], F16), exact.astype(F16))


def test_there_is_one_nan_and_zeros_have_signs() -> None:
    odd = np.asarray([0xFE01, 0x7C01], np.uint16).view(np.float16)
    for op in ("add", "max", "min", "mul"):
        assert vector(op, [odd, np.asarray([1, 1], F16)], F16).view(np.uint16).tolist() == [0x7E00, 0x7E00]
    assert vector("copy", [odd], F16).view(np.uint16).tolist() == [0xFE01, 0x7C01]
    assert cast(odd, F32).view(np.uint32).tolist() == [0x7FC00000] * 2
    assert cast(odd.astype(np.float32), BF16).view(np.uint16).tolist() == [0x7FC0] * 2
    a, b = np.asarray([0.0, -0.0, 0.0, -0.0], F32), np.asarray([-0.0, 0.0, 0.0, -0.0], F32)
    assert np.signbit(vector("max", [a, b], F32)).tolist() == [False, False, False, True]
    assert np.signbit(vector("min", [a, b], F32)).tolist() == [True, True, False, True]
    assert np.signbit(vector("relu", [a], F32)).tolist() == [False] * 4
    rows = np.stack([a, b, np.full(4, -0.0, np.float32)])
    assert np.signbit(vector("row_max", [rows], F32)).tolist() == [False, False, True]
    assert np.signbit(vector("row_min", [rows], F32)).tolist() == [True, True, True]


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8, 37, 64])
@pytest.mark.parametrize("dtype", [F16, F32], ids=str)
def test_row_sums_go_up_a_tree(dtype: np.dtype, lanes: int) -> None:
    values = np.random.default_rng(lanes).standard_normal((3, lanes)).astype(dtype)
    level = [[dtype.type(v) for v in row] for row in values]
    while len(level[0]) > 1:
        level = [
            [dtype.type(np.float32(x) + np.float32(y)) for x, y in zip(row[::2], row[1::2], strict=False)]
            + ([row[-1]] if len(row) % 2 else [])
            for row in level
        ]
    same_bits(row_sum(values), np.asarray([row[0] for row in level], dtype))


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_products_of_whole_numbers_are_exact(dtype: np.dtype) -> None:
    """Where every sum fits f32, the rational sum is the answer, whatever the order."""
    random = np.random.default_rng(5)
    a, b = random.integers(-15, 16, (17, 75)).astype(dtype), random.integers(-15, 16, (75, 9)).astype(dtype)
    start = random.integers(-99, 99, (17, 9)).astype(np.float32)
    want = [
        [
            sum((Fraction(float(a[i, k])) * Fraction(float(b[k, j])) for k in range(75)), Fraction(float(start[i, j])))
            for j in range(9)
        ]
        for i in range(17)
    ]
    np.testing.assert_array_equal(mmad(a, b, start), np.asarray([[float(v) for v in row] for row in want], F32))


def _stepwise(a: Array, b: Array, depth: int) -> Array:
    result = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = np.float32(0)
            for at in range(0, a.shape[1], depth):
                s = 0.0
                for k in range(at, min(at + depth, a.shape[1])):
                    s += float(a[i, k]) * float(b[k, j])
                total = np.float32(float(total) + s)
            result[i, j] = total
    return result


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 3000.0])
def test_products_go_in_steps_of_32_bytes(dtype: np.dtype, scale: float) -> None:
    random = np.random.default_rng(6)
    a = (random.standard_normal((5, 41)) * scale).astype(np.float32).astype(dtype)
    b = random.standard_normal((41, 6)).astype(np.float32).astype(dtype)
    same_bits(mmad(a, b, None), _stepwise(a, b, 32 // dtype.itemsize))


def test_integer_products_are_exact_and_wrap() -> None:
    random = np.random.default_rng(7)
    a, b = random.integers(-128, 128, (4, 2500)).astype(np.int8), random.integers(-128, 128, (2500, 5)).astype(np.int8)
    np.testing.assert_array_equal(mmad(a, b, None), a.astype(np.int32) @ b.astype(np.int32))
    top = np.full((1, 1), np.iinfo(np.int32).max, np.int32)
    one = np.ones((1, 1), np.int8)
    assert mmad(one, one, top).item() == np.iinfo(np.int32).min


def test_the_way_out_of_l0c() -> None:
    sums = np.asarray([[-300, -1, 0, 7, 2**24 + 1, 2**31 - 1]], np.int32)
    scale = kept_scale(np.asarray([0.1], F32))
    assert scale.view(np.uint32).item() == np.asarray(0.1, F32).view(np.uint32).item() & 0xFFFFE000
    want = [min(max(round(float(np.float32(np.float32(s) * scale[0]))) + 3, -128), 127) for s in sums[0].tolist()]
    assert fixpipe(sums, np.dtype(np.int8), False, Quantization(scale, 3)).tolist() == [want]
    cut = [min(max(round(max(float(np.float32(np.float32(s) * scale[0])), 0.0)), -128), 127) for s in sums[0].tolist()]
    assert fixpipe(sums, np.dtype(np.int8), True, Quantization(scale)).tolist() == [cut]
    same_bits(fixpipe(sums, F16, False, Quantization(scale)), (sums.astype(np.float32) * scale).astype(np.float16))
    words = np.asarray([0.25, -2.0], F32).view(np.uint32).astype(np.uint64)
    words |= np.asarray([0x1FF, 5], np.uint64) << np.uint64(37) | np.uint64(1 << 46)
    by = of_words(words)
    assert by.scale.tolist() == [0.25, -2.0] and np.asarray(by.offset).tolist() == [-1, 5]
    half = np.asarray([[65519.0, 65520.0, -1.0]], F32)
    assert fixpipe(half, F16, False, None).tolist() == [[65504.0, math.inf, -1.0]]
    assert fixpipe(half, F16, True, None).tolist() == [[65504.0, math.inf, 0.0]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_of_an_image(stride: int, dilation: int) -> None:
    random = np.random.default_rng(8)
    image = random.standard_normal((7, 6, 32)).astype(np.float16)
    pads, kernel = (1, 2, 1, 0), (3, 2)
    padded = np.pad(image, ((pads[0], pads[2]), (pads[1], pads[3]), (0, 0)))
    high = (padded.shape[0] - dilation * (kernel[0] - 1) - 1) // stride + 1
    wide = (padded.shape[1] - dilation * (kernel[1] - 1) - 1) // stride + 1
    rows = []
    for y in range(high):
        for x in range(wide):
            window = padded[y * stride :: dilation, x * stride :: dilation][: kernel[0], : kernel[1]]
            rows.append(window.reshape(*kernel, 2, 16).transpose(2, 0, 1, 3).reshape(-1))
    want = np.stack(rows)
    got = columns_of_image(
        image,
        kernel,
        (stride, stride),
        (dilation, dilation),
        pads,
        block=16,
        rows=(2, high * wide - 2),
        columns=(16, 80),
    )
    np.testing.assert_array_equal(got, want[2:, 16:96])


def test_windows_of_an_image_of_few_channels_with_a_value_outside() -> None:
    image = np.random.default_rng(9).integers(-9, 9, (5, 6, 4)).astype(np.int8)
    padded = np.pad(image, ((1, 1), (2, 0), (0, 0)), constant_values=-3)
    rows = [padded[y : y + 3, x : x + 2].reshape(-1) for y in range(5) for x in range(7)]
    got = columns_of_image(
        image, (3, 2), (1, 1), (1, 1), (1, 2, 1, 0), block=4, rows=(3, 32), columns=(0, 24), value=-3
    )
    np.testing.assert_array_equal(got, np.stack(rows)[3:35])


def test_numbers_among_operands_and_positions() -> None:
    assert number(0.1, F16) == np.float16(0.1)
    assert number((1 << 24) + 1, F32) == 1 << 24
    with pytest.raises(ValueError, match="is no"):
        number(0.5, np.dtype(np.int32))
    assert iota(3, 4, F16).tolist() == [3.0, 4.0, 5.0, 6.0]
    assert iota(2047, 3, F16).tolist() == [2047.0, 2048.0, 2048.0]
    assert iota((1 << 24) - 1, 3, F32).tolist() == [(1 << 24) - 1, 1 << 24, 1 << 24]
    assert narrowed(np.asarray([1 + 2.0**-8 + 2.0**-30]), BF16).item() == 1 + 2.0**-7


def test_masks_bits_and_shifts() -> None:
    a, b = np.asarray([[1.0, 5.0, np.nan] * 3], F32), np.asarray([[2.0, 2.0, 2.0] * 3], F32)
    mask = vector("compare_lt", [a, b], np.dtype(np.uint8))
    assert mask.tolist() == [[0b01001001, 0]]
    assert vector("compare_ne", [a, b], np.dtype(np.uint8)).tolist() == [[0xFF, 1]]
    np.testing.assert_array_equal(vector("select", [mask, a, b], F32), np.where(a < b, a, b))
    bits = np.asarray([-7, 7], np.int16)
    assert vector("shift_right", [bits], bits.dtype, by=1).tolist() == [-4, 3]
    assert vector("shift_right", [bits.view(np.uint16)], np.dtype(np.uint16), by=1).tolist() == [32764, 3]
    assert vector("not", [bits], bits.dtype).tolist() == [6, -8]
    assert vector("and", [bits, np.asarray([12, 12], np.int16)], bits.dtype).tolist() == [8, 4]


def test_integers_of_4_bits_lie_in_bytes_as_packages_store_them() -> None:
    values = np.arange(-8, 8, dtype=np.int8).astype(ml_dtypes.int4)
    codes = in_memory(values, DType.I4).reshape(1, -1)
    assert vector("widen", [codes], F16).reshape(-1).tolist() == list(range(-8, 8))
