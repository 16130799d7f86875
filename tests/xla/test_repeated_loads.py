"""The same program gives the same numbers every time it is compiled and loaded.

With what XLA hands to YNNPACK in jaxlib 0.10.2 (see ``_CPU_OPTIONS`` of tilewright/runtime/devices/xla.py) the mean at
the end of SqueezeNet, of the ONNX suite, was 0 or infinite in about half of the loads.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import TensorProto, helper

from tests.conformance.cases import cases, read_values

pytest.importorskip("jaxlib")


def test_every_load_computes_the_same(tmp_path: Path) -> None:
    folder = cases()["real/test_squeezenet"].folder
    model = onnx.load(folder / "model.onnx")
    (softmax,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    # Softmax of numbers near 1e10 says nothing; what it reads is asked for beside it.
    model.graph.output.append(helper.make_tensor_value_info(softmax.input[0], TensorProto.FLOAT, None))
    (x,) = read_values(folder / "data_0", "input")
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = [value.name for value in model.graph.input if value.name not in weights]
    tw.compile(model, targets=("xla:cpu", "cpu:native"), verify=False).save(tmp_path / "m.tw")
    with tw.load(tmp_path / "m.tw", device="cpu") as session:
        want = session.run(None, {name: x})[1]
    for _ in range(8):
        with tw.load(tmp_path / "m.tw", device="xla-cpu", allow_jit=True, cache=False) as session:
            got = session.run(None, {name: x})[1]
        np.testing.assert_allclose(got, want, rtol=1e-3)
