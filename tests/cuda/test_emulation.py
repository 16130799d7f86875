"""A whole model for a GPU with no GPU: loader, plan, executor and the text of every kernel, beside ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tilewright.options import Options

from models import zoo

from .emulation import emulate

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("triton", "interpreter")

#: Of the zoo in fp32, relative to the largest value of an output.
TOLERANCE = 1e-4


@pytest.mark.parametrize(
    "name",
    ["llama-decode-static", *(pytest.param(n, marks=pytest.mark.slow) for n in zoo.small() if "static" not in n)],
)
def test_models_of_the_zoo(name: str, tmp_path: Path) -> None:
    model = zoo.small()[name]
    path = model.build(tmp_path)
    feeds = [model.make_feed(batch, length, seed) for seed, (batch, length) in enumerate(model.checks[:2])]
    shapes = tuple((n, tuple(map(str, s))) for n, s in model.input_shapes.items())
    outputs, told = emulate(path, feeds, Options(targets=("cuda:sm_80",), input_shapes=shapes))
    assert told["target"] == "cuda:sm_80"
    assert told["launches"] > 0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    reference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for out, feed in zip(outputs, feeds, strict=True):
        for ours, theirs in zip(out, reference.run(None, feed), strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max(initial=0) <= TOLERANCE * np.abs(theirs).max(initial=0)
