"""Other models than encoders, whole: a small residual network from ONNX text, and what comes from torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

RESNET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,32,32] image) => (float[N,10] logits) {
    c0 = Conv<kernel_shape=[7,7], strides=[2,2], pads=[3,3,3,3]>(image, w0)
    n0 = BatchNormalization(c0, scale0, bias0, mean0, var0)
    r0 = Relu(n0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(p0, w1)
    n1 = BatchNormalization(c1, scale0, bias0, mean0, var0)
    r1 = Relu(n1)
    c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r1, w2)
    s2 = Add(c2, p0)
    r2 = Relu(s2)
    c3 = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r2, w3)
    d3 = Conv<kernel_shape=[1,1], strides=[2,2]>(r2, w4)
    s3 = Add(c3, d3)
    g = GlobalAveragePool(s3)
    f = Flatten(g)
    logits = Gemm<transB=1>(f, w5, b5)
}
"""
SHAPES = {
    "w0": (16, 3, 7, 7),
    "w1": (16, 16, 3, 3),
    "w2": (16, 16, 3, 3),
    "w3": (40, 16, 3, 3),
    "w4": (40, 16, 1, 1),
    "w5": (10, 40),
    "b5": (10,),
    "scale0": (16,),
    "bias0": (16,),
    "mean0": (16,),
    "var0": (16,),
}


def residual_network() -> onnx.ModelProto:
    model = parser.parse_model(RESNET)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        values = np.abs(values) + 0.5 if name == "var0" else values
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cpu:native"])
def test_residual_network(level: int, target: str) -> None:
    model = residual_network()
    session = load(driver.compile(model, options=Options(targets=(target,), level=level)).to_bytes())
    reference = ReferenceEvaluator(model)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 32, 32)).astype(np.float32)
        (want,) = reference.run(None, {"image": x})
        (got,) = session.run(None, {"image": x})
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("exported", [False, True], ids=["module", "exported-program"])
def test_torch(exported: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(24, 50), torch.nn.GELU(), torch.nn.LayerNorm(50), torch.nn.Linear(50, 7), torch.nn.Softmax(-1)
    ).eval()
    x = torch.randn(5, 24)
    shapes = ({0: torch.export.Dim("rows", min=2, max=64)},)
    if exported:
        artifact = tw.compile(torch.export.export(module, (x,), dynamic_shapes=shapes), targets=("cpu:native",))
    else:
        artifact = tw.compile(module, targets=("cpu:native",), example_args=(x,), dynamic_shapes=shapes)
    session = tw.load(artifact)
    for rows in (2, 11):
        data = torch.randn(rows, 24)
        (got,) = session.run(None, {session.inputs[0].name: data.numpy()})
        np.testing.assert_allclose(got, module(data).detach().numpy(), atol=2e-6)
