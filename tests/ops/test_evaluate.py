"""What a node computes of constants, beside the reference evaluator; and what is left to the run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator
from tilewright.frontend.onnx import import_model
from tilewright.ops.evaluate import evaluate_node

_CONSTANTS = (
    "float[2,3] w = {1,-2,3,-4,5,-6}, float[3] v = {1,0,2}, float s = {0.5}, int64[1] axis = {1}, "
    "int64[2] from = {-1,0}, int64[2] to = {-9,2}, int64[2] by = {-1,2}, int64[2] flat = {6,1}, int64[2] i = {-1,0}, "
    "int64[2] parts = {1,2}, int64[2] wide = {5,6}, int64[1,2] outside = {0,9}"
)

#: Nodes on those constants; operators that NumPy does, and others.
NODES = [
    "y = Reshape(w, flat)",
    "y = Flatten<axis=0>(w)",
    "y = Unsqueeze(v, axis)",
    "y = Transpose(w)",
    "y = Slice(w, from, to, i, by)",
    "y = Slice(w, i, wide)",
    "a, y = Split<axis=1>(w, parts)",
    "y = Concat<axis=-1>(w, w)",
    "y = Cast<to=10>(w)",
    "y = CastLike(w, i)",
    "y = Cast<to=7>(w)",
    "y = Cast<to=9>(v)",
    "y = Gather<axis=1>(w, i)",
    "y = MatMul(w, v)",
    "y = ReduceSum(w, axis)",
    "y = Mul(w, s)",
    "y = Sqrt(v)",
    "y = Softmax<axis=0>(w)",
    "y = Where(c, w, v)",
    "y = Identity(s)",
    "y = Mul(e, e)",
]


@pytest.mark.parametrize("node", NODES, ids=lambda n: n.partition("= ")[2])
def test_numbers(node: str) -> None:
    constants = f"{_CONSTANTS}, bool[2,1] c = {{1,0}}, float[0,3] e = {{}}"
    text = f'<ir_version: 10, opset_import: ["": 24]> g () => (float y) <{constants}> {{ {node} }}'
    proto = parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = import_model(proto)
    (made,) = model.graph
    found = evaluate_node(model, made)
    assert found is not None
    (expected,) = ReferenceEvaluator(proto).run(None, {})
    got = next(a for v, a in zip(made.outputs, found, strict=True) if v.name == "y")
    assert got is not None and got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("node", ["y = GatherElements<axis=1>(w, outside)", "y = NonZero(w)", "y = Add(w, x)"])
def test_left_to_the_run(node: str) -> None:
    """An index outside its tensor, what is no kernel, and sizes that are not known."""
    text = f'<ir_version: 10, opset_import: ["": 24]> g (float[n,1,1] x) => (float y) <{_CONSTANTS}> {{ {node} }}'
    proto = parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = import_model(proto)
    (made,) = model.graph
    assert isinstance(made, ir.Node) and evaluate_node(model, made) is None
