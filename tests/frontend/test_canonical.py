"""Models of old and new opsets become one form that computes the same: compared with ONNX Runtime on the original."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from tilewright.frontend.canonical import CANONICAL_OPSET
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import Evaluator, check_shapes
from tilewright.ir.verify import verify

X = "float[n,3,8,8] x"

#: opset, graph body; the input is ``x`` of shape [n, 3, 8, 8] and the output ``y``.
CASES = [
    (7, 'y = Upsample<scales=[1.0,1.0,2.0,2.0],mode="nearest">(x)'),
    (9, 'a = Constant<value=float[4]{1.0,1.0,2.0,2.0}>() y = Upsample<mode="nearest">(x, a)'),
    (9, "y = Slice<starts=[0,1],ends=[2,7],axes=[1,3]>(x)"),
    (9, "y, i = TopK<axis=3,k=2>(x)"),
    (8, "a, b, c = Split<axis=1>(x) d = Sum(a, b) y = Concat<axis=1>(d, c)"),
    (9, "a = Clip<min=-0.5,max=0.5>(x) y = Pad<pads=[0,0,1,1,0,0,1,1]>(a)"),
    (
        9,
        "a = Constant<value=int64[3]{0,-1,8}>() b = Reshape(x, a) c = Unsqueeze<axes=[1]>(b) y = Squeeze<axes=[1]>(c)",
    ),
    (9, "y = Dropout<ratio=0.5>(x)"),
    (11, "y = Softmax<axis=1>(x)"),
    (11, "y = LogSoftmax<axis=3>(x)"),
    (11, "y = ReduceMean<axes=[2,3],keepdims=0>(x)"),
    (12, "y = ReduceSum<axes=[1]>(x)"),
    (12, "y = Softmax<axis=3>(x)"),
    (13, "y = ReduceMax<axes=[-1]>(x)"),
    (13, "y = Softmax<axis=-1>(x)"),
    (13, "a, y = Split<axis=2>(x)"),
    (17, "y = ReduceL2<axes=[1],keepdims=1>(x)"),
    (18, "y = Gelu(x)" if CANONICAL_OPSET < 20 else "y = Relu(x)"),
    (20, "y = Gelu(x)"),
    (24, "y = Swish(x)"),
]


@pytest.mark.parametrize(("opset", "body"), CASES, ids=[f"{v} {b.split('(')[0]}" for v, b in CASES])
def test_conversion_keeps_the_numbers(opset: int, body: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g ({X}) => (float y) {{ {body} }}')
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = import_model(proto)
    assert model.opset_imports[""] == CANONICAL_OPSET
    verify(model)
    evaluator = Evaluator(model)
    reference = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 3):
        x = np.random.default_rng(n).standard_normal((n, 3, 8, 8)).astype(np.float32)
        (expected,) = reference.run(None, {"x": x})
        values = evaluator.all_values({"x": x})
        np.testing.assert_allclose(values[model.graph.outputs[0].name or ""], expected, rtol=1e-5, atol=1e-6)
        check_shapes(model, values)


def test_a_newer_opset_is_kept() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 26]> g (float[n] x) => (float[n] y) { y = Relu(x) }'
    )
    assert import_model(proto).opset_imports[""] == 26


def test_functions_are_inlined_before_conversion() -> None:
    """The version converter drops local functions without a word."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 12, "local": 1]>
        g (float[n,4] x) => (float[n,4] y) { a = local.Twice<k=1>(x) y = Softmax<axis=1>(a) }
        <domain: "local", opset_import: ["": 12]> Twice <k> (x) => (y) { y = Concat<axis: int = @k>(x, x) }""")
    model = import_model(proto)
    assert [n.op_type for n in model.graph] == ["Concat", "Softmax"]
    assert model.graph[0].attributes["axis"].value == 1
    assert not model.functions


def test_the_given_message_is_not_changed() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 12]> g (float[n] x) => (float[n] y) { y = Relu(x) }'
    )
    before = proto.SerializeToString()
    import_model(proto)
    assert proto.SerializeToString() == before
