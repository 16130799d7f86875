"""The work of known kernels, by hand, at symbolic sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from tilewright.cost import work_of
from tilewright.ir.parse import parse
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.print import print_kernel
from tilewright.kernel.tile import Kernel

from tests.kernel.trial_kernels import flash_attention, matmul_bias_gelu, row_softmax

DEPTHWISE = """
@kernel
def depthwise(X: f32[B, 32, H, W], F: const[f32[32, 3, 3]], Y: out[f32[B, 32, H, W]]):
    where(1 <= B <= 64, 3 <= H <= 512, 3 <= W <= 512)
    b: B; c: 32; h: H; w: W; i: 3; j: 3
    acc[b, c, h, w] = sum((i, j), (X[b, c, h + i - 1, w + j - 1] or 0) * F[c, i, j])
    Y[b, c, h, w] = max(acc[b, c, h, w], f32(0.0))
"""
CONV = """
@kernel
def conv(X: f32[B, H, W, 16], F: const[f32[3, 3, 16, 24]], Y: out[f32[B, H, W, 24]]):
    where(1 <= B <= 64, 3 <= H <= 512, 3 <= W <= 512)
    b: B; h: H; w: W; o: 24; i: 3; j: 3; c: 16
    acc[b, h, w, o] = sum((i, j, c), (X[b, h + i - 1, w + j - 1, c] or 0) * F[i, j, c, o])
    Y[b, h, w, o] = acc[b, h, w, o]
"""
GATHER = """
@kernel
def gather(T: const[f32[30000, 64]], I: i64[N], Y: out[f32[N, 64]]):
    where(1 <= N <= 65536)
    n: N; d: 64
    Y[n, d] = T[I[n], d]
"""
TRANSPOSE = """
@kernel
def transpose(X: f32[M, N], Y: out[f32[N, M]]):
    where(1 <= M <= 512, 1 <= N <= 512)
    n: N; m: M
    Y[n, m] = X[m, n]
"""
SLICE = """
@kernel
def slice(X: f32[M, 64], Y: out[f32[M, 16]]):
    where(1 <= M <= 512)
    m: M; n: 16
    Y[m, n] = X[m, n + 8]
"""
SCATTER = """
@kernel
def scatter(X: f32[S, 64], I: i64[N], U: f32[N, 64], Y: out[f32[S, 64], X]):
    where(1 <= N <= 512, 1 <= S <= 512)
    n: N; d: 64
    Y[I[n], d] = U[n, d]
"""
COPY = """
@kernel
def copy(X: f32[M, 64], Y: out[f32[64*M]]):
    where(1 <= M <= 512)
    m: M; n: 64
    Y[64*m + n] = X[m, n]
"""
QUANTIZED = """
@kernel
def quantized(A: u8[M, 64], B: const[i8[64, 32]], C: out[i32[M, 32]]):
    where(1 <= M <= 512)
    m: M; n: 32; k: 64
    acc[m, n] = sum(k, i32(A[m, k]) * i32(B[k, n]))
    C[m, n] = acc[m, n]
"""
SCALED = """
@kernel
def scaled(A: f32[M, 64], S: f32[M], B: const[f32[64, 32]], C: out[f32[M, 32]]):
    where(1 <= M <= 512)
    m: M; n: 32; k: 64
    acc[m, n] = sum(k, (A[m, k] * S[m]) * B[k, n])
    C[m, n] = acc[m, n]
"""


@dataclass(frozen=True)
class Case:
    """A kernel, and what it has to do as text over its dimensions."""

    kernel: Kernel
    kind: str
    flops: str
    read: str
    written: str
    constants: str = "0"
    dtype: str = "f32"
    functions: dict[str, str] = field(default_factory=dict)
    conversion: bool = False


CASES = {
    "matmul": Case(
        matmul_bias_gelu(),
        "contraction",
        # the product, then bias, and gelu: y * 0.5 * (1 + erf(y * c))
        flops=f"{2 * 768 * 768}*M + {5 * 768}*M",
        read=f"{4 * 768}*M",
        written=f"{4 * 768}*M",
        constants=str(4 * (768 * 768 + 768)),
        functions={"erf": "768*M"},
    ),
    "conv": Case(
        parse_kernel(CONV),
        "contraction",
        flops=f"{2 * 9 * 16 * 24}*B*H*W",
        read="64*B*H*W",
        written="96*B*H*W",
        constants=str(4 * 9 * 16 * 24),
    ),
    "depthwise": Case(
        parse_kernel(DEPTHWISE),
        "window",
        flops=f"{(2 * 9 + 1) * 32}*B*H*W",
        read="128*B*H*W",
        written="128*B*H*W",
        constants=str(4 * 9 * 32),
    ),
    "scatter": Case(parse_kernel(SCATTER), "movement", flops="0", read="8*N + 256*N", written="256*N", dtype=""),
    "softmax": Case(
        row_softmax(),
        "rows",
        flops="3*M*N",  # the maximum, the difference, the sum
        read="4*M*N",
        written="4*M*N",
        functions={"exp": "M*N", "div": "M*N"},
    ),
    "attention": Case(
        flash_attention(depth=64),
        "scan",
        # two products, the scale, the maximum, the difference, the sum; then what is computed once for each row
        flops="4*64*B*H*S*T + 4*B*H*S*T + 2*64*B*H*S + 4*B*H*S",
        read="256*B*H*S + 512*B*H*T",
        written="256*B*H*S",
        functions={"exp": "B*H*S*T + B*H*S", "div": "64*B*H*S"},
    ),
    "gather": Case(parse_kernel(GATHER), "movement", "0", "8*N", "256*N", constants="256*min(30000, N)", dtype=""),
    "transpose": Case(parse_kernel(TRANSPOSE), "movement", "0", "4*M*N", "4*M*N", dtype="", conversion=True),
    "copy": Case(parse_kernel(COPY), "movement", "0", "256*M", "256*M", dtype=""),
    "slice": Case(parse_kernel(SLICE), "movement", "0", "64*M", "64*M", dtype=""),
    "quantized": Case(parse_kernel(QUANTIZED), "contraction", "4096*M", "64*M", "128*M", constants="2048", dtype="u8"),
    "scaled operand": Case(parse_kernel(SCALED), "contraction", "4096*M + 64*M", "260*M", "128*M", constants="8192"),
}


@pytest.mark.parametrize("name", CASES)
def test_work_by_hand(name: str) -> None:
    case = CASES[name]
    found = work_of(case.kernel)
    assert (found.kind, found.dtype, found.conversion) == (case.kind, case.dtype, case.conversion)
    assert found.flops == parse(case.flops)
    assert dict(found.functions) == {f: parse(n) for f, n in case.functions.items()}
    assert (found.read, found.written, found.constants) == tuple(map(parse, (case.read, case.written, case.constants)))


def test_a_gather_of_many_rows_reads_the_table_once() -> None:
    amount = work_of(parse_kernel(GATHER)).at({"N": 65536})
    assert amount.constants == 4 * 30000 * 64


@pytest.mark.parametrize("length", [1, 7, 128])
def test_hidden_keys_are_no_work(length: int) -> None:
    """Row i of a causal attention sees i + 1 columns, of which there are as many as rows."""
    text = print_kernel(flash_attention(depth=64, mask="causal"))
    causal, full = work_of(parse_kernel(re.sub(r"\bT\b", "S", text))), work_of(flash_attention(depth=64))
    sizes = {"B": 2, "H": 3, "S": length, "T": length}
    seen, all_pairs = 6 * length * (length + 1) // 2, 6 * length * length
    assert causal.at(sizes).functions["exp"] == seen + 6 * length
    # the two products, and the scale, the maximum, the difference and the sum of each score
    assert full.at(sizes).flops - causal.at(sizes).flops == (4 * 64 + 4) * (all_pairs - seen)


def test_nothing_is_taken_to_be_hidden_where_rows_may_see_nothing() -> None:
    """With more rows than columns the first rows of this mask see none: their count is no longer a sum of a series."""
    causal, full = (work_of(flash_attention(depth=64, mask=mask)) for mask in ("causal", "none"))
    assert causal.flops == full.flops


def test_renamed_symbols() -> None:
    work = work_of(parse_kernel(TRANSPOSE)).substitute({"M": parse("2*K")})
    assert work.read == parse("8*K*N")
    assert work.at({"K": 3, "N": 5}).bytes == 2 * 8 * 15
