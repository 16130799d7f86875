"""Generated C of the trial kernels on each level that this machine has, against the lowered interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from tilewright.backends.cpu.schedule import schedules
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel

from tests.cpu.harness import LEVELS, TARGETS, by_level, compile_kernel
from tests.kernel import trial_kernels


@dataclass(frozen=True)
class Case:
    """A kernel, the dimensions to run it with, and the largest error over the largest expected magnitude."""

    name: str
    kernel: Kernel
    dims: tuple[dict[str, int], ...]
    tolerance: float = 2e-6
    inputs: dict[str, np.ndarray] = field(default_factory=dict)


MATMUL_TEXT = """
@kernel
def {name}(A: f32[{a}], B: {b}, C: out[f32[M, {n}]]):
    where(1 <= M <= 4096)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, {left} * {right})
    C[m, n] = acc[m, n]
"""


def _matmul(name: str, a: str, b: str, left: str, right: str, *, n: int = 33, k: int = 40) -> Kernel:
    return parse_kernel(MATMUL_TEXT.format(name=name, a=a, b=b, left=left, right=right, n=n, k=k))


NORM = """
@kernel
def norm(X: f32[M, 100], R: f32[M, 100], g: const[f32[100]], Y: out[f32[M, 100]], mean_out: out[f32[M]]):
    where(1 <= M <= 4096)
    m: M
    n: 100
    x[m, n] = X[m, n] + R[m, n]
    total[m] = sum(n, x[m, n])
    mean[m] = total[m] * f32(0.01)
    c[m, n] = x[m, n] - mean[m]
    squares[m] = sum(n, c[m, n] * c[m, n])
    r[m] = rsqrt(squares[m] * f32(0.01) + f32(1e-12))
    Y[m, n] = c[m, n] * r[m] * g[n]
    mean_out[m] = mean[m]
"""
EMBEDDING = """
@kernel
def embedding(ids: i64[M], table: const[f32[50, 36]], Y: out[f32[M, 36]]):
    where(1 <= M <= 4096)
    m: M
    n: 36
    Y[m, n] = table[ids[m], n]
"""
TRANSPOSE = """
@kernel
def transpose(X: f32[M, 24], Y: out[f32[24, M]]):
    where(1 <= M <= 4096)
    m: M
    n: 24
    Y[n, m] = X[m, n]
"""
SPLIT_HEADS = """
@kernel
def split_heads(X: f32[M, 96], Y: out[f32[3, M, 32]]):
    where(1 <= M <= 4096)
    h: 3
    m: M
    d: 32
    Y[h, m, d] = X[m, h*32 + d]
"""
MERGE_HEADS = """
@kernel
def merge_heads(X: f32[3, M, 32], Y: out[f32[M, 96]]):
    where(1 <= M <= 4096)
    m: M
    n: 96
    Y[m, n] = X[n // 32, m, n % 32]
"""
COLUMN_SUM = """
@kernel
def column_sum(X: f32[M, 20], Y: out[f32[20]]):
    where(1 <= M <= 4096)
    m: M
    n: 20
    total[n] = sum(m, X[m, n])
    Y[n] = total[n]
"""
FREE_DEPTH = """
@kernel
def free_depth(A: {dtype}[M, K], B: {dtype}[{b}], C: out[f32[M, N]]):
    where(1 <= M, 1 <= N, 1 <= K)
    m: M
    n: N
    k: K
    acc[m, n] = sum(k, {left} * {right})
    C[m, n] = acc[m, n]
"""
FREE = tuple({"M": m, "N": n, "K": k} for m, n, k in ((1, 1, 1), (5, 33, 17), (30, 70, 19)))
PAD = """
@kernel
def pad(X: f32[M, 5], Y: out[f32[M + 2, 8]]):
    where(1 <= M <= 4096)
    m: M + 2
    n: 8
    Y[m, n] = X[m - 1, n - 2] or 7
"""

ROWS = tuple({"M": m} for m in (1, 7, 13, 15, 100, 130))
CASES = [
    Case("matmul-bias-gelu", trial_kernels.matmul_bias_gelu(k=100, n=33), ROWS),
    Case("matmul-bias-gelu-deep", trial_kernels.matmul_bias_gelu(k=768, n=64), ROWS[:3]),
    Case("matmul-bias-gelu-f16", trial_kernels.matmul_bias_gelu("f16", 40, 48), ROWS[:4], 1e-3),
    Case("matmul-bias-gelu-bf16", trial_kernels.matmul_bias_gelu("bf16", 40, 48), ROWS[:4], 1e-2),
    Case("matmul-transposed-constant", _matmul("mt", "M, 40", "const[f32[33, 40]]", "A[m, k]", "B[n, k]"), ROWS),
    Case("matmul-transposed-a", _matmul("ma", "40, M", "const[f32[40, 33]]", "A[k, m]", "B[k, n]"), ROWS),
    Case("matmul-two-inputs", _matmul("mi", "M, 40", "f32[40, 33]", "A[m, k]", "B[k, n]"), ROWS),
    Case("matmul-two-inputs-transposed", _matmul("mj", "M, 40", "f32[33, 40]", "A[m, k]", "B[n, k]"), ROWS),
    Case("matmul-computed-operand", _matmul("mc", "M, 40", "const[f32[40, 33]]", "abs(A[m, k])", "B[k, n]"), ROWS),
    Case("conv", trial_kernels.conv3x3_residual_relu(15, 14, 24, 40), ({"B": 1}, {"B": 3})),
    Case("row-softmax", trial_kernels.row_softmax(),
         tuple({"M": m, "N": n} for m, n in ((1, 1), (3, 17), (9, 100), (40, 513)))),
    *(Case(f"attention-{mask}-{d}", trial_kernels.flash_attention(depth=d, mask=mask),
           tuple({"B": b, "H": h, "S": s, "T": t} for b, h, s, t in sizes), 4e-6)
      for mask, d, sizes in (
          ("none", 64, ((1, 2, 8, 8), (2, 1, 30, 300))),
          ("additive", 40, ((1, 2, 13, 33), (2, 3, 5, 17))),
          ("causal", 32, ((1, 1, 33, 33), (1, 1, 7, 290))))),
    Case("attention-f16", trial_kernels.flash_attention("f16", 32), ({"B": 1, "H": 2, "S": 9, "T": 21},), 3e-3),
    Case("matmul-all-sizes-free",
         parse_kernel(FREE_DEPTH.format(dtype="f32", b="K, N", left="A[m, k]", right="B[k, n]")), FREE),
    Case("matmul-all-sizes-free-transposed",
         parse_kernel(FREE_DEPTH.format(dtype="f32", b="N, K", left="abs(A[m, k])", right="B[n, k]")), FREE),
    Case("matmul-all-sizes-free-f16",
         parse_kernel(FREE_DEPTH.format(dtype="f16", b="N, K", left="f32(A[m, k])", right="f32(B[n, k])")), FREE),
    Case("norm", parse_kernel(NORM), ROWS),
    Case("embedding", parse_kernel(EMBEDDING), ROWS, 0),
    Case("transpose", parse_kernel(TRANSPOSE), ROWS, 0),
    Case("split-heads", parse_kernel(SPLIT_HEADS), ROWS, 0),
    Case("merge-heads", parse_kernel(MERGE_HEADS), ROWS, 0),
    Case("column-sum", parse_kernel(COLUMN_SUM), ROWS),
    Case("pad", parse_kernel(PAD), ROWS, 0),
]  # fmt: skip

#: What runs on every level in the ordinary suite: each way in which kernels are laid out, once.
QUICK = (
    "matmul-bias-gelu",
    "matmul-bias-gelu-f16",
    "matmul-two-inputs-transposed",
    "conv",
    "row-softmax",
    "attention-causal-32",
    "norm",
    "transpose",
    "pad",
)


def _tensors(kernel: Kernel, dims: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(kernel.name) + sum(dims.values()))
    found = {}
    for p in kernel.params:
        shape = [s.evaluate(dims) for s in p.shape]
        if p.role != "out":
            found[p.name] = (
                rng.integers(0, 50, shape).astype(p.dtype.numpy)
                if p.dtype.is_integer
                else rng.standard_normal(shape).astype(p.dtype.numpy)
            )
    return found


def _compare(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        g, e = got[name].astype(np.float64), array.astype(np.float64)
        error = np.abs(g - e).max() / max(1e-30, np.abs(e).max())
        assert error <= tolerance, f"{name}: {error}"


@pytest.mark.parametrize("case, level", by_level(CASES, QUICK, lambda c: c.name))
def test_numbers(case: Case, level: str) -> None:
    compiled = compile_kernel(case.kernel, level)
    for dims in case.dims:
        tensors = _tensors(case.kernel, dims)
        _compare(compiled(tensors, dims), run_lowered(case.kernel, tensors, dims), case.tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_same_bytes_for_every_split_of_the_grid(case: Case) -> None:
    compiled = compile_kernel(case.kernel, LEVELS[-1])
    for dims in case.dims:
        tensors = _tensors(case.kernel, dims)
        whole = compiled(tensors, dims)
        for splits in ((1,), (2, 3, 5), tuple(range(1, 200))):
            for name, array in compiled(tensors, dims, splits).items():
                np.testing.assert_array_equal(array.view(np.uint8), whole[name].view(np.uint8), err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_legal_schedule_gives_the_numbers(case: Case) -> None:
    dims = case.dims[-1]
    tensors = _tensors(case.kernel, dims)
    expected = run_lowered(case.kernel, tensors, dims)
    for schedule in schedules(case.kernel, TARGETS[LEVELS[-1]]):
        _compare(compile_kernel(case.kernel, LEVELS[-1], schedule)(tensors, dims), expected, case.tolerance)
