"""Models at other precisions on XLA's CPU compiler, and what a report says of their layers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("jaxlib")
pytest.importorskip("onnxruntime")

import tilewright as tw
from onnx.reference import ReferenceEvaluator
from tilewright.accuracy import TOLERANCE, compare
from tilewright.backends.xla.computes import computed_in
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Capability, Settings
from tilewright.passes.quantize.methods import quantize
from tilewright.quantization.costs import name_layers

from models.zoo import small
from tests.xla.run import compiled, imported, target_of
from tests.xla.test_zoo import BUCKETS, by_onnxruntime

CASES = [
    ("resnet50", "bf16", {"bf16": 10}),
    ("bert-base", "bf16", {"bf16": 17}),
    ("bert-base", "int8-dynamic", {"i8": 13, "f32": 4}),
    ("llama-decode-static", "int8-weights", {"f32": 20}),
    ("llama-prefill", "fp16", {"f16": 20}),
]


@pytest.mark.parametrize("name, method, computes", CASES)
def test_small_models(name: str, method: str, computes: dict[str, int], tmp_path: Path) -> None:
    """Off the float model by no more than the table allows, or than the graph of that precision itself is."""
    model = small()[name]
    path, feeds = model.build(tmp_path), model.feed(*model.checks[1])
    (want,) = by_onnxruntime(path, [feeds])
    graph = imported(path, model.input_shapes)
    run_pipeline(graph, canonicalization())
    name_layers(graph)
    quantize(graph, Settings(method), Capability.of(target_of("xla:cpu")))  # type: ignore[arg-type]
    itself = _reference(graph, feeds)
    program = compiled(graph, None, BUCKETS)
    assert Counter(filter(None, map(computed_in, program.model.graph))) == computes
    got = program.run(feeds)
    for output, wanted in want.items():
        own = compare(output, itself[output], wanted, 1.0).relative
        allowed = TOLERANCE[{"fp16": "f16"}.get(method, method)] if method in ("bf16", "fp16") else 0.0
        found = compare(output, got[output], wanted, max(1.2 * own, allowed))
        assert found.ok, f"{output}: {found.distance} {found.problem}"


def _reference(graph: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    proto = ir.serde.serialize_model(graph)
    made = ReferenceEvaluator(proto).run(None, feeds)
    return {o.name: np.asarray(v).astype(np.float32) for o, v in zip(proto.graph.output, made, strict=True)}


def test_what_was_not_honoured_is_an_error(tmp_path: Path) -> None:
    """int8 at run time is for products alone: convolutions stay floats, which is told and has the exit code 10."""
    model = small()["resnet50"]
    path = model.build(tmp_path)
    options = {"targets": ("xla:cpu",), "verify": False, "precision": "int8", "method": "int8-dynamic"}
    with pytest.raises(tw.PrecisionError) as raised:
        tw.compile(path, input_shapes={"image": (1, 3, 48, 48)}, **options)
    assert raised.value.exit_code == 10
    assert "9 of 10 layers" in str(raised.value)
    made = tw.compile(path, input_shapes={"image": (1, 3, 48, 48)}, allow_precision=("f32",), **options)
    layers = made.report.requested.groups[0].layers
    assert Counter(layer.got for layer in layers) == {"f32": 9, "int8 × int8": 1}
