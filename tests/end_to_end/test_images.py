"""Every form of convolutions, pools and resampled images beside ONNX Runtime: one artifact a case, run at three sizes,
one of them a batch of nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import shape_inference
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load
from tilewright.runtime.errors import RunError

from tests.ops.cases.images import GROUPS, RUNS, Array, Image, feeds_of, model_of

onnxruntime = pytest.importorskip("onnxruntime")

#: Relative and absolute difference by element type.
TOLERANCE = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-6}


@pytest.mark.parametrize("case", [case for group in GROUPS.values() for case in group], ids=str)
def test_an_image_operator(case: Image) -> None:
    model = model_of(case)
    shapes = {
        f"x{n}": tuple("0..8" if size == "N" else size for size in shape)
        for n, shape in enumerate(case.inputs)
        if isinstance(shape, tuple) and "N" in shape
    }
    options = Options(targets=("cpu:native",), input_shapes=tuple(shapes.items()))
    session = load(driver.compile(model, options=options).to_bytes())
    for sizes in RUNS:
        feeds = feeds_of(case, sizes)
        results = session.run(None, feeds)
        expected = _reference(case, model, feeds) if sizes["N"] or not shapes else None
        for n, got in enumerate(results):
            if expected is None:
                assert got.size == 0
                continue
            assert (got.dtype, got.shape) == (expected[n].dtype, expected[n].shape)
            tolerance = TOLERANCE.get(case.dtype, 0)
            np.testing.assert_allclose(got, expected[n], rtol=tolerance, atol=tolerance)


def _reference(case: Image, model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    if case.reference:
        return list(ReferenceEvaluator(model).run(None, feeds))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = shape_inference.infer_shapes(model).SerializeToString()
    return list(onnxruntime.InferenceSession(data, options).run(None, feeds))


#: What image networks make of these operators: down and up again, with what was there before beside it.
NETWORK = """<ir_version: 9, opset_import: ["": 19]> g (float[N,3,H,W] x, float[32,16,2,2] t) =>
(float[N,8,P,Q] y, int64[N,8,R,S] i, float[N,8,14,12] z, float[N,4,U,V] v) <int64[2] s = {14, 12}> {
    a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
    d = Conv<pads=[1,1,1,1]>(c, w2)  e = Relu(d)  f = ConvTranspose<strides=[2,2]>(e, t)  h = Concat<axis=1>(f, b)
    j = Conv<pads=[1,1,1,1]>(h, w3)  y = Relu(j)  v = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(y, w4)
    k, i = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(y)  z = Resize<mode="cubic", axes=[2,3]>(k, , , s)
}"""


def test_a_network_of_them() -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NETWORK)
    for name, *shape in (("w1", 16, 3, 3, 3), ("w2", 32, 16, 3, 3), ("w3", 8, 32, 3, 3), ("w4", 8, 4, 4, 4)):
        weights = (rng.standard_normal(shape) * 0.1).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    session = load(driver.compile(model, options=Options(targets=("cpu:native",))).to_bytes())
    reference = onnxruntime.InferenceSession(model.SerializeToString())
    for n, h, w in ((2, 32, 32), (1, 16, 24)):
        feeds = {"x": rng.standard_normal((n, 3, h, w)), "t": rng.standard_normal((32, 16, 2, 2)) * 0.1}
        feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
        for got, expected in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


#: As many samples as the regions ask for.
_ADAPTIVE = next(c for c in GROUPS["sampled"] if c.op == "RoiAlign" and c.attributes.get("sampling_ratio") == 0)


@pytest.mark.parametrize(
    "case,name,value",
    [
        (GROUPS["pools"][-2], "x1", np.array([[[[5, 7], [13, 16]]]])),  # a position outside
        (GROUPS["pools"][-1], "x2", np.array([1, 1, 3, 2])),  # too small for what was pooled
        (GROUPS["sampled"][-1], "x1", np.full((5, 5), 9, np.float32)),  # an image that is not there
        (_ADAPTIVE, "x1", np.full((5, 4), np.nan, np.float32)),  # no region
        (Image("Resize", [(1, 1, 4), None, np.ones(3, np.float32)], late=(2,)), "x2", np.float32([1, 1, np.nan])),
        (Image("Resize", [(1, 1, 4), None, np.ones(3, np.float32)], late=(2,)), "x2", np.float32([1, 1, 1e30])),
        (Image("Resize", [(1, 1, 4), None, None, np.ones(3, np.int64)], late=(3,)), "x3", np.array([1, 1, -2])),
    ],
    ids=lambda x: str(x).split("-")[0] if isinstance(x, Image) else None,
)
def test_bad_numbers_are_refused(case: Image, name: str, value: Array) -> None:
    session = load(driver.compile(model_of(case), options=Options(targets=("cpu:native",))).to_bytes())
    with pytest.raises(RunError):
        session.run(None, {**feeds_of(case, RUNS[0]), name: value})
