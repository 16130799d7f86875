"""The kernels that ONNX operators lower to, under the first guess: numbers in the interpreter, and machine code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.frontend.onnx import import_model
from tilewright.ir.ranges import Range
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.schedule import Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.target import Target

from models import minilm
from tests.ops import interpret as ops_interpret
from tests.ops import test_lowering

from .cases import Array, in_memory

pytestmark = pytest.mark.slow


class Recorder:
    """Runs lowered kernels as the reference does, and keeps each with its inputs and outputs for the CUDA backend."""

    def __init__(self, backend: CudaBackend, target: Target):
        self.backend, self.target = backend, target
        self.label = ""
        self.scheduled: list[Scheduled] = []
        self.runs: list[Run] = []
        self.wanted: list[tuple[str, dict[str, Array]]] = []
        self.refused: set[str] = set()

    def run(self, kernel: Kernel, given: Mapping[str, Array], dims: Mapping[str, int]) -> dict[str, Array]:
        """In place of ``run_lowered``."""
        want: dict[str, Array] = run_lowered(kernel, given, dims)
        support = self.backend.supports(kernel, self.target)
        if not support.ok:
            self.refused.add(support.reason)
            return want
        named = replace(kernel, name=f"kernel_{len(self.runs)}")
        self.scheduled.append(apply(named, next(iter(self.backend.schedules(named, self.target)))))
        empty: dict[str, Any] = {name: np.full_like(array, 77) for name, array in want.items()}
        arrays = in_memory(self.scheduled[-1], {name: np.asarray(array) for name, array in given.items()}) | empty
        self.runs.append(Run(named.name, arrays, dict(dims), tuple(empty)))
        self.wanted.append((f"{self.label} {kernel.name}", want))
        return want

    def check(self, tolerance: float) -> None:
        """Every kernel in the interpreter gives what it gave before, and every one compiles."""
        source = self.backend.emit(self.scheduled, self.target)
        wrong = []
        for (label, want), got in zip(self.wanted, interpret(source, self.runs), strict=True):
            for name, array in want.items():
                if not np.allclose(got[name], array, rtol=tolerance, atol=tolerance, equal_nan=True):
                    wrong.append(label)
        assert not wrong
        assert len(compile_source(source, self.target)) == len(self.runs)


@pytest.fixture
def recorder(backend: CudaBackend, sm_90: Target, interpreter: None, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder(backend, sm_90)
    monkeypatch.setattr(ops_interpret, "run_lowered", found.run)
    return found


def test_operators(recorder: Recorder) -> None:
    for case in test_lowering.CASES:
        model, arrays = test_lowering.build(case)
        facts = {s: Range(1, 64) for shape in case.shapes for s in shape if isinstance(s, str)}
        recorder.label = str(case)
        ops_interpret.run_interpreted(ops_interpret.typed(model, facts), arrays)
    assert recorder.refused == set()
    assert len(recorder.runs) > 90
    recorder.check(2e-6)


def test_an_encoder(recorder: Recorder, tmp_path: Path) -> None:
    """Every launch of a small encoder of MiniLM's structure, optimized as for compiling, with unbounded sizes."""
    model = import_model(minilm.build_small(tmp_path))
    run_pipeline(model, default_pipeline(2))
    rng = np.random.default_rng(0)
    mask = np.ones((2, 7), np.int64)
    mask[-1, 3:] = 0
    given = {
        "input_ids": rng.integers(0, 500, (2, 7)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (2, 7)),
    }
    ops_interpret.run_interpreted(model, given)
    assert recorder.refused == set()
    assert len(recorder.runs) > 10
    recorder.check(2e-5)
