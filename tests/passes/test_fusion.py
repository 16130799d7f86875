"""Fusion: what each pattern takes, and the near misses that it must refuse, with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.evaluate import evaluate
from tilewright.ir.graph import FUSED_DOMAIN
from tilewright.kernel.tile import Define
from tilewright.ops.program import Run, lower_graph
from tilewright.passes.fusion.attention import FuseAttention
from tilewright.passes.fusion.depthwise_pointwise import FuseDepthwisePointwise
from tilewright.passes.fusion.elementwise import FuseElementwise
from tilewright.passes.fusion.layer_norm_residual import FuseLayerNormResidual
from tilewright.passes.fusion.matmul_epilogue import FuseMatMulEpilogue
from tilewright.passes.fusion.outline import inline_fused
from tilewright.passes.fusion.reduction import FuseReduction
from tilewright.passes.fusion.softmax import FuseSoftmax
from tilewright.passes.pipeline import registry

from tests.passes.harness import SIZES, body, feeds_for, graph, ops, proto_of, run

#: pass, graph, operators afterwards, bodies of the fused nodes.
FUSIONS = [
    (
        "fuse-matmul-epilogue",
        "g (float[B,S,4] x, float[4,6] w, float[6] b, float[B,S,6] r) => (float[B,S,6] y) "
        "{ p = MatMul(x, w) s = Add(p, b) a = Gelu(s) y = Add(r, a) }",
        "FusedMatMul",
        ["MatMul Add Gelu Add"],
    ),
    (
        "fuse-matmul-epilogue",  # an activation that is a diamond
        "g (float[B,4] x, float[4,6] w) => (float[B,6] y) { p = MatMul(x, w) s = Sigmoid(p) y = Mul(p, s) }",
        "FusedMatMul",
        ["MatMul Sigmoid Mul"],
    ),
    (
        "fuse-matmul-epilogue",  # the sum belongs to the product that is ready last
        "g (float[B,4] x, float[4,4] w, float[4,4] v) => (float[B,4] y) "
        "{ p = MatMul(x, w) a = Relu(p) q = MatMul(a, v) s = Add(q, a) y = Relu(s) }",
        "FusedMatMul FusedMatMul",
        ["MatMul Relu", "MatMul Add Relu"],
    ),
    (
        "fuse-matmul-epilogue",
        "g (float[B,1,4,4] x, float[2,1,3,3] w, float[B,2,2,2] r) => (float[B,2,2,2] y) "
        "{ c = Conv(x, w) s = Add(c, r) y = Relu(s) }",
        "FusedConv",
        ["Conv Add Relu"],
    ),
    (
        "fuse-matmul-epilogue",  # written channels-last: the bias and the residual are of the transposed product
        "g (float[B,1,4,4] x, float[2,1,3,3] w, float[2] b, float[B,2,2,2] r) => (float[B,2,2,2] y) "
        "{ c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) s = Add(t, b) a = Add(s, r) y = Relu(a) }",
        "FusedConv",
        ["Conv Transpose Add Add Relu"],
    ),
    (
        "fuse-gated-matmul",  # SwiGLU, with a residual behind it
        "g (float[B,S,2] x, float[B,S,3] r) => (float[B,S,3] y) <float[2,3] w = {1,2,3,4,5,6}, float[2,3] v = "
        "{6,5,4,3,2,1}> { g = MatMul(x, w) s = Sigmoid(g) a = Mul(g, s) u = MatMul(x, v) m = Mul(a, u) y = Add(m, r) }",
        "FusedGatedMatMul",
        ["MatMul Sigmoid Mul MatMul Mul Add"],
    ),
    (
        "fuse-layer-norm-residual",
        "g (float[B,S,4] x, float[B,S,4] r, float[4] w, float[4] b) => (float[B,S,4] y) "
        "{ s = Add(x, r) y = LayerNormalization(s, w, b) }",
        "FusedLayerNorm",
        ["Add LayerNormalization"],
    ),
    (
        "fuse-layer-norm-residual",  # a pre-norm block: the residual stream is a second output
        "g (float[B,S,4] x, float[B,S,4] r, float[4] w) => (float[B,S,4] y, float[B,S,4] z) "
        "{ s = Add(x, r) y = LayerNormalization(s, w) z = Neg(s) }",
        "FusedLayerNorm Neg",
        ["Add LayerNormalization"],
    ),
    (
        "fuse-layer-norm-residual",
        "g (int64[B,S] i, int64[B,S] t, float[4] w) => (float[B,S,4] y) "
        "<float[3,4] e = {1,2,3,4,5,6,7,8,9,8,7,6}, float[2,4] f = {1,0,2,0,3,0,4,0}, float[9,4] p = "
        "{1,2,3,4,5,6,7,8,9,8,7,6,1,2,3,4,5,6,7,8,9,8,7,6,1,2,3,4,5,6,7,8,9,8,7,6}, int64 z = {0}, int64 o = {1}> "
        "{ a = Gather(e, i) b = Gather(f, t) s1 = Shape<start=1>(i) s = Squeeze(s1) r = Range(z, s, o) c = "
        "Gather(p, r) "
        "ab = Add(a, b) abc = Add(ab, c) y = LayerNormalization(abc, w) }",
        "FusedLayerNorm",
        ["Gather Gather Shape Squeeze Range Gather Add Add LayerNormalization"],
    ),
    (
        "fuse-reduction",  # masked mean pooling
        "g (float[B,S,4] h, int64[B,S] m) => (float[B,4] y) <int64[1] last = {-1}, int64[1] one = {1}, float "
        "e = {1e-9}> "
        "{ u = Unsqueeze(m, last) f = Cast<to=1>(u) k = Mul(h, f) t = ReduceSum<keepdims=0>(k, one) "
        "n = ReduceSum<keepdims=0>(f, one) c = Max(n, e) y = Div(t, c) }",
        "FusedReduction",
        ["Unsqueeze Cast Mul ReduceSum ReduceSum Max Div"],
    ),
    (
        "fuse-reduction",  # L2 normalization
        "g (float[B,4] x) => (float[B,4] y) <int64[1] a = {-1}, float e = {1e-12}> "
        "{ q = Mul(x, x) s = ReduceSum(q, a) r = Sqrt(s) c = Max(r, e) y = Div(x, c) }",
        "FusedReduction",
        ["Mul ReduceSum Sqrt Max Div"],
    ),
    (
        "fuse-reduction",  # one after the other: each has its own domain
        "g (float[B,S,4] h) => (float[B,4] y) <int64[1] a = {1}, int64[1] b = {-1}> "
        "{ x = Exp(h) m = ReduceMean<keepdims=0>(x, a) l = ReduceL2(m, b) y = Div(m, l) }",
        "FusedReduction FusedReduction",
        ["Exp ReduceMean", "ReduceL2 Div"],
    ),
    (
        "fuse-softmax",
        "g (float[B,S] x, float[1,S] m) => (float[B,S] y) <float c = {0.5}> { d = Mul(x, c) s = Add(d, m) "
        "y = Softmax(s) }",
        "FusedSoftmax",
        ["Mul Add Softmax"],
    ),
    (
        "fuse-elementwise",
        "g (int64[B,S] m) => (float[B,1,1,S] y) <float one = {1}, float big = {-10000}, int64[2] a = {1,2}> "
        "{ u = Unsqueeze(m, a) f = Cast<to=1>(u) s = Sub(one, f) y = Mul(s, big) }",
        "FusedElementwise",
        ["Unsqueeze Cast Sub Mul"],
    ),
    (
        "fuse-elementwise",  # rotary embedding of heads, behind those of the past
        "g (float[B,S,6] x, float[1,1,S,2] c, float[1,1,S,2] s, float[B,3,T,2] past) => (float[B,3,M,2] y) "
        "<int64[4] h = {0,0,3,2}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] all = {9}, int64[1] axis = {3}> "
        "{ r = Reshape(x, h) t = Transpose<perm=[0,2,1,3]>(r) a = Slice(t, zero, one, axis) b = Slice(t, one, "
        "all, axis) "
        "n = Neg(b) k = Concat<axis=3>(n, a) tc = Mul(t, c) ks = Mul(k, s) e = Add(tc, ks) y = "
        "Concat<axis=2>(past, e) }",
        "Reshape FusedElementwise",
        ["Transpose Slice Slice Neg Concat Mul Mul Add Concat"],
    ),
    (
        "fuse-elementwise",  # movement alone: one copy instead of three
        "g (float[B,4,6] x, float[1,1,4] c) => (float[B,7,4] y) <int64[3] shape = {1,1,4}> "
        "{ t = Transpose<perm=[0,2,1]>(x) z = Shape<end=1>(x) k = Constant<value_ints=[1,4]>() w = "
        "Concat<axis=0>(z, k) "
        "e = Expand(c, w) y = Concat<axis=1>(e, t) }",
        "Shape Concat FusedElementwise",
        ["Transpose Expand Concat"],
    ),
    (
        "fuse-elementwise",  # a diamond, and a value that is read outside as well
        "g (float[B,4] x) => (float[B,4] y, float[B,4] z) { a = Exp(x) b = Neg(a) c = Abs(a) d = Add(b, c) y = Tanh(d) "
        "z = Exp(d) }",
        "FusedElementwise Exp Tanh",
        ["Exp Neg Abs Add"],
    ),
]


@pytest.mark.parametrize(
    ("name", "text", "after", "bodies"), FUSIONS, ids=[f"{f[0]}-{i}" for i, f in enumerate(FUSIONS)]
)
def test_fuses(name: str, text: str, after: str, bodies: list[str]) -> None:
    model = graph(text)
    run(registry()[name](), model)
    assert sorted(ops(model).split()) == sorted(after.split())
    assert [body(model, n) for n in model.graph if n.domain == FUSED_DOMAIN] == bodies


#: pass, graph, a piece of the reason.
REFUSALS = [
    (
        "fuse-gated-matmul",  # other rows
        "g (float[B,2] x, float[B,2] z) => (float[B,2] y) <float[2,2] w = {1,2,3,4}> "
        "{ g = MatMul(x, w) s = Sigmoid(g) u = MatMul(z, w) y = Mul(s, u) }",
        "no other product",
    ),
    (
        "fuse-gated-matmul",  # the gate is an output as well
        "g (float[B,2] x) => (float[B,2] y, float[B,2] s) <float[2,2] w = {1,2,3,4}, float[2,2] v = {4,3,2,1}> "
        "{ g = MatMul(x, w) s = Sigmoid(g) u = MatMul(x, v) y = Mul(s, u) }",
        "no other product",
    ),
    (
        "fuse-matmul-epilogue",
        "g (float[1,4] x, float[4,6] w, float[B,6] r) => (float[B,6] y) { p = MatMul(x, w) y = Add(p, r) }",
        "nothing follows that keeps the shape",
    ),
    (
        "fuse-matmul-epilogue",  # the product itself is an output
        "g (float[B,4] x, float[4,6] w) => (float[B,6] p, float[B,6] y) { p = MatMul(x, w) y = Relu(p) }",
        "nothing follows that keeps the shape",
    ),
    (
        "fuse-matmul-epilogue",  # a way out and back: the second operand hangs on the product through another product
        "g (float[B,4] x, float[4,4] w) => (float[B,4] y) { p = MatMul(x, w) q = Softmax(p) y = Add(p, q) }",
        "nothing follows that keeps the shape",
    ),
    (
        "fuse-layer-norm-residual",
        "g (float[B,S,4] x, float[4] r, float[4] w) => (float[B,S,4] y, float[B,S,4] s) "
        "{ a = Softmax(x) s = Add(a, r) t = Neg(s) y = LayerNormalization(a, w) }",
        "no sum in front of it",
    ),
    (
        "fuse-reduction",
        "g (float[B,S] x) => (float[B] y, float[B,S] e) <int64[1] a = {1}> { e = Exp(x) y = "
        "ReduceSum<keepdims=0>(e, a) }",
        "no elementwise neighbour",
    ),
    (
        "fuse-elementwise",  # views cost nothing by themselves
        "g (float[B,4,6] x) => (float[B,6,2,2] y) <int64[4] s = {0,6,2,2}, int64[1] a = {1}> "
        "{ t = Transpose<perm=[0,2,1]>(x) u = Unsqueeze(t, a) y = Reshape(u, s) }",
        "no elementwise producer",
    ),
    (
        "fuse-elementwise",  # a merge of sizes that only a run knows would divide by them for each element
        "g (float[B,S,4] x) => (float[4,M] y) <int64[2] f = {-1,4}> { e = Exp(x) r = Reshape(e, f) y = Transpose(r) }",
        "no elementwise producer",
    ),
    (
        "fuse-elementwise",  # computing the small operand once per row would be work for nothing
        "g (float[4] b, float[B,4] x) => (float[B,4] y) { e = Exp(b) y = Add(x, e) }",
        "no elementwise producer",
    ),
    (
        "fuse-softmax",
        "g (float[1,S] x, float[B,S] m) => (float[B,S] y) { s = Softmax(x) y = Add(s, m) }",
        "no elementwise neighbour",
    ),
]


@pytest.mark.parametrize(("name", "text", "reason"), REFUSALS, ids=[f"{f[0]}-{i}" for i, f in enumerate(REFUSALS)])
def test_refuses(name: str, text: str, reason: str) -> None:
    model = graph(text)
    before = ops(model)
    result = run(registry()[name](), model)
    assert not result.modified
    assert ops(model) == before
    assert any(reason in m.reason for m in result.misses), result.misses


# -- depthwise and pointwise ---------------------------------------------------------------------------------------

_SEPARABLE = (
    "g (float[B,2,6,6] x, float[B,3,6,6] r) => (float[B,3,6,6] y) <float[2,1,3,3] d = "
    "{1,2,3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1}, float[2] b = {1,2}, float[3,2,1,1] p = {1,2,3,4,5,6}, float[3] q "
    "= {1,2,3}, "
    "float lo = {0}, float hi = {6}> { c = Conv<group=2, pads=[1,1,1,1]>(x, d, b) k = Clip(c, lo, hi) "
    "e = Conv(k, p, q) y = Add(e, r) }"
)


def test_fuses_depthwise_with_pointwise() -> None:
    model = graph(_SEPARABLE)
    run(FuseDepthwisePointwise(least=72), model)
    assert [body(model, n) for n in model.graph] == ["Conv Clip Conv Add"]
    (step,) = lower_graph(model)
    assert isinstance(step, Run)
    inner, outer = (s for s in step.kernel.body if isinstance(s, Define) and s.reduce is not None)
    assert inner.reduce is not None and outer.reduce is not None
    assert outer.reduce.axes == inner.axes[-1:], "channels of the intermediate are summed over, not stored"
    assert len(set(outer.axes) - set(inner.axes)) == 1, "the intermediate does not hang on output channels"


@pytest.mark.parametrize(
    ("least", "old", "new", "reason"),
    [
        (73, "", "", "stay in a cache"),
        (0, "e = Conv(k, p, q)", "e = Conv<strides=[2,2], pads=[3,3,3,3]>(k, p, q)", "does not go to a 1×1"),
        (0, "e = Conv(k, p, q)", 'e = Conv<auto_pad="SAME_UPPER">(k, p, q)', "does not go to a 1×1"),
        (
            0,
            "y = Add(e, r) }",
            "s = Softmax(k) t = Conv(s, p, q) u = Add(e, t) y = Add(u, r) }",
            "also read elsewhere",
        ),
        (0, "c = Conv<group=2, ", "x2 = Neg(x) c = Conv<group=1, ", None),
    ],
)
def test_refuses_depthwise_with_pointwise(least: int, old: str, new: str, reason: str | None) -> None:
    text = _SEPARABLE.replace(old, new) if old else _SEPARABLE
    if reason is None:  # every filter reads every channel
        text = text.replace("float[2,1,3,3] d = {1,2,3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1}", "float[2,2,1,1] d = {1,2,3,4}")
        text = text.replace("pads=[1,1,1,1]", "pads=[0,0,0,0]").replace("x2 = Neg(x) ", "")
    model = graph(text)
    result = run(FuseDepthwisePointwise(least=least), model)
    assert not result.modified
    assert reason is None or any(reason in m.reason for m in result.misses), result.misses


# -- attention -----------------------------------------------------------------------------------------------------

_SPLIT = (
    "qs = Reshape(q, heads) qh = Transpose<perm=[0,2,1,3]>(qs) ks = Reshape(k, heads) kh = "
    "Transpose<perm=[0,2,3,1]>(ks) "
    "vs = Reshape(v, heads) vh = Transpose<perm=[0,2,1,3]>(vs) "
)
_JOIN = "ct = Transpose<perm=[0,2,1,3]>(c) y = Reshape(ct, joined) "
_LITERALS = (
    "<int64[4] heads = {0,0,3,4}, int64[3] joined = {0,0,12}, float scale = {0.5}, float root = {2}, float zero = {0}>"
)
_MERGED = f"g (float[B,S,12] q, float[B,T,12] k, float[B,T,12] v, float[B,1,1,T] m) => (float[B,S,12] y) {_LITERALS} "


def _attention(middle: str, header: str = _MERGED) -> str:
    return header + "{ " + _SPLIT + middle + _JOIN + "}"


_SCORES = "s = MatMul(qh, kh) d = Div(s, root) a = Add(d, m) p = Softmax(a) c = MatMul(p, vh) "
_SHARED = {"num_heads": 3, "kv_num_heads": 3, "causal": 0}
_SIDE_BY_SIDE = {"q_layout": "bsm", "k_layout": "bsm", "v_layout": "bsm", "out_layout": "bsm"}

ATTENTIONS = [
    (_attention(_SCORES), {"scale": 0.5, "mask": 1, "nan_to_zero": 0, **_SIDE_BY_SIDE}),
    (
        _attention("s = MatMul(qh, kh) p = Softmax<axis=-1>(s) c = MatMul(p, vh) "),
        {"scale": 1.0, "mask": 0, "nan_to_zero": 0, **_SIDE_BY_SIDE},
    ),
    (  # as the exporters of torch write it: half of the scale on each side, a guard against rows that are all hidden
        _attention(
            "qx = Mul(qh, scale) kx = Mul(scale, kh) s = MatMul(qx, kx) a = Add(m, s) p = Softmax(a) n = IsNaN(p) "
            "g = Where(n, zero, p) c = MatMul(g, vh) "
        ),
        {"scale": 0.25, "mask": 1, "nan_to_zero": 1, **_SIDE_BY_SIDE},
    ),
    (  # a position bias besides the mask
        _attention(
            "s = MatMul(qh, kh) d = Mul(s, scale) e = Add(d, bias) a = Add(e, m) p = Softmax(a) c = MatMul(p, vh) ",
            _MERGED.replace("m) =>", "bias, float[1,3,S,T] m) =>"),
        ),
        {"scale": 0.5, "mask": 1, "nan_to_zero": 0, **_SIDE_BY_SIDE},
    ),
    (  # masked_fill: hidden scores are replaced
        _attention(
            "s = MatMul(qh, kh) d = Div(s, root) a = Where(m, lowest, d) p = Softmax(a) c = MatMul(p, vh) ",
            _MERGED.replace("float[B,1,1,T] m", "bool[B,1,1,T] m").replace("<", "<float lowest = {-3e38}, ", 1),
        ),
        {"scale": 0.5, "mask": 2, "nan_to_zero": 0, **_SIDE_BY_SIDE},
    ),
    (  # a causal buffer hides scores, a mask is added
        _attention(
            "s = MatMul(qh, kh) d = Div(s, root) w = Where(h, d, lowest) a = Add(w, m) p = Softmax(a) "
            "c = MatMul(p, vh) ",
            _MERGED.replace("float[B,1,1,T] m", "bool[1,1,S,T] h, float[B,1,1,T] m").replace(
                "<", "<float lowest = {-3e38}, ", 1
            ),
        ),
        {"scale": 0.5, "mask": 3, "nan_to_zero": 0, **_SIDE_BY_SIDE},
    ),
    (
        "g (float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,8] v) => (float[B,3,S,8] y) "
        "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }",
        {"scale": 1.0, "mask": 0, "q_layout": "bhsd", "k_layout": "bhsd", "v_layout": "bhsd", "out_layout": "bhsd"},
    ),
    (
        "g (float[B,3,S,4] q, float[B,3,4,T] k, float[B,3,T,8] v) => (float[B,3,S,8] y) "
        "{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }",
        {"scale": 1.0, "mask": 0, "k_layout": "bhds"},
    ),
]


@pytest.mark.parametrize(("text", "attributes"), ATTENTIONS)
def test_fuses_attention(text: str, attributes: dict[str, object]) -> None:
    model = graph(text)
    run(FuseAttention(), model)
    assert ops(model) == "FusedAttention"
    node = model.graph.node(0)
    masks = len(model.graph.inputs) - 3 if node.attributes["mask"].as_int() else 0
    assert len(node.inputs) == 3 + masks
    assert {**_SHARED, **attributes}.items() <= {n: a.value for n, a in node.attributes.items()}.items()
    assert [v.name for v in node.inputs if v is not None] == [v.name for v in model.graph.inputs][: len(node.inputs)]


#: Six query heads share two heads of keys and values.
_GROUPED = "g (float[B,S,24] q, float[B,2,T,4] k, float[B,2,T,4] v) => (float[B,S,24] y, float[B,2,T,4] n) "
GROUPED = [
    (  # repeated for each query head; something else reads the keys as well
        _GROUPED + "<int64[4] heads = {0,0,6,4}, int64[3] joined = {0,0,24}, int64[1] two = {2}, int64[5] copies = "
        "{1,1,3,1,1}, int64[4] all = {0,6,-1,4}> { qs = Reshape(q, heads) qh = Transpose<perm=[0,2,1,3]>(qs) "
        "k5 = Unsqueeze(k, two) ke = Expand(k5, copies) kr = Reshape(ke, all) kt = Transpose<perm=[0,1,3,2]>(kr) "
        "v5 = Unsqueeze(v, two) ve = Expand(v5, copies) vr = Reshape(ve, all) s = MatMul(qh, kt) p = Softmax(s) "
        "c = MatMul(p, vr) t = Transpose<perm=[0,2,1,3]>(c) y = Reshape(t, joined) n = Neg(k) }",
        "Neg FusedAttention",
    ),
    (  # left as they are; queries in groups
        _GROUPED + "<int64[5] groups = {0,0,2,3,4}, int64[3] joined = {0,0,24}, int64[1] two = {2}> "
        "{ q5 = Reshape(q, groups) qg = Transpose<perm=[0,2,3,1,4]>(q5) kt = Transpose<perm=[0,1,3,2]>(k) "
        "k5 = Unsqueeze(kt, two) v5 = Unsqueeze(v, two) s = MatMul(qg, k5) p = Softmax(s) c = MatMul(p, v5) "
        "t = Transpose<perm=[0,3,1,2,4]>(c) y = Reshape(t, joined) n = Neg(k) }",
        "Neg FusedAttention",
    ),
]


@pytest.mark.parametrize(("text", "after"), GROUPED)
def test_fuses_attention_with_shared_heads(text: str, after: str) -> None:
    model = graph(text)
    run(FuseAttention(), model)
    assert sorted(ops(model).split()) == sorted(after.split())
    node = next(n for n in model.graph if n.domain == FUSED_DOMAIN)
    attributes = {name: a.value for name, a in node.attributes.items()}
    expected = {"num_heads": 6, "kv_num_heads": 2, "q_layout": "bsm", "k_layout": "bhsd", "out_layout": "bsm"}
    assert expected.items() <= attributes.items()
    assert [v.name for v in node.inputs if v is not None] == ["q", "k", "v"]


_TWO_SIZES = _MERGED.replace("float[B,T,12] v", "float[B,S,12] v").replace("float[B,1,1,T] m", "float[B,1,1,S] m")
NO_ATTENTION = [
    (
        _attention(
            "s = MatMul(qh, kh) a = Where(m, r, s) p = Softmax(a) c = MatMul(p, vh) ",
            _MERGED.replace("float[B,1,1,T] m", "bool[B,1,1,T] m, float[T] r"),
        ),
        "one number",
    ),
    (_attention(_SCORES.replace("p = Softmax(a)", "p = Softmax<axis=2>(a)")), "last axis"),
    (_attention(_SCORES + "z = Neg(p) ").replace("float[B,S,12] y)", "float[B,S,12] y, float[B,3,S,T] z)"), "not only"),
    (_attention(_SCORES).replace("float[B,S,12] y)", "float[B,S,12] y, float[B,3,S,T] d)"), "read outside"),
    (_attention("s = Mul(qh, qh) p = Softmax(s) c = Mul(p, qh) "), "no product"),
    (
        _attention(_SCORES, _MERGED.replace("float[B,1,1,T] m", "float[N,1,1,1,T] m"))
        .replace(_JOIN, "y = Neg(c) ")
        .replace("float[B,S,12] y", "float[N,B,3,S,4] y"),
        "the mask widens the scores",
    ),
    (
        "g (float[B,S,4] q, float[B,4,T] k, float[B,T,4] v) => (float[B,S,4] y) "
        "{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }",
        "not [batch, heads, query, key]",
    ),
    (
        "g (float[B,3,S,4] q, float[1,3,4,T] k, float[B,3,T,4] v) => (float[B,3,S,4] y) "
        "{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }",
        "batch and heads differ",
    ),
    (
        "g (float[B,N,S,4] q, float[B,N,4,T] k, float[B,N,T,4] v) => (float[B,N,S,4] y) "
        "{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }",
        "number of heads",
    ),
    (
        _attention("s = MatMul(qh, kh) p = Softmax(s) n = IsNaN(p) g = Where(n, root, p) c = MatMul(g, vh) "),
        "no guard against NaN",
    ),
]


@pytest.mark.parametrize(("text", "reason"), NO_ATTENTION)
def test_refuses_attention(text: str, reason: str) -> None:
    model = graph(text)
    result = run(FuseAttention(), model)
    assert not result.modified
    assert any(reason in m.reason for m in result.misses), result.misses


def test_attention_counts_hidden_rows_as_zero() -> None:
    """With -inf throughout, softmax is NaN; the guard makes it 0, in the fused node as before."""
    text = _attention(
        "s = MatMul(qh, kh) a = Add(m, s) p = Softmax(a) n = IsNaN(p) g = Where(n, zero, p) c = MatMul(g, vh) "
    )
    model = graph(text)
    feeds = dict(feeds_for(model))
    feeds["m"] = np.where(np.arange(SIZES["B"]).reshape(-1, 1, 1, 1) == 0, -np.inf, np.zeros_like(feeds["m"]))
    run(FuseAttention(), model, feeds)
    result = evaluate(proto_of(model), feeds)["y"]
    assert not result[0].any() and result[1].any()


# -- outlining -----------------------------------------------------------------------------------------------------


def test_equal_bodies_are_one_function() -> None:
    model = graph(
        "g (float[B,4] x, float[4,4] w, float[4] b) => (float[B,4] y) { p = MatMul(x, w) q = Add(p, b) r = "
        "MatMul(q, w) "
        "s = Add(r, b) t = MatMul(s, w) y = Relu(t) }"
    )
    run(FuseMatMulEpilogue(), model)
    assert ops(model) == "FusedMatMul FusedMatMul FusedMatMul"
    overloads = [n.overload for n in model.graph]
    assert overloads[0] == overloads[1] != overloads[2]
    assert len(model.functions) == 2
    assert model.ir_version >= 10


def test_overloads_do_not_hang_on_names() -> None:
    text = "g (float[B,4] {0}, float[4,4] {1}) => (float[B,4] {2}) {{ {3} = MatMul({0}, {1}) {2} = Relu({3}) }}"
    found = set()
    for names in (("x", "w", "y", "p"), ("left", "right", "out", "between")):
        model = graph(text.format(*names))
        FuseMatMulEpilogue().run(model)
        found.add(model.graph.node(0).overload)
    assert len(found) == 1


def test_scalars_live_in_the_body_and_weights_outside() -> None:
    model = graph(
        "g (float[B,4] x) => (float[B,4] y) <float[4] w = {1,2,3,4}, float half = {0.5}> { a = Mul(x, half) "
        "y = Add(a, w) }"
    )
    run(FuseElementwise(), model)
    node = model.graph.node(0)
    assert [v.name for v in node.inputs if v is not None] == ["x", "w"]
    assert [n.op_type for n in model.functions[node.op_identifier()]] == ["Constant", "Mul", "Add"]


def test_inlining_one_node_leaves_the_others() -> None:
    model = graph(
        "g (float[B,4] x, float[4,4] w) => (float[B,4] y) { p = MatMul(x, w) q = Relu(p) s = Softmax(q) e = "
        "Exp(s) y = Neg(e) }"
    )
    want = evaluate(proto_of(model), feeds_for(model))
    FuseMatMulEpilogue().run(model)
    FuseElementwise().run(model)
    assert ops(model) == "FusedMatMul Softmax FusedElementwise"
    inline_fused(model, only=[model.graph.node(0)])
    assert ops(model) == "MatMul Relu Softmax FusedElementwise"
    np.testing.assert_array_equal(evaluate(proto_of(model), feeds_for(model))["y"], want["y"])


@pytest.mark.parametrize("p", [FuseMatMulEpilogue(), FuseLayerNormResidual(), FuseReduction(), FuseSoftmax()])
def test_outputs_keep_their_names(p: FuseMatMulEpilogue) -> None:
    model = graph(
        "g (float[B,4] x, float[4,4] w, float[4] s) => (float[B,4] p, float[B,4] n, float[B,4] f, float[B,1] r) "
        "<int64[1] a = {-1}> { m = MatMul(x, w) p = Relu(m) t = Add(x, s) n = LayerNormalization(t, s) k = Exp(x) "
        "f = Softmax(k) q = Neg(x) r = ReduceSum(q, a) }"
    )
    assert run(p, model).modified
    assert [v.name for v in model.graph.outputs] == ["p", "n", "f", "r"]
