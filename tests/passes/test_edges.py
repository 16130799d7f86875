"""Graphs at the edges: outputs that are inputs or constants, outputs that are equal, scalars, empty tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser
from tilewright.ir.evaluate import evaluate
from tilewright.passes.pipeline import default_pipeline

from tests.passes.harness import check_each, graph

EDGES = {
    "constant output": "g (float[B,4] x) => (float[2] y, float[B,4] z) <float[2] w = {1,2}> { y = Neg(w) z = Relu(x) }",
    "known size as output": "g (float[B,4] x) => (int64[1] y) { y = Shape<start=1>(x) }",
    "size as output": "g (float[B,4] x) => (int64[2] y) { y = Shape(x) }",
    "output is input": "g (float[B,4] x) => (float[B,4] y) { y = Identity(x) }",
    "output is input moved nowhere": "g (float[B,4] x) => (float[B,4] y) { y = Transpose<perm=[0,1]>(x) }",
    "output is input twice": "g (float[B,4] x) => (float[B,4] y, float[B,4] z) { y = Identity(x) z = Identity(x) }",
    "equal outputs": "g (float[B,4] x) => (float[B,4] y, float[B,4] z) { y = Relu(x) z = Relu(x) }",
    "output of an output": "g (float[B,4] x) => (float[B,4] y, float[B,4] z) { y = Relu(x) z = Identity(y) }",
    "output read on": "g (float[B,4] x) => (float[B,4] y, float[B,4] z) { y = Relu(x) a = Identity(y) z = Exp(a) }",
    "views of an output": "g (float[B,4] x) => (float[B,4] y, float[B,4,1] z) <int64[1] a = {2}> { y = "
    "Relu(x) z = Unsqueeze(y, a) }",
    "scalars": "g (float x, float y) => (float z) { a = Add(x, y) z = Exp(a) }",
    "weights as inputs of a product twice": "g (float[4,4] x) => (float[4,4] y) { p = MatMul(x, x) y = Add(p, x) }",
    "unused output of a split": "g (float[B,4] x) => (float[B,2] y) { a, b = "
    "Split<num_outputs=2,axis=1>(x) y = Relu(b) }",
    "same value as query, key and value": "g (float[B,3,S,S] x) => (float[B,3,S,S] y) { s = MatMul(x, x) "
    "p = Softmax(s) y = MatMul(p, x) }",
    "scores as values": "g (float[B,3,8,8] x) => (float[B,3,8,8] y) { s = MatMul(x, x) "
    "p = Softmax(s) y = MatMul(p, s) }",
    "scores as their own mask": "g (float[B,3,S,S] x) => (float[B,3,S,S] y) { s = MatMul(x, x) t = Add(s, s) "
    "p = Softmax(t) y = MatMul(p, x) }",
    "branches": "g (float[B,4] x) => (float[B,4] y) { a = Exp(x) b = Softmax(a) c = Neg(a) d = Add(b, c) y = Tanh(d) }",
}


@pytest.mark.parametrize("text", EDGES.values(), ids=EDGES)
def test_edges(text: str) -> None:
    check_each(graph(text), default_pipeline())


def test_evaluation_tells_overloads_apart() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20, "ai.tilewright": 1]>
        g (float[N] x) => (float[N] z) { y = ai.tilewright.F:one (x) z = ai.tilewright.F:two (y) }
        <domain: "ai.tilewright", opset_import: ["": 20], overload: "one">
        F (a) => (b) { b = Gelu <approximate="tanh"> (a) }
        <domain: "ai.tilewright", opset_import: ["": 20], overload: "two">
        F (a) => (b) { b = Neg(a) }"""
    )
    onnx.checker.check_model(model)
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    # Values of torch.nn.functional.gelu(x, approximate="tanh"), negated.
    want = np.array([0.15880796, 0.0, -1.9545977], np.float32)
    np.testing.assert_allclose(evaluate(model, {"x": x})["z"], want, rtol=1e-6)
    assert list(evaluate(model, {"x": x}, every=True)) == ["x", "y", "z"]
