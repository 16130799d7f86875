"""MiniLM with its real weights in 4 bits, beside itself in f32, on topics that it was not calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tilewright.frontend.onnx import import_model
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Settings
from tilewright.passes.quantize.methods import quantize
from tilewright.runner import GraphRunner

from models import minilm, sentences

pytest.importorskip("tokenizers")


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["float", "int8"])
def test_embeddings(activations: Any, tmp_path: Path) -> None:
    """Cosine of 0.99 on average; 92 of 100 queries find the sentence that they find in f32."""
    try:
        minilm.source_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    model = import_model(minilm.build(tmp_path))
    run_pipeline(model, canonicalization())
    test = sentences.batches(sentences.texts("test"))
    feeds = sentences.batches(sentences.texts("calibration")).feeds
    runner = GraphRunner()
    (output,) = (str(v.name) for v in model.graph.outputs)

    def embedded() -> Any:
        return test.in_order(found[output] for found in runner(model, test.feeds, [output]))

    want = embedded()
    settings = Settings("int4", activations=activations)
    lines = quantize(
        model, settings, Capability(weights=frozenset(["i4", "i8"])), Calibration(feeds, "sentences", ""), runner
    )
    asked = "int4 weights" if activations == "float" else "int8 × int4"
    assert [line.got for line in lines if line.op_type == "MatMul" and line.got != "f32"] == [asked] * 36
    found = sentences.judge(embedded(), want)
    assert found.cosine >= 0.99 and found.agreement >= 0.92, found
