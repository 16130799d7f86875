"""Reductions on vector cores: rows of any length, columns, several axes, normalizations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from tilewright.kernel.schedule import INLINE, Loop, Schedule

from tests.ascend.vector import assert_right, made, operations, some

ROW = """def k(X: {dtype}[M, N], Y: out[{result}[M]]):
    where(1 <= M <= 300, 1 <= N <= {longest})
    m: M
    n: N
    t[m] = {op}(n, {value})
    Y[m] = t[m]"""


def row(op: str, dtype: str = "f32", value: str = "X[m, n]", result: str = "", longest: int = 2000) -> str:
    return ROW.format(op=op, dtype=dtype, value=value, result=result or dtype, longest=longest)


ROWS = {
    "sum": row("sum"),
    "max": row("max"),
    "min of f16": row("min", "f16"),
    "sum of f16 in f32": row("sum", "f16", "f32(X[m, n])", "f32"),
    "product": row("prod", value="X[m, n] * f32(0.1) + f32(1.0)", longest=90),
    "sum of i32": row("sum", "i32"),
    "max of i32": row("max", "i32", "X[m, n] * i32(10000000)"),
    "any": row("any", "bool"),
    "all": row("all", "f32", "X[m, n] < f32(2.0)", "bool"),
}


@pytest.mark.parametrize("name", some(ROWS, "sum", "min of f16", "sum of i32", "all"))
def test_rows(name: str) -> None:
    sizes: list[Mapping[str, int]] = [{"M": 1, "N": 1}, {"M": 19, "N": 9}, {"M": 5, "N": 65}]
    if name != "product":
        sizes.append({"M": 3, "N": 1025})
    for dims in sizes:
        assert_right(ROWS[name], dims)


def test_a_long_row_is_halved_down_to_one_repeat() -> None:
    _, program = made(row("sum", longest=1024))
    assert operations(program).count("add") == 4  # 1024 → 64 lanes, the first into a half of its own
    assert operations(program).count("row_sum") == 1


SHAPES = {
    "columns": """def k(X: f32[M, N], Y: out[f32[N]]):
    where(1 <= M <= 70, 1 <= N <= 500)
    m: M
    n: N
    t[n] = sum(m, X[m, n])
    Y[n] = t[n] / f32(7.0)""",
    "the middle axis": """def k(X: f16[A, M, N], Y: out[f16[A, N]]):
    where(1 <= A <= 9, 1 <= M <= 70, 1 <= N <= 100)
    a: A
    m: M
    n: N
    t[a, n] = sum(m, f32(X[a, m, n]))
    Y[a, n] = f16(t[a, n])""",
    "first and last": """def k(X: f32[A, M, N], Y: out[f32[M]]):
    where(1 <= A <= 9, 1 <= M <= 70, 1 <= N <= 100)
    a: A
    m: M
    n: N
    t[m] = max((a, n), X[a, m, n])
    Y[m] = t[m]""",
}


@pytest.mark.parametrize("name", some(SHAPES, "columns", "first and last"))
def test_axes(name: str) -> None:
    for dims in ({"A": 1, "M": 1, "N": 1}, {"A": 5, "M": 13, "N": 37}, {"A": 2, "M": 70, "N": 90}):
        used = {k: v for k, v in dims.items() if f"{k}]" in SHAPES[name] or f"{k}," in SHAPES[name]}
        assert_right(SHAPES[name], used)


LAYER_NORM = """def layer_norm(X: {dtype}[M, N], R: {dtype}[M, N], G: f32[N], B: f32[N], Y: out[{dtype}[M, N]]):
    where(1 <= M <= 300, 1 <= N <= {longest})
    m: M
    n: N
    x[m, n] = f32(X[m, n]) + f32(R[m, n])
    s[m] = sum(n, x[m, n])
    d[m, n] = x[m, n] - s[m] / f32(index(N))
    q[m] = sum(n, d[m, n] * d[m, n])
    Y[m, n] = {dtype}(d[m, n] * rsqrt(q[m] / f32(index(N)) + f32(0.00001)) * G[n] + B[n])"""
RMS_NORM = """def rms_norm(X: {dtype}[M, N], G: f32[N], Y: out[{dtype}[M, N]]):
    where(1 <= M <= 300, 1 <= N <= {longest})
    m: M
    n: N
    q[m] = sum(n, f32(X[m, n]) * f32(X[m, n]))
    Y[m, n] = {dtype}(f32(X[m, n]) * rsqrt(q[m] / f32(index(N)) + f32(0.00001)) * G[n])"""
LOG_SOFTMAX = """def log_softmax(X: {dtype}[M, N], Y: out[{dtype}[M, N]]):
    where(1 <= M <= 300, 1 <= N <= {longest})
    m: M
    n: N
    t[m] = max(n, f32(X[m, n]))
    d[m, n] = f32(X[m, n]) - t[m]
    s[m] = sum(n, exp(d[m, n]))
    Y[m, n] = {dtype}(d[m, n] - log(s[m]))"""
MASKED_SOFTMAX = """def masked_softmax(X: {dtype}[M, N], K: bool[M, N], Y: out[{dtype}[M, N]]):
    where(1 <= M <= 300, 1 <= N <= {longest})
    m: M
    n: N
    x[m, n] = select(K[m, n], f32(X[m, n]), f32(-10000.0))
    t[m] = max(n, x[m, n])
    e[m, n] = exp(x[m, n] - t[m])
    s[m] = sum(n, e[m, n])
    Y[m, n] = {dtype}(e[m, n] / s[m])"""
NORMS = {
    "layer norm": LAYER_NORM,
    "RMS norm": RMS_NORM,
    "log softmax": LOG_SOFTMAX,
    "masked softmax": MASKED_SOFTMAX,
}


@pytest.mark.parametrize("name", some(NORMS, "layer norm", "masked softmax"))
@pytest.mark.parametrize("dtype", some(["f32", "f16", "bf16"], "f16"))
def test_normalizations(name: str, dtype: str) -> None:
    text = NORMS[name].format(dtype=dtype, longest=1100)
    for dims in ({"M": 1, "N": 1}, {"M": 45, "N": 70}, {"M": 3, "N": 1100}):
        assert_right(text, dims)


@pytest.mark.parametrize("name", some(NORMS, "RMS norm"))
def test_rows_that_do_not_fit_are_taken_in_pieces(name: str) -> None:
    text = NORMS[name].format(dtype="f32", longest=100000)
    assert_right(text, {"M": 2, "N": 9001})


def test_pieces_of_any_size_give_the_same_result() -> None:
    text = LOG_SOFTMAX.format(dtype="f32", longest=100000)
    for piece in (64, 100):
        schedule = Schedule(
            (Loop("m", 3, "block"), Loop("n", piece, "tile")), (Loop("n", piece, "pipeline"),), spaces=(("d", INLINE),)
        )
        assert_right(text, {"M": 4, "N": 230}, schedule=schedule)


def test_softmax_of_rows_with_infinities() -> None:
    text = MASKED_SOFTMAX.format(dtype="f32", longest=100).replace("-10000.0", "-inf")
    x = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float32)
    mask = np.ones((3, 40), np.bool_)
    mask[1, 5:] = False
    assert_right(text, {"M": 3, "N": 40}, {"X": x, "K": mask})
