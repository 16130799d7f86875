"""Reductions, elementwise kernels and movement under the first guess: numbers, and how memory is reached."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.cuda import sass
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

from .cases import Array, block, empty_outputs, inputs


def kernel(parameters: str, body: str) -> Kernel:
    lines = "".join(f"    {line.strip()}\n" for line in body.strip().splitlines())
    return parse_kernel(f"@kernel\ndef k({parameters}):\n{lines}")


CASES: dict[str, tuple[Kernel, dict[str, int]]] = {
    "transpose": (
        kernel(
            "X: f16[M, N], Y: out[f16[N, M]]",
            """where(1 <= M <= 2048, 1 <= N <= 2048)
            m: M
            n: N
            Y[n, m] = X[m, n]""",
        ),
        {"M": 70, "N": 45},
    ),
    "sums of columns": (
        kernel(
            "X: f32[M, N], Y: out[f32[N]]",
            """where(1 <= M <= 4096, 1 <= N <= 4096)
            m: M
            n: N
            s[n] = sum(m, X[m, n])
            Y[n] = s[n]""",
        ),
        {"M": 300, "N": 70},
    ),
    "long rows": (
        kernel(
            "X: f32[M, 20000], Y: out[f32[M]]",
            """where(1 <= M <= 64)
            m: M
            n: 20000
            s[m] = max(n, X[m, n])
            Y[m] = s[m]""",
        ),
        {"M": 3},
    ),
    "one sum": (
        kernel(
            "X: f32[1, N], Y: out[f32[1]]",
            """where(1 <= N <= 1048576)
            m: 1
            n: N
            s[m] = sum(n, X[m, n])
            Y[m] = s[m]""",
        ),
        {"N": 20001},
    ),
    "concatenation": (
        kernel(
            "X: f32[A, P, 16], Z: f32[A, 1, 16], Y: out[f32[A, P + 1, 16]]",
            """where(1 <= A <= 64, 1 <= P <= 127)
            a: A
            n: 16
            p: P
            Y[a, p, n]: (a, p, n) = X[a, p, n]
            Y[a, P, n]: (a, n) = Z[a, 0, n]""",
        ),
        {"A": 3, "P": 37},
    ),
    "quantization": (
        kernel(
            "X: f32[M, 96], S: out[f32[M]], Q: out[i8[M, 96]]",
            """where(1 <= M <= 64)
            m: M
            r: 96
            b: M
            n: 96
            t[m] = max(r, abs(X[m, r]))
            S[m] = t[m] / f32(127.0)
            u[b] = max(r, abs(X[b, r]))
            Q[b, n] = i8(round(X[b, n] / (u[b] / f32(127.0))))""",
        ),
        {"M": 5},
    ),
    "a row for several outputs": (
        kernel(
            "X: f32[M, 40], Y: out[f32[M, 40]], Z: out[f32[M, 40]], W: out[f32[M]]",
            """where(1 <= M <= 64)
            m: M
            n: 40
            s[m] = sum(n, X[m, n] * X[m, n])
            Y[m, n] = X[m, n] * rsqrt(s[m])
            Z[m, n] = X[m, n] + f32(1.0)
            W[m] = s[m]""",
        ),
        {"M": 5},
    ),
}


@pytest.fixture(scope="module")
def interpreted(
    interpreter: None, backend: CudaBackend, sm_90: Target
) -> dict[str, tuple[dict[str, Array], dict[str, Array]]]:
    """(interpreted, reference) of every case, in one process."""
    scheduled, runs, wanted = [], [], []
    for n, (found, sizes) in enumerate(CASES.values()):
        named = replace(found, name=f"kernel_{n}")
        given, outputs = inputs(named, sizes), empty_outputs(named, sizes)
        scheduled.append(apply(named, next(iter(backend.schedules(named, sm_90)))))
        runs.append(Run(named.name, {**given, **outputs}, sizes, tuple(outputs)))
        wanted.append(run_lowered(named, given, sizes))
    return dict(zip(CASES, zip(interpret(backend.emit(scheduled, sm_90), runs), wanted, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str, interpreted: dict[str, tuple[dict[str, Array], dict[str, Array]]]) -> None:
    got, want = interpreted[name]
    for output, array in want.items():
        error = np.abs(got[output].astype(np.float64) - array).max()
        assert error <= 2e-6 * np.abs(array.astype(np.float64)).max(), output  # sums in another order


@pytest.mark.parametrize("name", CASES)
def test_every_candidate_is_legal(name: str, backend: CudaBackend, sm_90: Target) -> None:
    legal = 0
    for schedule in backend.schedules(CASES[name][0], sm_90):
        try:
            compile(emit_kernel(apply(CASES[name][0], schedule))[0], name, "exec")
            legal += 1
        except ScheduleError as refused:
            assert "share their outer loops" in str(refused)  # outputs over different axes in one nest
    assert legal >= 3


def test_nests_that_share_outer_loops_are_refused() -> None:
    """One linear grid does not say which program writes the row that is appended."""
    found, _ = CASES["concatenation"]
    schedule = Schedule((block("a", 1), block("n", 16), block("p", 16)))
    with pytest.raises(ScheduleError, match="share their outer loops"):
        emit_kernel(apply(found, schedule))


def test_few_long_rows_are_shared_by_programs(backend: CudaBackend, sm_90: Target) -> None:
    found, _ = CASES["one sum"]
    _, launch = emit_kernel(apply(found, next(iter(backend.schedules(found, sm_90)))))
    assert launch.grid.evaluate({"N": 1000}) == 1
    assert launch.grid.evaluate({"N": 1 << 20}) == 32
    assert launch.counters > 0


def test_a_transpose_is_wide_on_both_sides(backend: CudaBackend, triton: None, sm_90: Target) -> None:
    found = parse_kernel("""
@kernel
def transpose(X: f16[M, 1024], Y: out[f16[1024, M]]):
    where(8 <= M <= 4096, M % 8 == 0)
    m: M
    n: 1024
    Y[n, m] = X[m, n]
""")
    source = backend.emit([apply(found, next(iter(backend.schedules(found, sm_90))))], sm_90)
    code = sass.opcodes(compile_source(source, sm_90)["transpose"].cubin)
    assert code["LDG.E.128"] > 0
    assert code["STG.E.128"] > 0
    assert not [op for op in code if op.startswith(("LDG.E.U16", "STG.E.U16"))]
