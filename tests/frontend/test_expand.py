"""Operators without a lowering become what the standard defines them to be, and compute the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tilewright.errors import UnsupportedError
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import Evaluator, check_shapes
from tilewright.ir.graph import origin_of
from tilewright.ir.verify import verify

X = "float[n,4,6] x"

#: opset, inputs, body with the result ``y``, operators that may not be left.
CASES = [
    (27, "float[n,3,k] x, float[3,1,2] w", "y, s = CausalConvWithState(x, w)", "CausalConvWithState"),
    (28, f"{X}, float[n,4,6] z", "y = SwiGLU(x, z)", "SwiGLU"),
    (24, "float[n,2,k,4] x", "y = Attention(x, x, x)", "Nothing"),  # a pass does better than the definition
    (23, "float[n,2,4,k] x", "y = Attention<is_causal=1>(x, x, x)", "Attention"),  # of unknown head size
    (
        27,  # whose definition has a loop in it
        "float[n,3,4] x, float[n,3,4] g",
        'y, s = LinearAttention<q_num_heads=2, kv_num_heads=2, update_rule="gated">(x, x, x, , g)',
        "Scan",
    ),
    (
        20,  # a branch that is known, as a size of the input tells
        X,
        "s = Shape<start=1,end=2>(x) k = Constant<value_ints=[4]>() c = Equal(s, k) y = If(c) "
        "<then_branch = t () => (float[n,4,6] a) { a = Relu(x) }, "
        "else_branch = e () => (float[n,4,6] b) { b = Abs(x) }>",
        "If Abs Where",
    ),
    (
        11,  # both branches, one of which hands on what is outside; nodes inside are converted as well
        f"{X}, float[n,4,6] o, bool c",
        "y = If(c) <then_branch = t () => (float[n,4,6] a) { u = Unsqueeze<axes=[0]>(x) a = Squeeze<axes=[0]>(u) }, "
        "else_branch = e () => (float[n,4,6] b) { b = Identity(o) }>",
        "If",
    ),
    (
        16,  # two states and a stack, as often as a constant says
        X,
        "m = Constant<value_int=3>() g = Constant<value=bool{1}>() p, q, y = Loop(m, g, x, x) <body = l (int64 i, bool "
        "c, float[n,4,6] a, float[n,4,6] b) => (bool d, float[n,4,6] e, float[n,4,6] f, float[n,4,6] h) { d = Identity"
        "(c) j = CastLike(i, a) e = Add(a, j) f = Mul(b, a) h = Sub(e, f) }>",
        "Loop",
    ),
    (
        16,  # until a condition that each turn computes of known numbers says stop
        X,
        "m = Constant<value_int=9>() g = Constant<value=bool{1}>() y = Loop(m, g, x) <body = l (int64 i, bool c, "
        "float[n,4,6] a) => (bool d, float[n,4,6] e) { k = Constant<value_int=2>() d = Less(i, k) e = Add(a, x) }>",
        "Loop",
    ),
    (
        16,  # backwards over an inner axis, and stacked along another
        "float[n,4,6] x, float[n,4] z",
        "w, y = Scan<num_scan_inputs=1, scan_input_axes=[2], scan_input_directions=[1], scan_output_axes=[-1], "
        "body = s (float[n,4] a, float[n,4] b) => (float[n,4] d, float[n,4] e) { d = Add(a, b) e = Mul(d, b) }>(z, x)",
        "Scan",
    ),
]


def model_of(opset: int, inputs: str, body: str) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => (float y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


@pytest.mark.parametrize(
    ("opset", "inputs", "body", "gone"), CASES, ids=[f"{c[0]} {c[2].split('(')[0]}" for c in CASES]
)
def test_definitions_compute_the_same(opset: int, inputs: str, body: str, gone: str) -> None:
    proto = model_of(opset, inputs, body)
    model = import_model(proto)
    assert not {n.op_type for n in model.graph} & set(gone.split())
    assert [v.name for v in model.graph.outputs] == ["y"]
    verify(model)
    evaluator = Evaluator(model)
    # ONNX Runtime for control flow, of which the reference evaluator cannot scan backwards.
    reference: Any
    if opset < 23:
        reference = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    else:
        reference = ReferenceEvaluator(proto)
    rng = np.random.default_rng(0)
    for n, k in ((1, 3), (3, 2)):
        feeds = {}
        for value in proto.graph.input:
            shape = [{"n": n, "k": k}.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = (
                rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, n + 1, shape)
            ).astype(dtype)
        values = evaluator.all_values(feeds)
        np.testing.assert_allclose(values["y"], reference.run(["y"], feeds)[0], rtol=1e-5, atol=1e-5)
        check_shapes(model, values)


def test_what_a_definition_needs_is_reported_with_its_operator() -> None:
    with pytest.raises(UnsupportedError, match="RandomUniformLike, part of Bernoulli 'coin'"):
        import_model(model_of(22, "float[4] x", "[coin] y = Bernoulli(x)"))


def test_nodes_of_a_definition_know_their_operator() -> None:
    model = import_model(model_of(28, f"{X}, float[n,4,6] z", "[gate] y = SwiGLU(x, z)"))
    assert {origin_of(n) for n in model.graph} == {"SwiGLU 'gate'"}


def test_a_definition_of_an_older_opset_is_converted() -> None:
    """Written for opset 11, where the axes of a reduction were attributes and Clip had other types."""
    model = import_model(model_of(24, "float[n] x", "q, y, z = DynamicQuantizeLinear(x)"))
    verify(model)
    assert "ReduceMax" in {n.op_type for n in model.graph} or "DynamicQuantizeLinear" in {
        n.op_type for n in model.graph
    }


def test_expanding_and_folding_leave_the_reference_evaluator_alone() -> None:
    code = """
import sys, onnx, numpy as np
from tilewright.frontend.onnx import import_model
from tilewright.passes.pipeline import default_pipeline, run_pipeline
text = '''<ir_version: 10, opset_import: ["": 24]> g (float[2,4,6] x) => (float[2,4,6] y) {
    one = Constant<value=float[1]{2.0}>() two = Sqrt(one) s = Concat<axis=0>(one, two, one, two)
    y = GroupNormalization<num_groups=2>(x, s, s) }'''
model = import_model(onnx.parser.parse_model(text))
run_pipeline(model, default_pipeline())
print(*{"Sqrt", "Concat"} & {n.op_type for n in model.graph}, "onnx.reference" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stdout + done.stderr
