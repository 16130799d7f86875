"""MiniLM with its real weights, quantized: calibrated on sentences of some topics, judged on sentences of others."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Settings
from tilewright.passes.quantize.methods import quantize
from tilewright.runner import GraphRunner
from tilewright.selection import resolve_targets

from models import minilm, sentences

OUTPUT = "sentence_embedding"


def test_the_parts_have_nothing_in_common() -> None:
    calibration, test = sentences.read("calibration"), sentences.read("test")
    assert len(calibration) == 60 and len(test) == 144
    assert not {p.topic for p in calibration} & {p.topic for p in test}
    lines = [*sentences.texts("calibration"), *sentences.texts("test")]
    assert len(set(lines)) == len(lines) and all(lines)


def test_judging() -> None:
    """A rotation changes no neighbour; queries that point elsewhere do."""
    random = np.random.default_rng(0)
    floats = random.standard_normal((8, 5))
    floats[4:] = floats[:4] + 0.01
    floats /= np.linalg.norm(floats, axis=1, keepdims=True)
    same = sentences.judge(floats, floats)
    assert (same.cosine, same.least, same.agreement, same.found) == pytest.approx((1, 1, 1, 1))
    other = floats.copy()
    other[4], other[5] = floats[5], floats[4]
    assert sentences.judge(other, floats).agreement == 0.5


@cache
def _embeddings(method: str) -> NDArray[np.float32]:
    """Of the test sentences, by the model after a method (``fp32``: as it is)."""
    with TemporaryDirectory() as folder:
        model = import_model(minilm.build(Path(folder)))
        run_pipeline(model, canonicalization())
        runner = GraphRunner()
        if method != "fp32":
            calibration = Calibration(sentences.batches(sentences.texts("calibration")).feeds, "sentences", "")
            capability = Capability.common([target for _, target in resolve_targets(Options())])
            settings = Settings(method)  # type: ignore[arg-type]
            layers = quantize(model, settings, capability, calibration, runner)
            assert sum(layer.got == "int8 × int8" for layer in layers) == 36  # every product with constant weights
        batches = sentences.batches(sentences.texts("test"))
        return batches.in_order(found[OUTPUT] for found in runner(model, batches.feeds, [OUTPUT]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "cosine", "agreement"),
    [("int8-dynamic", 0.997, 0.95), ("int8", 0.99, 0.92), ("smoothquant", 0.995, 0.95)],
)
def test_bounds(method: str, cosine: float, agreement: float) -> None:
    """Every product with constant weights is of integers; static, per-tensor ranges lose the most."""
    try:
        minilm.source_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    pytest.importorskip("tokenizers")
    found = sentences.judge(_embeddings(method), _embeddings("fp32"))
    assert found.cosine >= cosine and found.agreement >= agreement, found
