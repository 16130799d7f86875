"""The kernels that ONNX operators lower to, under the first guess: numbers in the interpreter, and machine code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.ir.symbolic import Range
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.schedule import Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

from tests.ops import interpret as ops_interpret
from tests.ops import test_lowering

from .cases import Array

pytestmark = pytest.mark.slow

#: What the text has no spelling for yet, all of it refused by ``supports``.
REFUSED = {
    "function atan",
    "function sinh",
    "function cosh",
    "function asinh",
    "function acosh",
    "pow with an exponent other than the constants 0.5, 1 and 2",
}


def test_operators(backend: CudaBackend, sm_90: Target, interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled: list[Scheduled] = []
    runs: list[Run] = []
    wanted: list[tuple[str, dict[str, Array]]] = []
    refused: set[str] = set()

    def record(kernel: Kernel, given: Mapping[str, Array], dims: Mapping[str, int]) -> dict[str, Array]:
        want: dict[str, Array] = run_lowered(kernel, given, dims)
        support = backend.supports(kernel, sm_90)
        if not support.ok:
            refused.add(support.reason)
            return want
        named = replace(kernel, name=f"kernel_{len(runs)}")
        scheduled.append(apply(named, next(iter(backend.schedules(named, sm_90)))))
        empty: dict[str, Any] = {name: np.full_like(array, 77) for name, array in want.items()}
        arrays = {name: np.asarray(array) for name, array in given.items()} | empty
        runs.append(Run(named.name, arrays, dict(dims), tuple(empty)))
        wanted.append((str(case), want))
        return want

    monkeypatch.setattr(ops_interpret, "run_lowered", record)
    for case in test_lowering.CASES:
        model, arrays = test_lowering.build(case)
        facts = {s: Range(1, 64) for shape in case.shapes for s in shape if isinstance(s, str)}
        ops_interpret.run_interpreted(ops_interpret.typed(model, facts), arrays)
    assert refused <= REFUSED
    assert len(runs) > 90

    source = backend.emit(scheduled, sm_90)
    wrong = []
    for (case_name, want), got in zip(wanted, interpret(source, runs), strict=True):
        for name in want:
            if not np.allclose(got[name], want[name], rtol=2e-6, atol=2e-6, equal_nan=True):
                wrong.append(case_name)
    assert not wrong
    assert len(compile_source(source, sm_90)) == len(runs)
