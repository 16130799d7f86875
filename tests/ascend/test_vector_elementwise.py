"""Element-wise kernels on vector cores: broadcasts, types, comparisons and selections."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
import pytest
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import schedules
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.errors import UnsupportedError
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel

from tests.ascend.single import hard
from tests.ascend.trials import targets
from tests.ascend.vector import assert_right, made, operations, some, values

#: Kernel text and the sizes to run it at: one element, ragged, several blocks.
BROADCASTS: dict[str, tuple[str, list[Mapping[str, int]]]] = {
    "one axis": (
        """def k(X: f32[N], Y: f32[N], Z: out[f32[N]]):
    where(1 <= N <= 100000)
    n: N
    Z[n] = X[n] * Y[n] + f32(1.5)""",
        [{"N": 1}, {"N": 37}, {"N": 30000}],
    ),
    "row, column and number": (
        """def k(X: f16[M, N], R: f16[N], C: f16[M, 1], S: f16[1], Z: out[f16[M, N]]):
    where(1 <= M <= 500, 1 <= N <= 700)
    m: M
    n: N
    Z[m, n] = (X[m, n] + R[n]) * C[m, 0] - S[0]""",
        [{"M": 1, "N": 1}, {"M": 33, "N": 45}, {"M": 130, "N": 7}],
    ),
    "outer": (
        """def k(A: f32[M], B: f32[N], Z: out[f32[M, N]]):
    where(1 <= M <= 100, 1 <= N <= 100)
    m: M
    n: N
    Z[m, n] = max(A[m], B[n])""",
        [{"M": 1, "N": 1}, {"M": 40, "N": 70}],
    ),
    "four axes, the middle ones missing": (
        """def k(X: f32[A, B, C, D], Y: f32[A, D], Z: out[f32[A, B, C, D]]):
    where(1 <= A <= 4, 1 <= B <= 5, 1 <= C <= 6, 1 <= D <= 40)
    a: A
    b: B
    c: C
    d: D
    Z[a, b, c, d] = X[a, b, c, d] / (Y[a, d] * Y[a, d] + f32(1.0))""",
        [{"A": 2, "B": 3, "C": 5, "D": 17}],
    ),
    "the last axis missing in four": (
        """def k(X: f32[A, B, C, D], Y: f32[A, C], Z: out[f32[A, B, C, D]]):
    where(1 <= A <= 4, 1 <= B <= 5, 1 <= C <= 6, 1 <= D <= 40)
    a: A
    b: B
    c: C
    d: D
    Z[a, b, c, d] = X[a, b, c, d] - Y[a, c]""",
        [{"A": 2, "B": 3, "C": 5, "D": 17}],
    ),
    "two outputs": (
        """def k(X: f32[M, N], Y: out[f32[M, N]], Z: out[f16[M, N]]):
    where(1 <= M <= 50, 1 <= N <= 90)
    m: M
    n: N
    t[m, n] = exp(X[m, n])
    Y[m, n] = t[m, n]
    Z[m, n] = f16(t[m, n] * t[m, n])""",
        [{"M": 21, "N": 34}],
    ),
    "outputs over different axes": (
        """def k(X: f32[M, N], R: f32[N], Y: out[f32[M, N]], Z: out[f32[N]]):
    where(1 <= M <= 50, 1 <= N <= 90)
    m: M
    n: N
    Y[m, n] = X[m, n] + R[n]
    Z[n] = R[n] * f32(2.0)""",
        [{"M": 21, "N": 34}],
    ),
}


@pytest.mark.parametrize(
    "name", some(BROADCASTS, "row, column and number", "the last axis missing in four", "outputs over different axes")
)
@pytest.mark.parametrize("target", ["ascend:910b3"])
def test_broadcasts(name: str, target: str) -> None:
    text, sizes = BROADCASTS[name]
    for dims in sizes:
        assert_right(text, dims, target=target)


def unary(dtype: str, value: str, result: str = "") -> str:
    """A kernel that computes ``value`` of x."""
    return f"""def k(X: {dtype}[N], Y: {dtype}[N], Z: out[{result or dtype}[N]]):
    where(1 <= N <= 3000)
    n: N
    Z[n] = {value.replace("x", "X[n]").replace("y", "Y[n]")}"""


EXACT = {
    "floor": ("f32", "floor(x)", ""),
    "ceil": ("f32", "ceil(x)", ""),
    "round": ("f32", "round(x)", ""),
    "half floor": ("f16", "floor(x)", ""),
    "sign": ("f32", "sign(x)", ""),
    "negation": ("f32", "-x", ""),
    "less": ("f32", "x < y", "bool"),
    "or": ("f32", "x < y or y <= f32(0.0)", "bool"),
    "and not": ("f32", "x < y and not (y >= f32(0.0))", "bool"),
    "not a number": ("f32", "isnan(x)", "bool"),
    "infinite": ("f32", "isinf(x)", "bool"),
    "choice": ("f32", "select(x < y, x, y * f32(2.0))", ""),
    "choice of numbers": ("f16", "select(x == y, f16(1.0), f16(-1.0))", ""),
    "choice by a conjunction": ("f32", "select(x < y and x > f32(0.0), x, f32(0.0))", ""),
    "to i32": ("f32", "i32(x * f32(1000.0))", "i32"),
    "to i64": ("f32", "i64(x * f32(1000.0))", "i64"),
    "to i8": ("f32", "i8(x * f32(30.0))", "i8"),
    "to bool": ("f32", "bool(x)", "bool"),
    "bf16": ("bf16", "x + y", ""),
    "i32 sum": ("i32", "x + y * i32(100000)", ""),
    "i32 order": ("i32", "x * i32(40000000) < y * i32(30000000)", "bool"),
    "i32 equality": ("i32", "x == y", "bool"),
    "i32 choice": ("i32", "select(x < y, x * i32(1000000), y)", ""),
    "i32 to f32": ("i32", "f32(x)", "f32"),
    "i64 order": ("i64", "x < y", "bool"),
    "i64 equality": ("i64", "x == y", "bool"),
    "i64 against a number": ("i64", "x >= i64(0)", "bool"),
    "i64 to f32": ("i64", "f32(x)", "f32"),
    "u8 to f32": ("u8", "f32(x) + f32(1.0)", "f32"),
    "u8 order": ("u8", "x < y", "bool"),
    "i8 average": ("i8", "i8((i32(x) + i32(y)) / i32(2))", ""),
    "i8 remainder": ("i8", "x % i8(7)", ""),
    "truth values": ("bool", "(x and y) or not x", ""),
}


#: One of each way that numbers and truth values take.
QUICK = (
    *("floor", "sign", "and not", "not a number", "choice by a conjunction", "to i64", "to i8", "bf16"),
    *("i32 order", "i32 choice", "i64 order", "i64 against a number", "i8 remainder", "truth values"),
)


@pytest.mark.parametrize("name", some(EXACT, *QUICK))
def test_exact_operations(name: str) -> None:
    dtype, value, result = EXACT[name]
    text = unary(dtype, value, result)
    for n in (1, 700):
        kernel, _ = made(text)
        inputs = values(kernel, {"N": n})
        if dtype in ("f32", "f16") and n > 8 and result not in ("i32", "i64", "i8"):
            inputs["X"][:8] = [0.5, 1.5, -0.5, -2.5, np.nan, np.inf, -np.inf, 0.0]
            inputs["Y"][3:6] = [-2.5, 1.0, np.inf]
        if name.startswith("i64") and n > 8:
            inputs["X"][:6] = [2**40, -(2**40), 2**33 + 5, 2**62, -1, 2**31]
            inputs["Y"][:6] = [2**40 + 1, -(2**40) - 1, 2**33 + 5, -(2**62), 2**32 - 1, -(2**31)]
        assert_right(text, {"N": n}, inputs, exact=True)


REFUSED = {
    "i64 beyond 32 bits": unary("i64", "x + y"),
    "a power": unary("f32", "x ** y"),
    "f64": unary("f64", "x + y"),
    "u64 beyond 32 bits": unary("u64", "x + y"),
}

#: Of 8 and 16 bits: results of which the low bits stay, and bit by bit.
SHORT = [("u8", "+"), ("i8", "-"), ("i16", "*"), ("i8", "*"), ("i16", "&"), ("u8", "|"), ("i8", "^")]


@pytest.mark.parametrize("dtype, op", SHORT)
def test_short_integers(dtype: str, op: str) -> None:
    text = unary(dtype, f"x {op} y")
    kernel, program = made(text)
    inputs = {p.name: hard(p.dtype, [300], np.random.default_rng(0)) for p in kernel.params if p.role != "out"}
    assert_right(text, {"N": 300}, inputs, exact=True)
    assert unproved(program) is None


def test_a_comparison_of_positions_with_64_bits() -> None:
    text = """def k(X: i64[N], Y: out[bool[N]]):
    where(0 <= N <= 900)
    n: N
    Y[n] = X[n] == index(n)"""
    x = np.arange(300)
    x[::7] -= 1
    x[5] = 2**40 + 5
    assert_right(text, {"N": 300}, {"X": x}, exact=True)
    assert_right(text, {"N": 0}, {"X": x[:0]}, exact=True)


@pytest.mark.parametrize("op", ["<=", ">", "=="])
def test_a_comparison_with_a_single_integer_of_64_bits(op: str) -> None:
    text = f"""def k(X: i64[N], R: i64[1], Y: out[bool[N]]):
    where(0 <= N <= 900)
    n: N
    Y[n] = X[n] {op} R[0]"""
    for single in (7, -(2**40), 2**33 + 5):
        x = np.arange(40) - 20 + np.resize([0, single, single & 0xFFFFFFFF], 40)
        x[::9] = single
        assert_right(text, {"N": 40}, {"X": x, "R": np.array([single])}, exact=True)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_instructions_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        made(REFUSED[name])
    assert refused.value.code == "ascend-vector"


def test_what_is_only_moved_takes_no_vector_instruction() -> None:
    _, program = made(unary("i64", "x"))
    assert operations(program) == ["copy_in", "copy_out"]


def test_a_sum_takes_one_vector_instruction() -> None:
    _, program = made(unary("f32", "x + y"))
    assert operations(program) == ["copy_in", "copy_in", "add", "copy_out"]


@pytest.mark.parametrize("target", ["ascend:910b3", "ascend:310p3"])
@pytest.mark.parametrize("op", ["abs(X[m, n])", "-X[m, n]"])
@pytest.mark.parametrize("dtype", ["i8", "i32"])
def test_integers_without_their_sign_and_with_the_other_one(dtype: str, op: str, target: str) -> None:
    """The lowest number has no opposite: it stays."""
    text = f"""def k(X: {dtype}[M, 64], Y: out[{dtype}[M, 64]]):
    where(1 <= M <= 20)
    m: M
    n: 64
    Y[m, n] = {op}"""
    x = np.random.default_rng(0).integers(-128, 128, (20, 64)).astype(np.int8 if dtype == "i8" else np.int32)
    x[0, :2] = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
    assert_right(text, {"M": 20}, {"X": x}, target=target)


def test_integers_of_64_bits_go_round_a_tile_one_by_one_or_not_at_all() -> None:
    """No instruction copies them within the unified buffer."""
    text = """def k(X: i64[M, 7], Y: out[i64[2 * M, 14]]):
    where(1 <= M <= 64)
    b: 2 * M
    m: 2
    n: 7
    Y[b, 7 * m + n] = X[b % M, n]"""
    kernel = parse_kernel(f"@kernel\n{text}")
    target = targets()["ascend:910b3"]
    for schedule in islice(schedules(kernel, target), 8):
        try:
            program = place(apply(kernel, schedule), target)
        except UnsupportedError as error:
            assert "copy of i64" in error.cause
            continue
        x = np.arange(35).reshape(5, 7)
        np.testing.assert_array_equal(check(program, {"X": x}, {"M": 5}).outputs["Y"], np.tile(x, (2, 2)))
