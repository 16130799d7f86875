"""Emitted text: golden files, and what the emitter refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Loop, Schedule, ScheduleError
from tilewright.target import Target

from tests.kernel import trial_kernels

from .cases import SMALL, Case, block, pipeline

GOLDEN = Path(__file__).parent / "golden"

#: The first guess of the heuristic for sm_90, at sizes of real models.
MODELS = {
    "matmul_bias_gelu": trial_kernels.matmul_bias_gelu("f16"),
    "conv3x3_residual_relu": trial_kernels.conv3x3_residual_relu(dtype="f16"),
    "row_softmax": trial_kernels.row_softmax("f16"),
    "flash_attention": trial_kernels.flash_attention("f16", mask="causal"),
}


@pytest.mark.parametrize("name", MODELS)
def test_emitted_text_is_the_golden_one(name: str, backend: CudaBackend, sm_90: Target, update_golden: bool) -> None:
    kernel = MODELS[name]
    source = backend.emit([apply(kernel, next(iter(backend.schedules(kernel, sm_90))))], sm_90)
    file = GOLDEN / f"{name}.py.txt"
    text = source.files[f"{name}.py"]
    if update_golden:
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_arguments_are_parameters_then_symbols(case: Case) -> None:
    scheduled = case.scheduled("f16")
    _, launch = emit_kernel(scheduled)
    kernel = scheduled.kernel
    assert [a.name for a in launch.arguments] == [p.name for p in kernel.params] + [s for s, _ in kernel.facts]
    assert [a.is_pointer for a in launch.arguments] == [True] * len(kernel.params) + [False] * len(kernel.facts)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        (Schedule((block("m", 48), block("n", 32)), (pipeline("k", 32),)), "not a power of two"),
        (Schedule((block("m", 32),), (pipeline("k", 32),)), "whole:n pads it"),
        (Schedule((Loop("m", 32, "block", True), block("n", 32)), (pipeline("k", 32),)), "balanced"),
        (Schedule((block("m", 2048), block("n", 1024)), (pipeline("k", 32),)), "lanes"),
        (Schedule((block("m", 32), block("n", 32)), (pipeline("k", 32),), extra=(("precision", "half"),)), "precision"),
    ],
    ids=["size", "whole", "balanced", "lanes", "precision"],
)
def test_schedules_that_registers_do_not_allow_are_refused(schedule: Schedule, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        emit_kernel(apply(trial_kernels.matmul_bias_gelu(k=96, n=72), schedule))


def test_a_reduction_over_three_axes_is_one_pipelined_loop() -> None:
    """Triton overlaps the loads of innermost loops only."""
    text, _ = emit_kernel(SMALL[1].scheduled("f16"))
    assert SMALL[1].name == "convolution"
    assert text.count("for ") == 1
    assert "tl.range(0, 18, num_stages=3)" in text


def test_offsets_beyond_32_bits_are_computed_in_64() -> None:
    text = """
@kernel
def scaled(X: f32[M, 65536], Y: out[f32[M, 65536]]):
    where(1 <= M <= {rows})
    m: M
    n: 65536
    Y[m, n] = X[m, n] * f32(2.0)
"""
    schedule = Schedule((block("m", 1), block("n", 1024)))
    wide, _ = emit_kernel(apply(parse_kernel(text.format(rows=65536)), schedule))
    narrow, _ = emit_kernel(apply(parse_kernel(text.format(rows=32767)), schedule))
    assert "tl.cast(m0, tl.int64)" in wide
    assert "int64" not in narrow


@pytest.mark.parametrize("value", ["atan(X[m])", "X[m] ** f32(2.5)", "f32(i4(X[m]))", "f32(f8e8m0(X[m]))"])
def test_every_function_and_type_has_a_spelling(value: str, backend: CudaBackend, sm_90: Target) -> None:
    kernel = parse_kernel(f"@kernel\ndef k(X: f32[64], Y: out[f32[64]]):\n    m: 64\n    Y[m] = {value}\n")
    assert backend.supports(kernel, sm_90).ok


def test_a_routine_without_a_form_for_gpus_is_refused_with_the_reason(backend: CudaBackend, sm_90: Target) -> None:
    assert "has no form for GPUs" in backend.supports(Routine("nms", (DType.F32, DType.I64)), sm_90).reason
    narrow = Routine("cumsum", (DType.F8E4M3, DType.F8E4M3), dims=5)
    assert "elements of type f8e4m3" in backend.supports(narrow, sm_90).reason


def test_only_run_time_indices_are_checked() -> None:
    text = """
@kernel
def rows(X: f32[20, 64], I: i64[M], Y: out[f32[M, 64]]):
    where(1 <= M <= 100)
    m: M
    n: 64
    Y[m, n] = X[{row}, n]
"""
    schedule = Schedule((block("m", 4), block("n", 64)))
    gathered, launch = emit_kernel(apply(parse_kernel(text.format(row="I[m]")), schedule))
    assert "_refuse(fault, (row_in == 0) & m_in)" in gathered
    assert launch.arguments[-1].role == "fault"
    plain, launch = emit_kernel(apply(parse_kernel(text.format(row="m % 20")), schedule))
    assert "fault" not in plain
    assert {a.role for a in launch.arguments} == {"own"}
