"""Loops dealt out to several programs: numbers, what is refused, and what the launch says of the workspace."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tilewright.backends.base import Source
from tilewright.backends.cuda.arrival import COUNTER_BYTES
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.backends.cuda.merging import merge_of
from tilewright.errors import InternalError
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Schedule, Scheduled, ScheduleError, Stage
from tilewright.kernel.tile import Kernel, Scan
from tilewright.target import Target

from tests.kernel import trial_kernels

from .cases import Array, block, empty_outputs, inputs, pipeline

SPLIT = (("programs", 16), ("least", 1))
HEADS = (block("b", 1), block("h", 1), block("i", 16))


def matvec(dtype: str = "f16") -> Kernel:
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    return parse_kernel(f"""
@kernel
def matvec(x: {dtype}[1, 200], W: const[{dtype}[200, 96]], y: out[f32[1, 96]]):
    n: 96
    k: 200
    acc[n] = sum(k, {wide("x[0, k]")} * {wide("W[k, n]")})
    y[0, n] = acc[n]
""")


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel whose loop over ``axis`` is split, at sizes with different numbers of parts."""

    kernel: Kernel
    schedule: Schedule
    sizes: tuple[dict[str, int], ...]

    def scheduled(self, name: str) -> Scheduled:
        return apply(replace(self.kernel, name=name), self.schedule)


CASES = {
    "matmul": Case(
        trial_kernels.matmul_bias_gelu("f16", k=200, n=80),
        Schedule((block("n", 32), block("m", 16)), (pipeline("k", 32),), extra=(("split:k", 4), *SPLIT)),
        ({"M": 13}, {"M": 20}, {"M": 37}),
    ),
    "matvec": Case(
        matvec(),
        Schedule((block("n", 32),), (pipeline("k", 32),), extra=(("split:k", 4), *SPLIT)),
        ({},),
    ),
    "convolution": Case(
        trial_kernels.conv3x3_residual_relu(5, 7, 24, 40),
        Schedule(
            (block("o", 32), block("b", 1), block("oh", 4), block("ow", 8)),
            (pipeline("kh", 1), pipeline("kw", 1), pipeline("c", 16)),
            extra=(("split:c", 4), *SPLIT),
        ),
        ({"B": 2},),
    ),
    "attention": Case(
        trial_kernels.flash_attention("f32", 48, "causal"),
        Schedule(
            HEADS,
            (pipeline("t", 16),),
            (Stage("Q", 3, "reg"),),
            extra=(("whole:d", 64), ("whole:e", 64), ("split:t", 8), *SPLIT),
        ),
        ({"B": 1, "H": 1, "S": 17, "T": 51}, {"B": 1, "H": 1, "S": 1, "T": 150}, {"B": 1, "H": 3, "S": 33, "T": 40}),
    ),
}
RUNS = [(name, n) for name, case in CASES.items() for n in range(len(case.sizes))]


@pytest.fixture(scope="module")
def interpreted(interpreter: None, backend: CudaBackend, sm_90: Target) -> dict[tuple[str, int], tuple[Array, Array]]:
    """(interpreted, reference) of every case at each of its sizes, in one process."""
    scheduled = {name: case.scheduled(name) for name, case in CASES.items()}
    source = backend.emit(list(scheduled.values()), sm_90)
    runs, wanted = [], []
    for name, n in RUNS:
        kernel, sizes = scheduled[name].kernel, CASES[name].sizes[n]
        given, outputs = inputs(kernel, sizes), empty_outputs(kernel, sizes)
        runs.append(Run(name, {**given, **outputs}, sizes, tuple(outputs)))
        wanted.append(run_lowered(kernel, given, sizes))
    pairs = [(g[o], w[o]) for g, w in zip(interpret(source, runs), wanted, strict=True) for o in w]
    return dict(zip(RUNS, pairs, strict=True))


@pytest.mark.parametrize(("name", "n"), RUNS)
def test_parts_come_together(name: str, n: int, interpreted: dict[tuple[str, int], tuple[Array, Array]]) -> None:
    got, want = interpreted[name, n]
    tolerance = 1e-3 if want.dtype == np.float16 else 2e-6  # one rounding of the result; sums in another order
    assert np.abs(got.astype(np.float64) - want).max() <= tolerance * np.abs(want).max()


def test_counters_that_are_not_left_at_zero_are_noticed(interpreter: None, backend: CudaBackend, sm_90: Target) -> None:
    kernel = CASES["matvec"].scheduled("matvec")
    source = backend.emit([kernel], sm_90)
    text = source.files["matvec.py"]
    reset = next(line for line in text.splitlines() if line.endswith("group, 0)"))
    broken = Source({**source.files, "matvec.py": text.replace(reset, "")}, source.symbols)
    given, outputs = inputs(kernel.kernel, {}), empty_outputs(kernel.kernel, {})
    with pytest.raises(InternalError, match="counters of its workspace"):
        interpret(broken, [Run("matvec", {**given, **outputs}, {}, tuple(outputs))])


def test_programs_are_shared_out_only_where_there_are_too_few() -> None:
    _, launch = emit_kernel(CASES["matmul"].scheduled("matmul"))
    grids = [launch.grid.evaluate({"M": m}) for m in (1, 20, 37, 4096)]
    assert grids == [3 * 4, 6 * 2, 9, 256 * 3]  # 7 turns of k in 4 parts at most, and no more programs than 16 by that
    assert launch.counters == COUNTER_BYTES
    assert launch.workspace.value == COUNTER_BYTES + 16 * 4 * 16 * 32
    assert launch.arguments[-1].role == "workspace"


def test_a_kernel_whose_loop_is_too_short_is_not_split() -> None:
    schedule = Schedule((block("n", 32),), (pipeline("k", 32),), extra=(("split:k", 4), ("least", 8)))
    _, launch = emit_kernel(apply(matvec(), schedule))
    assert (launch.counters, launch.workspace) == (0, 0)


@pytest.mark.parametrize(
    ("change", "merges"),
    [
        (("exp(mx[i]", "exp(mx[i]"), True),
        (("l[i] * scale[i] + part[i]", "l[i] + part[i]"), False),
        (("l[i] * scale[i] + part[i]", "l[i] * scale[i] + part[i] * l[i]"), False),
        (("l[i] * scale[i] + part[i]", "l[i] * scale[i] * scale[i] + part[i]"), False),
    ],
)
def test_only_the_algebra_of_a_running_maximum_merges(change: tuple[str, str], merges: bool) -> None:
    text = """
@kernel
def rows(S: f32[M, T], V: f32[T], Y: out[f32[M]]):
    where(1 <= M <= 4096, 1 <= T <= 4096)
    i: M
    t: T
    for t in scan(mx=f32(-inf)[i], l=f32(0)[i], o=f32(0)[i]):
        top[i] = max(t, S[i, t])
        mx2[i] = max(mx[i], top[i])
        safe[i] = select(mx2[i] == f32(-inf), f32(0.0), mx2[i])
        p[i, t] = exp(S[i, t] - safe[i])
        scale[i] = exp(mx[i] - safe[i])
        part[i] = sum(t, p[i, t])
        l2[i] = l[i] * scale[i] + part[i]
        pv[i] = sum(t, p[i, t] * V[t])
        o2[i] = o[i] * scale[i] + pv[i]
        yield_(mx=mx2, l=l2, o=o2)
    Y[i] = o[i] / l[i]
"""
    kernel = parse_kernel(text.replace(*change))
    scan = next(s for s in kernel.body if isinstance(s, Scan))
    assert (merge_of(scan) is not None) == merges
    schedule = Schedule((block("i", 16),), (pipeline("t", 32),), extra=(("split:t", 4), ("least", 1)))
    if not merges:
        with pytest.raises(ScheduleError, match="no known way to come together"):
            emit_kernel(apply(kernel, schedule))
