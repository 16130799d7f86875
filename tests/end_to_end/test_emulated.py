"""aarch64 under emulation: the numbers of kernels and executor, not their speed. ``./scripts/test -m emulated``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tilewright import driver
from tilewright.options import Options

from models import zoo
from tests.end_to_end.emulated import TARGET, needs_emulator, run_emulated
from tests.end_to_end.test_operators import all_cases, check_cases

pytestmark = [pytest.mark.emulated, needs_emulator]


@pytest.mark.parametrize("threads", [1, 3])
def test_all_operators(operators: Path, threads: int) -> None:
    _, feeds, expected = all_cases()
    check_cases(run_emulated(operators, feeds, threads=threads), expected)


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with every lowering case."""
    path = tmp_path_factory.mktemp("aarch64") / "operators.tw"
    path.write_bytes(driver.compile(all_cases()[0], options=Options(targets=(TARGET,))).to_bytes())
    return path


@pytest.mark.parametrize("name", zoo.small())
def test_small_models(name: str, tmp_path: Path) -> None:
    """Batches and lengths that compiling did not see, against ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = zoo.small()[name]
    file = model.build(tmp_path)
    options = Options(
        targets=(TARGET,), input_shapes=tuple((n, tuple(map(str, d))) for n, d in model.input_shapes.items())
    )
    artifact = tmp_path / "model.tw"
    artifact.write_bytes(driver.compile(file, options=options).to_bytes())
    reference = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [o.name for o in reference.get_outputs()]
    for batch, length in (model.checks[0], model.checks[-1]):
        feed = model.feed(batch, length)
        results = run_emulated(artifact, feed, threads=2)
        for output, expected in zip(names, reference.run(None, feed), strict=True):
            assert np.abs(results[output] - expected).max() <= 1e-4 * np.abs(expected).max(), output
