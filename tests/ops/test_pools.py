"""Pools as lowered against ONNX Runtime: which entries a mean counts under every mode of padding."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper
from tilewright.ir.ranges import Range

from tests.ops.interpret import run_interpreted, typed

onnxruntime = pytest.importorskip("onnxruntime")

PADS = (("NOTSET", [1, 0, 2, 1]), ("NOTSET", [0, 0, 0, 0]), ("SAME_UPPER", None), ("SAME_LOWER", None), ("VALID", None))


def _pool(kind: str, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x"], ["y"], kernel_shape=[3, 2], **attributes)
    f32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", f32, ["B", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", f32, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("mode,pads", PADS)
@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_pools(kind: str, mode: str, pads: list[int] | None) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    for ceil, stride, dilation, counted in itertools.product((0, 1), (1, 2, 3), (1, 2), (0, 1)):
        if mode.startswith("SAME") and dilation > 1:
            continue  # ONNX Runtime leaves dilation out of the output's size, against the specification
        attributes: dict[str, object] = {"ceil_mode": ceil, "strides": [stride] * 2, "dilations": [dilation] * 2}
        attributes |= {"auto_pad": mode} if pads is None else {"pads": pads}
        if kind == "AveragePool":
            attributes["count_include_pad"] = counted
        elif counted:
            continue
        model = _pool(kind, **attributes)
        expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        facts = {"B": Range(1, 8), "H": Range(5, 64), "W": Range(5, 64)}
        found = run_interpreted(typed(model, facts), {"x": x})["y"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=str(attributes))
