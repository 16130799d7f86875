"""Products and convolutions under schedules of every kind, in Triton's interpreter: edges, splits, order, packs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.ir.symbolic import constant, symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Pack, Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

from tests.kernel import trial_kernels

from .cases import Array, block, empty_outputs, in_memory, inputs, int8_matmul, pipeline


def convolution(
    dtype: str = "f32", size: int = 9, ci: int = 12, co: int = 20, kernel: int = 3, step: int = 2, spread: int = 1
) -> Kernel:
    """As ONNX's Conv becomes it, channels last: rows of the image as one axis, filters in memory as they came."""
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    pad = spread * (kernel // 2)
    out = (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
    narrow = (lambda x: x) if dtype == "f32" else (lambda x: f"{dtype}({x})")
    row, column = f"{spread}*kh + {step}*((m // {out}) % {out}) - {pad}", f"{spread}*kw + {step}*(m % {out}) - {pad}"
    at = f"X[m // {out * out}, {row}, {column}, c]"
    return parse_kernel(f"""
@kernel
def convolution(X: {dtype}[B, {size}, {size}, {ci}], W: const[{dtype}[{co}, {ci}, {kernel}, {kernel}]],
                bias: const[f32[{co}]], Y: out[{dtype}[{out * out}*B, {co}]]):
    where(1 <= B <= 32)
    m: {out * out}*B
    n: {co}
    kh: {kernel}
    kw: {kernel}
    c: {ci}
    acc[m, n] = sum((kh, kw, c), {wide(f"({at} or 0)")} * {wide("W[n, c, kh, kw]")})
    Y[m, n] = {narrow("max(acc[m, n] + bias[n], f32(0.0))")}
""")


def depthwise(dtype: str = "f32", size: int = 9, channels: int = 20, step: int = 2) -> Kernel:
    """A filter of its own for each channel, as ONNX's Conv of as many groups becomes it."""
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    out = (size - 1) // step + 1
    at = f"X[a, {step}*b + kh - 1, {step}*m + kw - 1, n]"
    result = "min(max(acc[a, b, m, n] + bias[n], f32(0.0)), f32(6.0))"
    return parse_kernel(f"""
@kernel
def depthwise(X: {dtype}[B, {size}, {size}, {channels}], W: const[{dtype}[{channels}, 1, 3, 3]],
              bias: const[f32[{channels}]], Y: out[{dtype}[B, {out}, {out}, {channels}]]):
    where(1 <= B <= 32)
    a: B
    b: {out}
    m: {out}
    n: {channels}
    kh: 3
    kw: 3
    acc[a, b, m, n] = sum((kh, kw), {wide(f"({at} or 0)")} * {wide("W[n, 0, kh, kw]")})
    Y[a, b, m, n] = {result if dtype == "f32" else f"{dtype}({result})"}
""")


def grouped(dtype: str = "f32") -> Kernel:
    """A convolution of two groups: the group is an axis of both operands."""
    return parse_kernel(f"""
@kernel
def grouped(X: {dtype}[B, 9, 24], W: const[{dtype}[40, 12, 3]], Y: out[{dtype}[B, 9, 40]]):
    where(1 <= B <= 8)
    b: B
    m: 9
    g: 2
    n: 20
    k: 3
    c: 12
    acc[b, m, g, n] = sum((k, c), (X[b, m + k - 1, 12*g + c] or 0) * W[20*g + n, c, k])
    Y[b, m, 20*g + n] = acc[b, m, g, n]
""")


def transposed() -> Kernel:
    """A transposed convolution of stride 2: rows of the result belong to one of two phases of the filter."""
    return parse_kernel("""
@kernel
def transposed(X: f32[B, 7, 10], W: const[f32[10, 12, 4]], Y: out[f32[B, 14, 12]]):
    where(1 <= B <= 8)
    b: B
    m: 7
    p: 2
    n: 12
    k: 2
    c: 10
    acc[b, m, p, n] = sum((k, c), (X[b, m + p - k, c] or 0) * W[c, n, 2*k + 1 - p])
    Y[b, 2*m + p, n] = acc[b, m, p, n]
""")


def gated() -> Kernel:
    """Two products of one operand, the result of one the gate of the other."""
    return parse_kernel("""
@kernel
def gated(A: f16[M, 48], G: const[f16[48, 40]], U: const[f16[48, 40]], C: out[f16[M, 40]], S: out[f32[M, 40]]):
    where(1 <= M <= 256)
    m: M
    n: 40
    k: 48
    gate[m, n] = sum(k, f32(A[m, k]) * f32(G[k, n]))
    up[m, n] = sum(k, f32(A[m, k]) * f32(U[k, n]))
    C[m, n] = f16(gate[m, n] * sigmoid(gate[m, n]) * up[m, n])
    S[m, n] = up[m, n]
""")


def batched(dtype: str = "f16") -> Kernel:
    """A product for each of a batch, all sizes symbolic."""
    return parse_kernel(f"""
@kernel
def batched(A: {dtype}[B, M, K], C: {dtype}[B, K, N], Y: out[{dtype}[B, M, N]]):
    where(1 <= B <= 8, 1 <= M <= 256, 1 <= N <= 256, 1 <= K <= 256)
    b: B
    m: M
    n: N
    k: K
    acc[b, m, n] = sum(k, f32(A[b, m, k]) * f32(C[b, k, n]))
    Y[b, m, n] = {dtype}(acc[b, m, n])
""")


def mixed_bytes(left: str, right: str, k: int = 75) -> Kernel:
    """Integers of 8 bits, signed or not, with per-channel requantization."""
    return parse_kernel(f"""
@kernel
def mixed_bytes(A: {left}[M, {k}], B: const[{right}[{k}, 40]], scale: const[f32[40]], C: out[i8[M, 40]],
                S: out[i32[M, 40]]):
    where(1 <= M <= 4096)
    m: M
    n: 40
    k: {k}
    acc[m, n] = sum(k, i32(A[m, k]) * i32(B[k, n]))
    S[m, n] = acc[m, n]
    C[m, n] = i8(max(min(round(f32(acc[m, n]) * scale[n] * f32(0.01)), f32(127.0)), f32(-128.0)))
""")


def integers() -> Kernel:
    """A product of 32-bit integers, which the matrix unit does not take."""
    return parse_kernel("""
@kernel
def integers(A: i32[M, 10], B: i32[10, 9], C: out[i32[M, 9]]):
    where(1 <= M <= 64)
    m: M
    n: 9
    k: 10
    acc[m, n] = sum(k, A[m, k] * B[k, n])
    C[m, n] = acc[m, n]
""")


_SPLIT = (("split:k", 4), ("programs", 12))
MATMUL = Schedule((block("n", 32), block("m", 16)), (pipeline("k", 16),))


def matmul(dtype: str) -> Callable[[], Kernel]:
    return lambda: trial_kernels.matmul_bias_gelu(dtype, k=100, n=72)


_BLOCKS = (("persistent", 4), ("descriptors", True))
_D0, _D1 = symbol("d0"), symbol("d1")
BYTES = Schedule(
    (block("n", 32), block("m", 16)),
    (pipeline("k", 32),),
    packs=(Pack("B", (_D1, _D0), (constant(72), constant(96))),),
    extra=_BLOCKS,
)


def aligned(dtype: str) -> Callable[[], Kernel]:
    """Rows at multiples of 16 bytes; neither depth nor columns are multiples of a tile's."""
    return int8_matmul if dtype == "i8" else lambda: trial_kernels.matmul_bias_gelu(dtype, k=88, n=72)


@dataclass(frozen=True, slots=True)
class Case:
    """``schedule``: ``None`` is the first guess for sm_90. ``tolerance``: over the largest result."""

    name: str
    build: Callable[[], Kernel]
    schedule: Schedule | None
    sizes: dict[str, int]
    tolerance: float = 2e-6


CASES = (
    Case("one row, split in 4", matmul("f32"), replace(MATMUL, extra=_SPLIT), {"M": 1}),
    Case("two rows of tiles, split in 2", matmul("f16"), replace(MATMUL, extra=_SPLIT), {"M": 20}, 1e-3),
    Case("many rows, no split", matmul("f32"), replace(MATMUL, extra=_SPLIT), {"M": 70}),
    Case("bands of tiles", matmul("f32"), replace(MATMUL, extra=(("group", 2),)), {"M": 75}),
    Case("bands and pieces", matmul("f32"), replace(MATMUL, extra=(*_SPLIT, ("group", 2))), {"M": 33}),
    Case("persistent", matmul("f32"), replace(MATMUL, extra=(("persistent", 4), ("group", 2))), {"M": 75}),
    Case("blocks", aligned("f32"), replace(MATMUL, extra=(("descriptors", True),)), {"M": 21}),
    Case("persistent, blocks", aligned("f16"), replace(MATMUL, extra=_BLOCKS), {"M": 43}, 1e-3),
    Case("blocks of packed weights", aligned("i8"), BYTES, {"M": 19}, 0.0),
    Case("first guess, f16", matmul("f16"), None, {"M": 3}, 1e-3),
    Case("convolution", convolution, None, {"B": 2}),
    Case("convolution, f16", lambda: convolution("f16", 7, 16, 24), None, {"B": 1}, 1e-3),
    Case("of 3 channels", lambda: convolution("f16", 11, 3, 8, 7), None, {"B": 1}, 1e-3),
    Case("dilated", lambda: convolution("f32", 9, 8, 8, 3, 1, 2), None, {"B": 1}),
    Case("1 x 1", lambda: convolution("f32", 5, 30, 34, 1, 1), None, {"B": 3}),
    Case("depthwise", depthwise, None, {"B": 2}),
    Case("depthwise, f16", lambda: depthwise("f16", 8, 40, 1), None, {"B": 1}, 1e-3),
    Case("of two groups", grouped, None, {"B": 2}),
    Case("transposed", transposed, None, {"B": 1}),
    Case("gated, two outputs", gated, None, {"M": 19}, 1e-3),
    Case("all sizes symbolic", batched, None, {"B": 2, "M": 5, "N": 19, "K": 37}, 1e-3),
    Case("i8", lambda: int8_matmul("i8"), None, {"M": 5}, 0.0),
    Case("u8 i8", lambda: mixed_bytes("u8", "i8"), None, {"M": 5}, 0.0),
    Case("i8 u8", lambda: mixed_bytes("i8", "u8"), None, {"M": 18}, 0.0),
    Case("u8 u8", lambda: mixed_bytes("u8", "u8"), None, {"M": 3}, 0.0),
    Case(
        "u8 i8, split",
        lambda: mixed_bytes("u8", "i8", 150),
        replace(MATMUL, reduce=(pipeline("k", 32),), extra=_SPLIT),
        {"M": 5},
        0.0,
    ),
    Case("i32", integers, None, {"M": 7}, 0.0),
)


@pytest.fixture(scope="module")
def results(interpreter: None, backend: CudaBackend, sm_90: Target) -> dict[str, list[tuple[Array, Array]]]:
    """Pairs of (interpreted, reference) for each output: one process runs all cases."""
    scheduled, runs, wanted = [], [], []
    for n, case in enumerate(CASES):
        kernel = replace(case.build(), name=f"kernel_{n}")
        schedule = case.schedule or next(iter(backend.schedules(kernel, sm_90)))
        scheduled.append(apply(kernel, schedule))
        given, outputs = extreme(kernel, inputs(kernel, case.sizes, n)), empty_outputs(kernel, case.sizes)
        runs.append(Run(kernel.name, in_memory(scheduled[-1], given) | outputs, case.sizes, tuple(outputs)))
        wanted.append(run_lowered(kernel, given, case.sizes))
    got = interpret(backend.emit(scheduled, sm_90), runs)
    pairs = zip(CASES, got, wanted, strict=True)
    return {case.name: [(g[name], w[name]) for name in w] for case, g, w in pairs}


def extreme(kernel: Kernel, arrays: dict[str, Array]) -> dict[str, Array]:
    """``arrays`` with bytes over all of their range."""
    random = np.random.default_rng(1)
    for p in kernel.params:
        if p.name in arrays and not p.dtype.is_float and p.dtype.bits == 8:
            info = np.iinfo(p.dtype.numpy)
            arrays[p.name] = random.integers(info.min, info.max + 1, arrays[p.name].shape).astype(p.dtype.numpy)
    return arrays


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numbers(case: Case, results: dict[str, list[tuple[Array, Array]]]) -> None:
    for got, want in results[case.name]:
        largest = np.abs(want.astype(np.float64)).max()
        assert np.abs(got.astype(np.float64) - want).max() <= case.tolerance * largest


def test_parts_follow_the_sizes_of_a_run() -> None:
    """One kernel: as many programs as are asked for where tiles are few, one a tile where they are many."""
    kernel = matmul("f32")()
    _, launch = emit_kernel(apply(kernel, replace(MATMUL, extra=_SPLIT)))
    grids = {m: launch.grid.evaluate({"M": m}) for m in (1, 16, 17, 32, 33, 4096)}
    assert grids == {1: 12, 16: 12, 17: 12, 32: 12, 33: 9, 4096: 768}


def test_operands_come_in_blocks_where_rows_are_aligned() -> None:
    """A depth of 100 elements of 2 bytes is no multiple of 16 bytes: such rows need addresses."""
    schedule = replace(MATMUL, extra=_BLOCKS)
    text, launch = emit_kernel(apply(matmul("f16")(), schedule))
    assert ("a_blocks" in text, "b_blocks" in text) == (False, True)
    text, _ = emit_kernel(apply(aligned("f16")(), schedule))
    assert ("a_blocks" in text, "b_blocks" in text) == (True, True)
    assert text.index("make_tensor_descriptor") < text.index("for tile in")  # once for all tiles of a program
    assert launch.grid.evaluate({"M": 4096}) == 4
    assert launch.grid.evaluate({"M": 1}) == 3
