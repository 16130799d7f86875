"""Graphs at the edges through the compiler: outputs that are inputs, constants, views, sizes, or one value twice."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

from tests.passes.test_edges import EDGES

MORE = {
    "constant and input as they are": "g (float[B,4] x) => (float[2] w, float[B,4] x) <float[2] w = {1,2}> "
    "{ z = Relu(x) }",
    "views of an input": "g (float[B,4] x) => (float[4,B] y, float[B,1,4] z, float[B,4] u) <int64[1] a = {1}> "
    "{ y = Transpose(x) z = Unsqueeze(x, a) u = Identity(x) }",
    "an input that nothing reads": "g (float[B,4] x, float[7] q) => (float[B,4] y) { y = Relu(x) }",
    "nothing but a size": "g (float[B,4] x) => (int64[1] y) { s = Shape<start=0,end=1>(x) y = Mul(s, s) }",
}  # fmt: skip


@pytest.mark.parametrize("text", [*EDGES.values(), *MORE.values()], ids=[*EDGES, *MORE])
def test_edges(text: str) -> None:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    session = load(driver.compile(model, options=Options(targets=("cpu:native",))).to_bytes())
    for batch in (1, 3):
        rng, sizes = np.random.default_rng(batch), {"B": batch, "S": batch + 4}
        feeds = {}
        for value in model.graph.input:
            shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
        for got, want in zip(session.run(None, feeds), ReferenceEvaluator(model).run(None, feeds), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
