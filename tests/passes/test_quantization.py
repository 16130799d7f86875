"""Models that are already quantized, in the spellings of several exporters, come to one form."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tilewright.errors import TilewrightError
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import constant_array, constant_tensor, is_constant
from tilewright.passes.base import Pass
from tilewright.passes.canonicalize.canonicalize_quantization import CanonicalizeQuantization
from tilewright.passes.canonicalize.decompose_qlinear import DecomposeQlinear
from tilewright.passes.canonicalize.eliminate_requantization import EliminateRequantization
from tilewright.passes.canonicalize.fold_dequantization import FoldDequantization
from tilewright.passes.canonicalize.move_quantization import MoveQuantization
from tilewright.passes.canonicalize.recognise_integer_products import RecogniseIntegerProducts
from tilewright.passes.pipeline import canonicalization, run_pipeline

from tests.end_to_end import quantized_cases
from tests.passes.harness import check_each, graph, ops, proto_of, run

#: Constants that graphs below read by name: ``<type> name = {…}`` in the signature of ONNX text.
S = "float s = {0.1}, float t = {0.02}, uint8 z = {3}, uint8 u = {0}, int8 i = {0}"
W = "int8[4,3] w = {1,-2,3,-4,5,-6,7,-8,9,-10,11,-12}"
W8 = "uint8[4,3] w = {1,200,3,40,5,60,7,80,9,100,11,120}"
WS = "float[3] ws = {0.1,0.2,0.3}"


#: What a pass makes of a graph: inputs → outputs, constants, nodes, and the operators in order afterwards.
CASES: list[tuple[str, Pass, str, str, str, str]] = [
    # products
    ("qlinear-matmul", DecomposeQlinear(), "uint8[B,4] a => uint8[B,3] y", f"{S}, {W}",
     "y = QLinearMatMul(a, s, z, w, t, i, s, u)", "DequantizeLinear DequantizeLinear MatMul QuantizeLinear"),
    ("qlinear-matmul-columns", DecomposeQlinear(), "uint8[B,4] a => uint8[B,3] y",
     f"{S}, {W}, {WS}, int8[3] zs = {{0,0,0}}",
     "y = QLinearMatMul(a, s, z, w, ws, zs, s, u)", "DequantizeLinear DequantizeLinear MatMul QuantizeLinear"),
    ("qlinear-matmul-f16", DecomposeQlinear(), "uint8[B,4] a, float16 h => uint8[B,3] y", f"{S}, {W}",
     "y = QLinearMatMul(a, h, z, w, h, i, h, u)",
     "Cast Cast DequantizeLinear DequantizeLinear MatMul Cast QuantizeLinear"),
    ("qlinear-conv", DecomposeQlinear(), "uint8[B,1,5,5] a => uint8[B,2,3,3] y",
     f"{S}, int8[2,1,3,3] w = {{1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}}, int32[2] b = {{7,-900}}",
     "y = QLinearConv(a, s, z, w, t, i, s, u, b)",
     "DequantizeLinear DequantizeLinear DequantizeLinear Conv QuantizeLinear"),
    ("integers", RecogniseIntegerProducts(), "float[B,4] x => float[B,3] y", f"{S}, {W}, {WS}",
     "q, a, b = DynamicQuantizeLinear(x) p = MatMulInteger(q, w, b) c = Cast<to=1>(p) f = Mul(a, ws) y = Mul(c, f)",
     "DynamicQuantizeLinear DequantizeLinear DequantizeLinear MatMul"),
    ("integers-scaled-twice", RecogniseIntegerProducts(), "float[B,4] x => float[B,3] y", f"{S}, {W}, {WS}",
     "q, a, b = DynamicQuantizeLinear(x) p = MatMulInteger(q, w, b) c = Cast<to=1>(p) m = Mul(c, ws) y = Mul(a, m)",
     "DynamicQuantizeLinear DequantizeLinear DequantizeLinear MatMul"),
    ("integers-of-both", RecogniseIntegerProducts(), "float[B,4] x, float[4,3] v => float[B,3] y", S,
     "q, a, b = DynamicQuantizeLinear(x) r, c, d = DynamicQuantizeLinear(v) p = MatMulInteger(q, r, b, d) "
     "e = Cast<to=1>(p) f = Mul(a, c) y = Mul(e, f)",
     "DynamicQuantizeLinear DynamicQuantizeLinear DequantizeLinear DequantizeLinear MatMul"),
    ("integers-alone", RecogniseIntegerProducts(), "uint8[B,4] a => int32[B,3] y", f"{S}, {W}",
     "y = MatMulInteger(a, w, z)", "MatMulInteger"),
    ("integers-not-scaled", RecogniseIntegerProducts(), "uint8[B,4] a, float[B,3] x => float[B,3] y", f"{S}, {W}",
     "p = MatMulInteger(a, w, z) c = Cast<to=1>(p) y = Mul(c, x)", "MatMulInteger Cast Mul"),
    ("conv-integers", RecogniseIntegerProducts(), "float[B,1,5,5] x => float[B,2,3,3] y",
     f"{S}, int8[2,1,3,3] w = {{1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}}, float[1,2,1,1] v = {{0.1, 0.3}}",
     "q, a, b = DynamicQuantizeLinear(x) p = ConvInteger(q, w, b) c = Cast<to=1>(p) f = Mul(a, v) y = Mul(c, f)",
     "DynamicQuantizeLinear DequantizeLinear DequantizeLinear Conv"),
    # one spelling
    ("vectors-of-one", CanonicalizeQuantization(), "uint8[B,4] a => float[B,4] y",
     "float[1] s = {0.5}, uint8[1] z = {3}", "y = DequantizeLinear<axis=0>(a, s, z)", "DequantizeLinear"),
    ("zero-of-zeros", CanonicalizeQuantization(), "int8[B,3] a => float[B,3] y", f"{WS}, int8[3] zs = {{0,0,0}}",
     "y = DequantizeLinear<axis=-1>(a, ws, zs)", "DequantizeLinear"),
    ("unsigned-weights", CanonicalizeQuantization(), "float[B,4] x => float[B,3] y", f"{S}, {W8}",
     "d = DequantizeLinear(w, t, z) y = MatMul(x, d)", "DequantizeLinear MatMul"),
    ("whole-blocks", CanonicalizeQuantization(), "float[B,4] x => float[B,3] y",
     f"{W}, float[1,3] ws = {{0.1,0.2,0.3}}",
     "d = DequantizeLinear<axis=0, block_size=4>(w, ws) y = MatMul(x, d)", "DequantizeLinear MatMul"),
    # movement
    ("transposed-weights", MoveQuantization(), "float[B,3] x => float[B,4] y", f"{W}, {WS}",
     "d = DequantizeLinear<axis=1>(w, ws) e = Transpose<perm=[1,0]>(d) y = MatMul(x, e)",
     "Transpose DequantizeLinear MatMul"),
    ("pooled", MoveQuantization(), "uint8[B,1,6,6] a => float[B,1,3,3] y", S,
     "d = DequantizeLinear(a, s, z) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)", "MaxPool DequantizeLinear"),
    ("pooled-with-several-scales", MoveQuantization(), "uint8[B,3,6,6] a => float[B,3,3,3] y", WS,
     "d = DequantizeLinear(a, ws) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)", "DequantizeLinear MaxPool"),
    ("joined", MoveQuantization(), "uint8[B,4] a, uint8[B,4] b => float[B,8] y", S,
     "d = DequantizeLinear(a, s, z) e = DequantizeLinear(b, s, z) y = Concat<axis=1>(d, e)", "Concat DequantizeLinear"),
    ("joined-of-two-scales", MoveQuantization(), "uint8[B,4] a, uint8[B,4] b => float[B,8] y", S,
     "d = DequantizeLinear(a, s, z) e = DequantizeLinear(b, t, z) y = Concat<axis=1>(d, e)",
     "DequantizeLinear DequantizeLinear Concat"),
    ("split-channels", MoveQuantization(), "uint8[B,6] a => float[B,3,2] y", f"{S}, int64[3] r = {{0,3,2}}",
     "d = DequantizeLinear(a, s, z) y = Reshape(d, r)", "Reshape DequantizeLinear"),
    ("split-the-scaled-axis", MoveQuantization(), "uint8[B,3] a => float[B,3,1] y",
     f"{WS}, int64[3] r = {{0,3,1}}", "d = DequantizeLinear(a, ws) y = Reshape(d, r)", "Reshape DequantizeLinear"),
    ("merge-the-scaled-axis", MoveQuantization(), "uint8[2,3] a => float[6] y", f"{WS}, int64[1] r = {{6}}",
     "d = DequantizeLinear(a, ws) y = Reshape(d, r)", "DequantizeLinear Reshape"),
    ("looked-up", MoveQuantization(), "int64[B] n => float[B,3] y", f"{W}, {WS}",
     "d = DequantizeLinear<axis=1>(w, ws) y = Gather(d, n)", "Gather DequantizeLinear"),
    ("quantized-first", MoveQuantization(), "float[B,4] x => uint8[4,B] y", S,
     "t1 = Transpose(x) y = QuantizeLinear(t1, s, z)", "QuantizeLinear Transpose"),
    # nothing between
    ("twice", EliminateRequantization(), "float[B,4] x => float[B,4] y", S,
     "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) r = QuantizeLinear(d, s, z) "
     "y = DequantizeLinear(r, s, z)", "QuantizeLinear DequantizeLinear"),
    ("twice-otherwise", EliminateRequantization(), "float[B,4] x => float[B,4] y", S,
     "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) r = QuantizeLinear(d, t, z) "
     "y = DequantizeLinear(r, t, z)", "QuantizeLinear DequantizeLinear QuantizeLinear DequantizeLinear"),
    ("relu", EliminateRequantization(), "float[B,4] x => uint8[B,4] y", S,
     "r = Relu(x) y = QuantizeLinear(r, s, u)", "QuantizeLinear"),
    ("relu-that-counts", EliminateRequantization(), "float[B,4] x => uint8[B,4] y", S,
     "r = Relu(x) y = QuantizeLinear(r, s, z)", "Relu QuantizeLinear"),
    ("clip", EliminateRequantization(), "float[B,4] x => uint8[B,4] y", f"{S}, float lo = {{0}}, float hi = {{26}}",
     "r = Clip(x, lo, hi) y = QuantizeLinear(r, s, u)", "QuantizeLinear"),
    ("clip-that-counts", EliminateRequantization(), "float[B,4] x => uint8[B,4] y",
     f"{S}, float lo = {{0}}, float hi = {{6}}", "r = Clip(x, lo, hi) y = QuantizeLinear(r, s, u)",
     "Clip QuantizeLinear"),
    ("relu-behind", EliminateRequantization(), "uint8[B,4] a => float[B,4] y", S,
     "d = DequantizeLinear(a, s, u) y = Relu(d)", "DequantizeLinear"),
    # constants
    ("small-constant", FoldDequantization(), "float[B,4] x => float[B,4] y", f"{S}, uint8[4] c = {{1,2,3,4}}",
     "d = DequantizeLinear(c, s, z) y = Add(x, d)", "Add"),
    ("bias-of-the-sums", FoldDequantization(), "uint8[B,4] a => float[B,3] y",
     f"{S}, {W}, float st = {{0.002}}, int32[3] b = {{100,-2,3}}",
     "x = DequantizeLinear(a, s, z) v = DequantizeLinear(w, t) m = MatMul(x, v) d = DequantizeLinear(b, st) "
     "y = Add(m, d)", "DequantizeLinear DequantizeLinear MatMul DequantizeLinear Add"),
    ("bias-of-another-scale", FoldDequantization(), "uint8[B,4] a => float[B,3] y",
     f"{S}, {W}, int32[3] b = {{100,-2,3}}",
     "x = DequantizeLinear(a, s, z) v = DequantizeLinear(w, t) m = MatMul(x, v) d = DequantizeLinear(b, s) "
     "y = Add(m, d)", "DequantizeLinear DequantizeLinear MatMul Add"),
    ("weights-stay", FoldDequantization(), "float[B,4] x => float[B,3] y", f"{S}, {W}",
     "v = DequantizeLinear(w, t) y = MatMul(x, v)", "DequantizeLinear MatMul"),
]  # fmt: skip


def model(signature: str, constants: str, body: str) -> ir.Model:
    inputs, _, outputs = signature.partition(" => ")
    used = [c for c in _split(constants) if c]
    return graph(f"g ({inputs}) => ({outputs}) <{', '.join(used)}> {{ {body} }}")


def _split(constants: str) -> list[str]:
    """At commas outside braces."""
    parts, depth = [""], 0
    for c in constants:
        depth += (c in "{[") - (c in "}]")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_passes(case: tuple[str, Pass, str, str, str, str]) -> None:
    _, p, signature, constants, body, expected = case
    state = model(signature, constants, body)
    run(p, state)
    assert ops(state) == expected


def node(state: ir.Model, operator: str) -> ir.Node:
    return next(n for n in state.graph if n.op_type == operator)


def test_unsigned_weights_are_the_same_numbers_in_i8() -> None:
    state = model("float[B,4] x => float[B,3] y", f"{S}, {W8}", "d = DequantizeLinear(w, t, z) y = MatMul(x, d)")
    CanonicalizeQuantization().run(state)
    weight, _, zero = (constant_array(v) for v in node(state, "DequantizeLinear").inputs if v is not None)
    assert weight.dtype == zero.dtype == np.int8
    assert (weight.astype(int) - zero.astype(int)).reshape(-1)[:3].tolist() == [-2, 197, 0]


def test_a_bias_of_the_sums_is_a_start_of_them() -> None:
    weights = "int8[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}"
    state = model(
        "uint8[B,1,5,5] a => uint8[B,2,3,3] y",
        f"{S}, {weights}, float[2] v = {{0.1,0.2}}, int8[2] zs = {{0,0}}, int32[2] b = {{7,-900}}",
        "y = QLinearConv(a, s, z, w, v, zs, s, u, b)",
    )
    check_each(state, canonicalization())
    bias = node(state, "Conv").inputs[2]
    assert bias is not None
    producer = bias.producer()
    assert producer is not None and producer.op_type == "DequantizeLinear" and len(producer.inputs) == 2
    scale = producer.inputs[1]
    assert scale is not None and np.array_equal(
        constant_array(scale), np.float32(0.1) * np.array([0.1, 0.2], np.float32)
    )


#: Spellings of other exporters: the graph, and what the whole canonicalization makes of it.
EXPORTS = [
    # weights in f32, quantized in the graph (NNCF, PyTorch's fake quantization)
    ("float-weights", "float[B,4] x => float[B,3] y",
     f"{S}, float[4,3] w = {{1,-0.2,0.3,-0.4,0.5,-0.6,0.7,-0.8,0.9,-0.1,0.11,-0.12}}, {WS}, int8[3] zs = {{0,0,0}}",
     "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = QuantizeLinear<axis=1>(w, ws, zs) "
     "d = DequantizeLinear<axis=1>(c, ws, zs) y = MatMul(b, d)",
     "QuantizeLinear DequantizeLinear DequantizeLinear MatMul"),
    # a Linear: weights lie transposed
    ("linear", "float[B,3] x => float[B,4] y",
     f"{S}, {W}, float[4] ws = {{0.1,0.2,0.3,0.4}}, float[4] c = {{1,2,3,4}}",
     "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) d = DequantizeLinear<axis=0>(w, ws) "
     "y = Gemm<transB=1>(b, d, c)", "QuantizeLinear DequantizeLinear DequantizeLinear MatMul Add"),
    ("linear-transposed", "float[B,3] x => float[B,4] y", f"{S}, {W}, float[4] ws = {{0.1,0.2,0.3,0.4}}",
     "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) d = DequantizeLinear<axis=0>(w, ws) "
     "e = Transpose(d) y = MatMul(b, e)", "QuantizeLinear DequantizeLinear DequantizeLinear MatMul"),
    # bounds on integers (Brevitas)
    ("narrow-weights", "float[B,4] x => float[B,3] y",
     f"{S}, float[4,3] w = {{9,-9,0.3,-0.4,0.5,-0.6,0.7,-0.8,0.9,-0.1,0.1,0.2}}, int8 lo = {{-127}}, int8 hi = {{127}}",
     "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = QuantizeLinear(w, t, i) e = Clip(c, lo, hi) "
     "d = DequantizeLinear(e, t, i) y = MatMul(b, d)", "QuantizeLinear DequantizeLinear DequantizeLinear MatMul"),
    # one DQ a reader
    ("two-readers", "float[B,4] x => float[B,3] y, float[B,3] v", f"{S}, {W}",
     "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = DequantizeLinear(a, s, z) "
     "d = DequantizeLinear(w, t) e = DequantizeLinear(w, t) y = MatMul(b, d) f = MatMul(c, e) v = Relu(f)",
     "QuantizeLinear DequantizeLinear DequantizeLinear MatMul Relu"),
    # everything between a DQ and a Q with the same parameters is on integers
    ("movement", "float[B,1,6,6] x => float[B,9] y", f"{S}, int64[2] r = {{0,9}}",
     "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b) "
     "d = QuantizeLinear(c, s, z) e = DequantizeLinear(d, s, z) f = Reshape(e, r) g = QuantizeLinear(f, s, z) "
     "y = DequantizeLinear(g, s, z)", "QuantizeLinear MaxPool Reshape DequantizeLinear"),
    # rows of a batch flattened before a product and split again behind it (Conv1D)
    ("flat-rows", "float[B,S,4] x => float[B,S,3] y",
     f"{S}, {W}, int64[2] r = {{-1,4}}, float[3] c = {{1,2,3}}",
     "n0 = Shape<start=0, end=1>(x) n1 = Shape<start=1, end=2>(x) n2 = Constant<value_ints=[3]>() "
     "back = Concat<axis=0>(n0, n1, n2) f = Reshape(x, r) a = QuantizeLinear(f, s, z) b = DequantizeLinear(a, s, z) "
     "d = DequantizeLinear(w, t) m = MatMul(b, d) e = Add(m, c) g = QuantizeLinear(e, s, z) "
     "h = DequantizeLinear(g, s, z) y = Reshape(h, back)",
     "QuantizeLinear DequantizeLinear DequantizeLinear MatMul Add QuantizeLinear DequantizeLinear"),
    # a normalization behind a convolution that was not simplified before
    ("batch-norm", "float[B,1,5,5] x => float[B,2,3,3] y",
     f"{S}, int8[2,1,3,3] w = {{1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}}, float[2] g = {{1,2}}, "
     "float[2] b = {0,1}, float[2] m = {0.1,0.2}, float[2] v = {1,4}",
     "a = QuantizeLinear(x, s, z) c = DequantizeLinear(a, s, z) d = DequantizeLinear(w, t) e = Conv(c, d) "
     "y = BatchNormalization(e, g, b, m, v)", "QuantizeLinear DequantizeLinear DequantizeLinear Conv"),
]  # fmt: skip


@pytest.mark.parametrize("case", EXPORTS, ids=lambda c: c[0])
def test_exports(case: tuple[str, str, str, str, str]) -> None:
    _, signature, constants, body, expected = case
    state = model(signature, constants, body)
    check_each(state, canonicalization())
    assert sorted(ops(state).split()) == sorted(expected.split())
    for n in state.graph:
        if n.op_type in ("MatMul", "Conv"):
            dequantize = n.inputs[1].producer() if n.inputs[1] is not None else None
            assert dequantize is not None and dequantize.op_type == "DequantizeLinear"
            weight = dequantize.inputs[0]
            assert weight is not None and is_constant(weight)
            tensor = constant_tensor(weight)
            assert tensor is not None and tensor.dtype == ir.DataType.INT8


@pytest.mark.parametrize("number", [0.0, -0.1, np.nan, np.inf, 1e-45, 3e38])
def test_scales_that_make_no_sense_are_no_fault_of_a_pass(number: float) -> None:
    """The graph stays valid, whatever numbers stand for scales, biases and bounds."""
    for case in quantized_cases.CASES:
        model_proto = quantized_cases.build(case)
        for tensor in model_proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype.kind == "f":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, number), tensor.name))
        state = import_model(model_proto)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_pipeline(state, canonicalization())
        proto_of(state)


@pytest.mark.parametrize(
    "body",
    [
        "y = com.microsoft.QLinearConcat<axis=1>(s, z)",
        "y = com.microsoft.QLinearSoftmax<axis=7, opset=13>(a, s, z, s, z)",
        'y = com.microsoft.QLinearSoftmax<axis="last", opset=13>(a, s, z, s, z)',
        "y = com.microsoft.QGemm(a, s)",
        "y = com.microsoft.QLinearAveragePool<kernel_shape=[0, -1]>(a, s, z, s, z)",
        "y = com.microsoft.DequantizeLinear<axis=5>(a, v, z)",
    ],
)
def test_a_contributed_operator_that_makes_no_sense_is_refused(body: str) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (uint8[2,4] a) => (uint8[M,N] y) '
        f"<float s = {{0.1}}, float[4] v = {{1,2,3,4}}, uint8 z = {{3}}> {{ {body} }}"
    )
    with pytest.raises(TilewrightError):
        import_model(onnx.parser.parse_model(text))
