"""A whole encoder, imported, optimized and run through its lowered kernels in the interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from tilewright.frontend.onnx import import_model
from tilewright.passes.pipeline import default_pipeline, run_pipeline

from models import minilm
from tests.ops.interpret import run_interpreted


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize(("batch", "sequence"), [(1, 3), (2, 7)])
def test_small_encoder(tmp_path: Path, level: int, batch: int, sequence: int) -> None:
    path = minilm.build_small(tmp_path)
    rng = np.random.default_rng(0)
    mask = np.ones((batch, sequence), np.int64)
    mask[-1, sequence // 2 :] = 0
    inputs = {
        "input_ids": rng.integers(0, 500, (batch, sequence)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, sequence)),
    }
    (expected,) = ReferenceEvaluator(str(path)).run(None, inputs)
    model = import_model(path)
    run_pipeline(model, default_pipeline(level))
    (actual,) = run_interpreted(model, inputs).values()
    np.testing.assert_allclose(actual, expected, atol=2e-6 * float(np.abs(expected).max()) * 10)
