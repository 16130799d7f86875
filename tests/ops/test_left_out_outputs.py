"""Optional outputs: one left out in the middle keeps the others in their places, one that is read is computed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tilewright.ir.ranges import Range

from tests.ops.interpret import run_interpreted, typed

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
SCALE = np.linspace(0.5, 2, 8, dtype=np.float32)


@pytest.mark.parametrize(
    "op, inputs, outputs",
    [
        ("LayerNormalization", ["x", "scale"], ["y", "", "inverse"]),
        ("LayerNormalization", ["x", "scale"], ["y", "mean"]),
        ("LayerNormalization", ["x", "scale"], ["", "mean"]),
        ("Dropout", ["x"], ["y", "mask"]),
        ("Dropout", ["x"], ["", "mask"]),
    ],
    ids=str,
)
def test_named_outputs_are_computed(op: str, inputs: list[str], outputs: list[str]) -> None:
    infos = {
        "x": helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8]),
        "scale": helper.make_tensor_value_info("scale", TensorProto.FLOAT, [8]),
    }
    graph = helper.make_graph(
        [helper.make_node(op, inputs, outputs)],
        "g",
        [infos[i] for i in inputs],
        [helper.make_empty_tensor_value_info(o) for o in outputs if o],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    arrays = {"x": X, "scale": SCALE}
    whole = [o or f"unnamed{n}" for n, o in enumerate(outputs)]
    full = helper.make_graph([helper.make_node(op, inputs, whole)], "g", graph.input, [
        helper.make_empty_tensor_value_info(o) for o in whole
    ])  # fmt: skip
    evaluator = ReferenceEvaluator(helper.make_model(full, opset_imports=model.opset_import, ir_version=10))
    expected = dict(zip(whole, evaluator.run(None, {i: arrays[i] for i in inputs}), strict=True))
    actual = run_interpreted(typed(model, {"N": Range(1, 64)}), arrays)
    assert set(actual) == {o for o in outputs if o}
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], rtol=2e-6, atol=2e-6)
