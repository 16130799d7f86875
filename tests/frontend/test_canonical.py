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
    (7, 'y = Upsample<scales=[1.0,1.0,2.0,3.0],mode="linear">(x)'),  # from the first element on
    (9, 'a = Constant<value=float[4]{1.0,1.0,1.5,2.0}>() y = Upsample<mode="linear">(x, a)'),
    (10, 'a = Constant<value=float[4]{1.0,1.0,0.6,0.4}>() y = Resize<mode="linear">(x, a)'),
    (10, 'a = Constant<value=float[4]{1.0,1.0,0.6,0.4}>() y = Resize<mode="nearest">(x, a)'),
    (10, 'a = Constant<value=float[4]{1.0,1.0,3.0,1.5}>() y = Resize<mode="nearest">(x, a)'),
    (8, "y = Hardmax(x)"),  # of all axes but the first
    (11, "y = Hardmax<axis=-2>(x)"),
    (13, "y = Hardmax<axis=2>(x)"),
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


_SEQUENCE = (
    "t = Constant<value=int64[3]{8,-1,3}>() r = Reshape(x, t) k = Constant<value=float[1,4,1]{0.1,0.2,0.3,0.4}>() "
    "w = Constant<value=float[1,4,3]{1,2,3,4,5,6,7,8,9,1,2,3}>() "
)
#: Forms of the first opsets, which ONNX Runtime does not have either, and what they are today.
OLD = [
    (1, 'y = Pad<paddings=[0,0,1,0,0,0,2,1],value=3.0>(x)',
     "p = Constant<value_ints=[0,0,1,0,0,0,2,1]>() v = Constant<value_float=3.0>() y = Pad(x, p, v)"),
    (1, "a, y = Split<axis=2,split=[3,5]>(x)", "p = Constant<value_ints=[3,5]>() a, y = Split<axis=2>(x, p)"),
    (1, "a, y = Split<axis=3>(x)", "a, y = Split<axis=3,num_outputs=2>(x)"),
    (1, "y = LpPool<kernel_shape=[2,2],p=3.0>(x)", "y = LpPool<kernel_shape=[2,2],p=3>(x)"),
    (3, "y = Concat(x, x)", "y = Concat<axis=1>(x, x)"),
    (1, 'y = Upsample<height_scale=2.0,width_scale=3.0,mode="bilinear">(x)',
     's = Constant<value_floats=[1.0,1.0,2.0,3.0]>() '
     'y = Resize<mode="linear",coordinate_transformation_mode="asymmetric">(x, , s)'),
    (6, _SEQUENCE + "y, h = LSTM<hidden_size=1,output_sequence=1>(r, w, k)",
     _SEQUENCE + "y, h = LSTM<hidden_size=1>(r, w, k)"),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "old", "new"), OLD, ids=[f"{v} {b.split('(')[0]}" for v, b, _ in OLD])
def test_first_forms(opset: int, old: str, new: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    results = []
    for version, body in ((opset, old), (CANONICAL_OPSET, new)):
        text = f'<ir_version: 8, opset_import: ["": {version}]> g ({X}) => (float y) {{ {body} }}'
        proto = onnx.parser.parse_model(text)
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        model = import_model(proto)
        verify(model)
        results.append(Evaluator(model).all_values({"x": x})[model.graph.outputs[0].name or ""])
    np.testing.assert_array_equal(*results)
