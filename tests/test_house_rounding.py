"""Models that are quantized already are checked by what they mean, and by what their own rounding does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import parser
from tilewright import rounding
from tilewright.errors import AccuracyError

from tests.quantize.random_quantized import images


def network(seed: int, folder: Path) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A quantized network with its float output alone, as exporters leave them."""
    model, samples = images(seed)
    outputs = [o for o in model.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, folder / "q.onnx")
    return folder / "q.onnx", samples


def test_a_right_artifact_of_a_quantized_model_passes(tmp_path: Path) -> None:
    """ONNX Runtime with its optimizations is off by 6e-3 here: it is not what such a model is held against."""
    pytest.importorskip("onnxruntime")
    path, samples = network(3, tmp_path)
    artifact = tw.compile(path, targets=("cpu:native",))
    found = tw.verify(artifact, path, feeds=samples)
    assert found.ok and "nothing fused" in found.reference
    assert 1e-4 < found.worst.tolerance < 0.2
    assert not tw.verify(artifact, path, feeds=samples, engine="onnxruntime", tolerance=1e-3).ok
    assert tw.bisect(artifact, path, feeds=samples).ok


def test_a_wrong_one_does_not(tmp_path: Path) -> None:
    path, samples = network(3, tmp_path)
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if t.name == model.graph.node[-2].input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(scale), scale.name))
    artifact = tw.compile(model, targets=("cpu:native",), verify=False)
    with pytest.raises(AccuracyError):
        tw.verify(artifact, path, feeds=samples).require("m.tw")


@pytest.mark.parametrize(
    ("body", "engines"),
    [
        ("y = Relu(x)", None),
        ("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", ("onnxruntime.plain", "onnx.reference")),
        ("w = DequantizeLinear(i, s) y = MatMul(x, w)", ("onnxruntime.plain", "onnx.reference")),
        ("q, t, z = DynamicQuantizeLinear(x) p = MatMulInteger(q, q, z, z) y = Cast<to=1>(p)",
         ("onnx.reference", "onnxruntime.plain")),
    ],
)  # fmt: skip
def test_who_computes_what_it_means(body: str, engines: tuple[str, str] | None, tmp_path: Path) -> None:
    signature = "net (float[4,4] x) => (float[4,4] y) <float s = {0.1}, int8[1] i = {1}>"
    text = f'<ir_version: 10, opset_import: ["" : 21]>\n{signature} {{ {body} }}'
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    assert rounding.engines_for(tmp_path / "m.onnx") == engines


def test_what_a_step_is_allowed_to_do() -> None:
    rounded = {"y": np.float32([1, 2]), "q": np.uint8([3, 9]), "i": np.int64([1, 2])}
    plain = {"y": np.float32([1, 2.1]), "q": np.uint8([3, 8]), "i": np.int64([2, 2])}
    found = rounding.tolerances([rounded], [plain])
    assert found == {"y": pytest.approx(0.1 / 2.1), "q": pytest.approx(1 / 8), "i": 0.0}
    assert rounding.tolerances([rounded], None) == {"y": rounding.STEP, "q": rounding.STEP, "i": 0.0}
