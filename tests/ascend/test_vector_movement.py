"""Kernels that move: transposes, slices, concatenations, pads, windows, rotary embedding, rows through an index."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.errors import UnsupportedError

from tests.ascend.vector import assert_right, made, operations, some, values

Case = tuple[str, list[Mapping[str, int]]]

TRANSPOSE = """def transpose(X: {dtype}[M, N], Y: out[{dtype}[N, M]]):
    where(1 <= M <= 200, 1 <= N <= 200)
    m: M
    n: N
    Y[n, m] = X[m, n]"""
MOVES: dict[str, Case] = {
    "three axes turned": (
        """def k(X: f32[A, M, N], Y: out[f32[N, A, M]]):
    where(1 <= A <= 5, 1 <= M <= 40, 1 <= N <= 40)
    a: A
    m: M
    n: N
    Y[n, a, m] = X[a, m, n]""",
        [{"A": 1, "M": 1, "N": 1}, {"A": 3, "M": 17, "N": 9}],
    ),
    "heads to the front": (
        """def k(X: f16[S, H, D], Y: out[f16[H, S, D]]):
    where(1 <= S <= 100, 1 <= H <= 8, 1 <= D <= 64)
    s: S
    h: H
    d: D
    Y[h, s, d] = X[s, h, d]""",
        [{"S": 33, "H": 5, "D": 20}],
    ),
    "turned and computed": (
        """def k(X: f16[M, N], R: f16[N, M], Y: out[f16[N, M]]):
    where(1 <= M <= 100, 1 <= N <= 100)
    m: M
    n: N
    Y[n, m] = f16(exp(f32(X[m, n])) + f32(R[n, m]))""",
        [{"M": 19, "N": 33}],
    ),
    "slice with a step": (
        """def k(X: f32[N], Y: out[f32[N // 3]]):
    where(3 <= N <= 3000, N % 3 == 0)
    n: N // 3
    Y[n] = X[3*n + 1]""",
        [{"N": 3}, {"N": 900}],
    ),
    "backwards": (
        """def k(X: f16[M, N], Y: out[f16[M, N]]):
    where(1 <= M <= 30, 1 <= N <= 300)
    m: M
    n: N
    Y[m, n] = X[m, N - 1 - n]""",
        [{"M": 1, "N": 1}, {"M": 7, "N": 130}],
    ),
    "every second element written": (
        """def k(X: f32[N], Z: f32[N], Y: out[f32[2*N]]):
    where(1 <= N <= 300)
    n: N
    Y[2*n] = X[n]
    Y[2*n + 1] = Z[n] * f32(2.0)""",
        [{"N": 1}, {"N": 75}],
    ),
    "concatenation": (
        """def k(X: f16[B, M, N], Z: f16[B, 1, N], Y: out[f16[B, M + 1, N]]):
    where(1 <= B <= 9, 1 <= M <= 70, 1 <= N <= 40)
    b: B
    m: M
    n: N
    Y[b, m, n] = X[b, m, n]
    Y[b, M, n] = Z[b, 0, n]""",
        [{"B": 2, "M": 13, "N": 20}],
    ),
    "padded rows": (
        """def k(X: f32[M, N], Y: out[f32[M + 3, N]]):
    where(1 <= M <= 70, 1 <= N <= 40)
    m: M + 3
    n: N
    Y[m, n] = (X[m - 2, n] or 7.5)""",
        [{"M": 1, "N": 1}, {"M": 30, "N": 20}],
    ),
    "padded columns": (
        """def k(X: f32[M, N], Y: out[f32[M, N + 5]]):
    where(1 <= M <= 70, 1 <= N <= 40)
    m: M
    n: N + 5
    Y[m, n] = (X[m, n - 3] or -1.0)""",
        [{"M": 1, "N": 1}, {"M": 9, "N": 20}],
    ),
    "largest of windows": (
        """def k(X: f16[B, 9, 10, C], Y: out[f16[B, 5, 5, C]]):
    where(1 <= B <= 3, 1 <= C <= 40)
    b: B
    h: 5
    w: 5
    c: C
    k: 3
    l: 3
    t[b, h, w, c] = max((k, l), (X[b, 2*h + k - 1, 2*w + l - 1, c] or -inf))
    Y[b, h, w, c] = t[b, h, w, c]""",
        [{"B": 2, "C": 20}],
    ),
    "largest of windows of bytes": (
        """def k(X: i8[B, 9, 10, C], Y: out[i8[B, 5, 5, C]]):
    where(1 <= B <= 3, 1 <= C <= 40)
    b: B
    h: 5
    w: 5
    c: C
    k: 3
    l: 3
    t[b, h, w, c] = max((k, l), (X[b, 2*h + k - 1, 2*w + l - 1, c] or -128))
    Y[b, h, w, c] = t[b, h, w, c]""",
        [{"B": 2, "C": 20}],
    ),
    "padded rows of bytes": (
        """def k(X: u8[M, N], Y: out[u8[M + 3, N]]):
    where(1 <= M <= 70, 1 <= N <= 40)
    m: M + 3
    n: N
    Y[m, n] = (X[m - 2, n] or 200)""",
        [{"M": 1, "N": 1}, {"M": 30, "N": 20}],
    ),
    "depthwise convolution of bytes": (
        """def k(X: i8[B, 8, 8, C], W: const[i8[C, 1, 3, 3]], Y: out[f32[B, 8, 8, C]]):
    where(1 <= B <= 3, 1 <= C <= 40)
    b: B
    h: 8
    w: 8
    c: C
    k: 3
    l: 3
    t[b, h, w, c] = sum((k, l), i32((X[b, h + k - 1, w + l - 1, c] or -7)) * i32(W[c, 0, k, l]))
    Y[b, h, w, c] = f32(t[b, h, w, c])""",
        [{"B": 2, "C": 20}],
    ),
    "depthwise convolution": (
        """def k(X: f32[B, 8, 8, C], W: const[f32[C, 1, 3, 3]], Y: out[f32[B, 8, 8, C]]):
    where(1 <= B <= 3, 1 <= C <= 40)
    b: B
    h: 8
    w: 8
    c: C
    k: 3
    l: 3
    t[b, h, w, c] = sum((k, l), (X[b, h + k - 1, w + l - 1, c] or 0) * W[c, 0, k, l])
    Y[b, h, w, c] = max(t[b, h, w, c], f32(0.0))""",
        [{"B": 2, "C": 20}],
    ),
    "rotary embedding": (
        """def k(X: f16[S, H, 32], C: f32[S, 16], Z: f32[S, 16], Y: out[f16[S, H, 32]]):
    where(1 <= S <= 70, 1 <= H <= 8)
    s: S
    h: H
    d: 16
    Y[s, h, d] = f16(f32(X[s, h, d]) * C[s, d] - f32(X[s, h, d + 16]) * Z[s, d])
    Y[s, h, d + 16] = f16(f32(X[s, h, d + 16]) * C[s, d] + f32(X[s, h, d]) * Z[s, d])""",
        [{"S": 1, "H": 1}, {"S": 21, "H": 3}],
    ),
    "interleaved rotary embedding": (
        """def k(X: f32[S, 32], C: f32[S, 16], Z: f32[S, 16], Y: out[f32[S, 32]]):
    where(1 <= S <= 70)
    s: S
    d: 16
    Y[s, 2*d] = X[s, 2*d] * C[s, d] - X[s, 2*d + 1] * Z[s, d]
    Y[s, 2*d + 1] = X[s, 2*d + 1] * C[s, d] + X[s, 2*d] * Z[s, d]""",
        [{"S": 21}],
    ),
    "positions": (
        """def k(X: f32[M, N], Y: out[f32[M, N]]):
    where(1 <= M <= 90, 1 <= N <= 90)
    m: M
    n: N
    Y[m, n] = select(index(n) <= index(m), X[m, n], f32(-inf))""",
        [{"M": 1, "N": 1}, {"M": 40, "N": 33}],
    ),
}


QUICK = (
    *("three axes turned", "slice with a step", "every second element written", "concatenation", "padded columns"),
    *(
        "largest of windows",
        "largest of windows of bytes",
        "padded rows of bytes",
        "depthwise convolution of bytes",
        "interleaved rotary embedding",
        "positions",
    ),
)


@pytest.mark.parametrize("name", some(MOVES, *QUICK))
def test_moves(name: str) -> None:
    text, sizes = MOVES[name]
    for dims in sizes:
        assert_right(text, dims)


@pytest.mark.parametrize("dtype", some(["f32", "f16", "bf16", "i32", "u8"], "f16", "u8"))
def test_transposes(dtype: str) -> None:
    for dims in ({"M": 1, "N": 1}, {"M": 50, "N": 37}, {"M": 130, "N": 70}):
        assert_right(TRANSPOSE.format(dtype=dtype), dims, exact=True)
    _, program = made(TRANSPOSE.format(dtype=dtype))
    assert "transpose" in operations(program) and "gather" not in operations(program)


EMBEDDING = """def embedding(W: const[f32[50, N]], I: i64[M], P: f32[M, N], Y: out[f32[M, N]]):
    where(1 <= M <= 100, 1 <= N <= 300)
    m: M
    n: N
    Y[m, n] = W[select(I[m] < i64(0), I[m] + i64(50), I[m]), n] + P[m, n]"""


def rows_of(indices: list[int], columns: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "W": random.standard_normal((50, columns)).astype(np.float32),
        "I": np.array(indices, np.int64),
        "P": random.standard_normal((len(indices), columns)).astype(np.float32),
    }


@pytest.mark.parametrize("indices", [[3], [0, 49, -1, -50, 7, 7, 12, 31, 2, 48, 5]])
def test_rows_through_an_index(indices: list[int]) -> None:
    for columns in (1, 40):
        dims = {"M": len(indices), "N": columns}
        result = assert_right(EMBEDDING, dims, rows_of(indices, columns))
        assert not result.fault


@pytest.mark.parametrize("bad", [50, -51, 2**40])
def test_an_index_outside_the_tensor_is_a_fault(bad: int) -> None:
    _, program = made(EMBEDDING)
    result = check(program, rows_of([1, bad, 2], 20), {"M": 3, "N": 20})
    assert result.fault


ELEMENTS: dict[str, tuple[str, dict[str, int], dict[str, tuple[int, int]]]] = {
    "elements along columns": (
        """def k(X: f32[4, 50], I: i64[4, M], Y: out[f32[4, M]]):
    where(1 <= M <= 40)
    m: 4
    n: M
    Y[m, n] = X[m, select(I[m, n] < i64(0), I[m, n] + index(50), I[m, n])] * f32(2.0)""",
        {"M": 7},
        {"I": (-50, 50)},
    ),
    "elements along rows": (
        """def k(X: i64[9, N], I: i32[3, N], Y: out[i64[3, N]]):
    where(1 <= N <= 40)
    m: 3
    n: N
    Y[m, n] = X[I[m, n], n]""",
        {"N": 21},
        {"I": (0, 9)},
    ),
    "two indices": (
        """def k(X: f16[7, 9], I: i64[N, 2], Y: out[f16[N]]):
    where(1 <= N <= 40)
    n: N
    Y[n] = X[I[n, 0], I[n, 1]]""",
        {"N": 21},
        {"I": (0, 7)},
    ),
    "an index that is left out": (
        """def k(X: f32[3, 5, N], I: i64[3, N], Y: out[f32[3, N]]):
    where(1 <= N <= 40)
    m: 3
    n: N
    left[m, n] = I[m, n] == i64(-1)
    Y[m, n] = select(left[m, n], f32(0.0), X[m, select(left[m, n], i64(0), I[m, n]), n])""",
        {"N": 12},
        {"I": (-1, 5)},
    ),
    "columns through an index": (
        """def k(X: f16[M, 30], I: i64[6], Y: out[f16[M, 6]]):
    where(1 <= M <= 70)
    m: M
    n: 6
    Y[m, n] = X[m, I[n]]""",
        {"M": 33},
        {"I": (0, 30)},
    ),
}


@pytest.mark.parametrize("name", some(ELEMENTS, "elements along columns", "an index that is left out"))
def test_elements_through_an_index(name: str) -> None:
    text, dims, ranges = ELEMENTS[name]
    kernel, program = made(text)
    inputs = values(kernel, dims)
    for tensor, (low, high) in ranges.items():
        inputs[tensor] = np.random.default_rng(0).integers(low, high, inputs[tensor].shape).astype(inputs[tensor].dtype)
    assert not assert_right(text, dims, inputs, exact=True).fault
    assert unproved(program) is None


#: A cache with new rows from a position on, for each row of the batch its own; elements; whole rows.
SCATTERS: dict[str, tuple[str, dict[str, int], np.ndarray]] = {
    "cache": (
        """def k(P: f16[B, 2, C, 16], X: f16[B, 2, 3, 16], I: i64[B], Y: out[f16[B, 2, C, 16], P]):
    where(1 <= B <= 32, 3 <= C <= 128)
    b: B
    h: 2
    s: 3
    d: 16
    Y[b, h, I[b] + index(s), d] = X[b, h, s, d]""",
        {"B": 5, "C": 20},
        np.array([0, 17, 3, 5, 9]),
    ),
    "elements": (
        """def k(P: f32[4, 50], X: f32[4, 7], I: i64[4, 7], Y: out[f32[4, 50], P]):
    m: 4
    n: 7
    Y[m, select(I[m, n] < i64(0), I[m, n] + index(50), I[m, n])] = X[m, n] * f32(2.0)""",
        {},
        np.stack([np.random.default_rng(n).permutation(50)[:7] - 25 for n in range(4)]),
    ),
    "rows": (
        """def k(P: i32[9, N], X: i32[M, N], I: i64[M, 1], Y: out[i32[9, N], P]):
    where(1 <= M <= 9, 1 <= N <= 300)
    m: M
    n: N
    Y[I[m, 0], n] = X[m, n]""",
        {"M": 6, "N": 33},
        np.random.default_rng(0).permutation(9)[:6, None],
    ),
}


@pytest.mark.parametrize("name", SCATTERS)
def test_writes_through_an_index(name: str) -> None:
    text, dims, index = SCATTERS[name]
    kernel, program = made(text)
    inputs = {**values(kernel, dims), "I": index}
    assert not assert_right(text, dims, inputs, exact=True).fault
    assert unproved(program) is None
    first = index.copy()
    first.flat[0] = 1000
    assert check(program, {**inputs, "I": first}, dims).fault


def test_an_index_that_is_computed_is_refused() -> None:
    text = EMBEDDING.replace("select(I[m] < i64(0), I[m] + i64(50), I[m])", "I[m] * i64(2)")
    with pytest.raises(UnsupportedError, match="index"):
        made(text)
