"""What scalar operations mean: rounding, wrapping, signs and NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tilewright.ir.types import DType
from tilewright.kernel import numerics
from tilewright.kernel.analysis import identity
from tilewright.kernel.expr import BINARY, COMPARE, UNARY

F16, BF16, F32, F64, I4, I8, U4, U8, I32, I64, BOOL = (
    DType[n] for n in "F16 BF16 F32 F64 I4 I8 U4 U8 I32 I64 BOOL".split()
)


def array(values: Any, dtype: DType) -> Any:
    return np.asarray(values).astype(dtype.numpy)


BINARY_CASES = [
    ("div", I32, 7, -2, -3), ("div", I32, -7, 2, -3), ("div", I32, -7, -2, 3), ("div", I32, 6, 3, 2),
    ("mod", I32, -7, 3, 2), ("mod", I32, 7, -3, -2), ("fmod", I32, -7, 3, -1), ("fmod", I32, 7, -3, 1),
    ("mod", F32, -7.5, 3.0, 1.5), ("fmod", F32, -7.5, 3.0, -1.5),
    ("add", I8, 127, 1, -128), ("mul", U8, 16, 17, 16), ("sub", U8, 0, 1, 255), ("add", I4, 7, 1, -8),
    ("add", U4, 15, 1, 0), ("mul", I4, 3, 3, -7),
    ("add", F16, 2048.0, 1.0, 2048.0), ("add", BF16, 256.0, 1.0, 256.0), ("mul", F16, 300.0, 300.0, math.inf),
    ("pow", F32, 2.0, 0.5, np.float32(math.sqrt(2))), ("pow", I32, 2, 10, 1024), ("pow", I32, 2, -1, 0),
    ("pow", I32, -1, -3, -1), ("pow", I32, 1, -5, 1),
    ("min", F32, math.nan, 1.0, math.nan), ("max", F32, 1.0, math.nan, math.nan),
    ("max", F16, 1.0, 2.0, 2.0), ("shl", I32, 1, 5, 32), ("shr", I32, -8, 1, -4),
    ("bitxor", I32, 6, 3, 5), ("xor", BOOL, True, True, False),
    ("lt", F32, math.nan, 1.0, False), ("ne", F32, math.nan, math.nan, True), ("ge", U8, 200, 100, True),
]  # fmt: skip


@pytest.mark.parametrize(("op", "dtype", "a", "b", "expected"), BINARY_CASES)
def test_binary(op: str, dtype: DType, a: Any, b: Any, expected: Any) -> None:
    with np.errstate(all="ignore"):
        result = numerics.binary(op, array([a], dtype), array([b], dtype), dtype)
    assert result.dtype == (BOOL if op in COMPARE else dtype).numpy
    np.testing.assert_equal(float(result[0]), float(expected))


UNARY_CASES = [
    ("round", F32, 2.5, 2.0), ("round", F32, -1.5, -2.0), ("erf", F32, 1.0, np.float32(math.erf(1.0))),
    ("rsqrt", F32, 4.0, 0.5), ("sigmoid", F32, -1000.0, 0.0), ("sigmoid", F64, 0.0, 0.5), ("sign", F32, -3.0, -1.0),
    ("neg", I8, -128, -128), ("abs", I32, -5, 5), ("bitnot", U8, 1, 254), ("not", BOOL, True, False),
    ("isnan", F16, math.nan, True), ("isinf", BF16, -math.inf, True), ("exp", F16, 1.0, np.float16(math.e)),
    ("sqrt", BF16, 2.0, 1.4140625), ("reciprocal", F32, 3.0, np.float32(1) / np.float32(3)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "dtype", "x", "expected"), UNARY_CASES)
def test_unary(op: str, dtype: DType, x: Any, expected: Any) -> None:
    with np.errstate(all="ignore"):
        result = numerics.unary(op, array([x], dtype), dtype)
    assert float(result[0]) == float(expected)


CAST_CASES = [
    (F32, I32, -2.7, -2), (F32, I8, 127.9, 127), (I32, I8, 300, 44), (I32, U8, -1, 255), (I32, I4, 9, -7),
    (F32, U4, 17.0, 1), (F32, F16, 1.0 + 2**-11, 1.0), (F32, F16, 1.0 + 3 * 2**-11, 1.0 + 2**-9),
    (F32, BF16, 1.0 + 2**-8, 1.0), (F16, BF16, 3.140625, 3.140625), (F32, BOOL, -0.0, 0), (F32, BOOL, math.nan, 1),
    (BOOL, F32, True, 1.0), (I64, F32, 2**24 + 1, 2.0**24), (U8, I8, 200, -56), (I4, F32, -8, -8.0),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "x", "expected"), CAST_CASES)
def test_cast(source: DType, target: DType, x: Any, expected: Any) -> None:
    result = numerics.cast(array([x], source), source, target)
    assert result.dtype == target.numpy
    assert float(result[0]) == float(expected)


@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64, I8, U8, I32, I64])
@pytest.mark.parametrize("op", ["sum", "prod", "max", "min"])
def test_the_identity_of_a_reduction_changes_nothing(op: str, dtype: DType) -> None:
    x = array([[3, 1, 2]], dtype)
    with_identity = np.concatenate([x, array([[identity(op, dtype).value]], dtype)], axis=1)
    plain = numerics.reduce(op, x, (1,), dtype)
    assert plain.shape == (1, 1) and plain.dtype == dtype.numpy
    np.testing.assert_array_equal(numerics.reduce(op, with_identity, (1,), dtype), plain)
    empty = numerics.reduce(op, x[:, :0], (1,), dtype)
    np.testing.assert_array_equal(empty, array([[identity(op, dtype).value]], dtype))


def test_every_operation_has_a_meaning() -> None:
    with np.errstate(all="ignore"):
        _run_every_operation()


def _run_every_operation() -> None:
    for op in UNARY:
        dtype = BOOL if op == "not" else I32 if op == "bitnot" else F32
        numerics.unary(op, array([1], dtype), dtype)
    for op in BINARY | COMPARE:
        dtype = BOOL if op in ("and", "or", "xor") else I32 if op.startswith(("bit", "sh")) else F32
        numerics.binary(op, array([1], dtype), array([1], dtype), dtype)


def test_contraction_equals_the_sum_of_products() -> None:
    r = np.random.default_rng(0)
    a, b = r.standard_normal((3, 1, 5)), r.standard_normal((1, 4, 5))
    np.testing.assert_allclose(numerics.contract(a, b, (2,), F64), (a * b).sum(axis=2, keepdims=True))
    np.testing.assert_array_equal(numerics.contract(a[..., :0], b[..., :0], (2,), F64), np.zeros((3, 4, 1)))
