"""Canonicalization: for each pass what it does, and next to it what it must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.graph import constant_array, type_of
from tilewright.passes.pipeline import registry

from tests.passes.harness import graph, ops, run

_NORM = "float[4] s = {0.5,2,1,3}, float[4] b = {1,-1,0.5,2}, float[4] m = {0.1,0.2,-1,0.3}, float[4] v = {1,4,0.5,2}> "

#: pass, graph, operators afterwards.
REWRITES = [
    (
        "fold-constants",
        "g (float[B,4] x) => (float[B,4] y) <float[4] w = {1,2,3,4}> { n = Neg(w) y = Add(x, n) }",
        "Add",
    ),
    (
        "fold-constants",
        "g (float[B,6,4] x) => (float[B,24] y) { s = Shape<start=1>(x) p = ReduceProd<keepdims=1>(s) "
        "m = Constant<value_ints=[-1]>() t = Concat<axis=0>(m, p) y = Reshape(x, t) }",
        "Reshape",
    ),
    (
        "fold-constants",  # by the kernels' own arithmetic, a product and a reduction
        "g (float[B,2] x) => (float[B,2] y) <float[2,3] w = {1,2,3,4,5,6}, float[3] v = {1,0,2}, int64[1] a = {0}> "
        "{ p = MatMul(w, v) s = ReduceSum<keepdims=0>(w, a) m = ReduceMax(s, a) q = Mul(p, m) y = Add(x, q) }",
        "Add",
    ),
    (
        "canonicalize-casts",
        "g (float[B,4] x, float16[1] z) => (float16[B,4] y) { y = CastLike(x, z) }",
        "Cast",
    ),
    (
        "canonicalize-casts",
        "g (float16[B,4] x, bool[B,4] c) => (float16[B,4] y) <float least = {-3.4e38}> {"
        " a = Cast<to=1>(x) b = Where(c, a, least) y = Cast<to=10>(b) }",
        "Cast Where",
    ),
    (
        "eliminate-identity",
        "g (float[B,4] x) => (float[B,4] y) { a = Identity(x) b = Relu(a) y = Identity(b) }",
        "Relu",
    ),
    ("eliminate-identity", "g (float[B,4] x) => (float[B,4] y) { a = Cast<to=1>(x) y = Relu(a) }", "Relu"),
    ("eliminate-identity", "g (float[B,4] x) => (float[B,4] y) { a = Transpose<perm=[0,1]>(x) y = Relu(a) }", "Relu"),
    ("eliminate-identity", "g (float[B,4] x) => (float[B,4] y) { a = Concat<axis=0>(x) y = Relu(a) }", "Relu"),
    ("eliminate-identity", "g (float[B,4] x) => (float[B,4] y) { a = Dropout(x) y = Relu(a) }", "Relu"),
    (
        "eliminate-identity",
        "g (float[B,4] x) => (float[B,4] y) <float one = {1}> { a = Mul(one, x) y = Relu(a) }",
        "Relu",
    ),
    (
        "eliminate-identity",
        "g (float[B,4] x) => (float[B,4] y) <float[4] z = {0,0,0,0}> { a = Add(x, z) y = Relu(a) }",
        "Relu",
    ),
    (
        "eliminate-identity",
        "g (float[B,4] x) => (float[B,4] y) <int64[1] s = {0}, int64[1] e = {9}, int64[1] a = {1}> "
        "{ c = Slice(x, s, e, a) y = Relu(c) }",
        "Relu",
    ),
    (
        "eliminate-common-subexpressions",
        "g (float[B,4] x) => (float[B,4] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }",
        "Exp Add",
    ),
    (
        "eliminate-common-subexpressions",
        "g (float[B,4] x) => (float[B,4] y) <float p = {2}, float q = {2}> "
        "{ a = Mul(x, p) b = Mul(x, q) y = Add(a, b) }",
        "Mul Add",
    ),
    (
        "merge-views",
        "g (float[B,S,8] x) => (float[B,S,2,4] y) { s = Shape<end=2>(x) h = Constant<value_ints=[2,4]>() "
        "t = Concat<axis=0>(s, h) y = Reshape(x, t) }",
        "Reshape",
    ),
    (
        "merge-views",
        "g (float[B,S] x) => (float[B,1,1,S] y) <int64[1] a = {1}, int64[1] b = {-2}> "
        "{ u = Unsqueeze(x, a) y = Unsqueeze(u, b) }",
        "Unsqueeze",
    ),
    (
        "merge-views",
        "g (float[B,4] x) => (float[B,4] y) <int64[1] a = {1}, int64[2] t = {0, 4}> "
        "{ u = Unsqueeze(x, a) v = Reshape(u, t) w = Relu(v) f = Flatten<axis=1>(w) y = Neg(f) }",
        "Relu Neg",
    ),
    (
        "compose-transposes",
        "g (float[B,S,4] x) => (float[4,B,S] y) { a = Transpose<perm=[1,0,2]>(x) y = Transpose<perm=[2,1,0]>(a) }",
        "Transpose",
    ),
    (
        "compose-transposes",  # keys of an exported attention: heads merged with the batch, transposed, split again
        "g (float[B,3,S,4] x) => (float[B,3,4,S] y) { s = Shape(x) k = Shape<start=2,end=3>(x) "
        "m = Constant<value_ints=[-1]>() d = Constant<value_ints=[4]>() h = Constant<value_ints=[3]>() "
        "t = Concat<axis=0>(m, k, d) b = Shape<end=1>(x) u = Concat<axis=0>(b, h, d, k) "
        "a = Reshape(x, t) c = Transpose<perm=[0,2,1]>(a) y = Reshape(c, u) }",
        "Transpose",
    ),
    ("compose-transposes", "g (float[B,1,4] x) => (float[B,4,1] y) { y = Transpose<perm=[0,2,1]>(x) }", "Reshape"),
    (
        "canonicalize-gemm",
        "g (float[B,3] x) => (float[B,2] y) <float[2,3] w = {1,2,3,4,5,6}, float[2] c = {1,2}> "
        "{ y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c) }",
        "MatMul Add",
    ),
    (
        "canonicalize-gemm",
        "g (float[3,B] x, float[3,M] w) => (float[B,M] y) { y = Gemm<transA=1, alpha=3.0>(x, w) }",
        "Transpose MatMul Mul",
    ),
    (
        "decompose-einsum",
        'g (float[B,2,S,4] q, float[B,2,T,4] k) => (float[B,2,S,T] y) { y = Einsum<equation="bhid,bhjd->bhij">(q, k) }',
        "Transpose MatMul",
    ),
    (
        "decompose-einsum",  # several axes of rows and of columns, summed ones that only one operand has
        'g (float[B,3,4] x, float[4,2,5] w) => (float[2,B] y) { y = Einsum<equation="...ij,jkl->k...">(x, w) }',
        "ReduceSum ReduceSum MatMul Transpose",
    ),
    (
        "decompose-einsum",
        'g (float[B,2,4] x, float[2,4,3,5] w) => (float[B,3,5] y) { y = Einsum<equation="bhd,hdij->bij">(x, w) }',
        "Reshape Reshape MatMul Reshape",
    ),
    (
        "decompose-einsum",
        'g (float[B,4] x, float[4,S] w, float[S,3] v) => (float[B,3] y) { y = Einsum<equation="ij,jk,kl">(x, w, v) }',
        "MatMul MatMul",
    ),
    ("decompose-einsum", 'g (float[B,4] x) => (float[4,B] y) { y = Einsum<equation="ij->ji">(x) }', "Transpose"),
    (
        "decompose-einsum",  # a vector times a vector
        'g (float[S] x, float[S] w) => (float y) { y = Einsum<equation="i,i">(x, w) }',
        "Unsqueeze Unsqueeze MatMul Squeeze",
    ),
    ("simplify-arithmetic", "g (float[B,4] x) => (float[B,4] y) <float two = {2}> { y = Pow(x, two) }", "Mul"),
    ("simplify-arithmetic", "g (float[B,4] x) => (float[B,4] y) <float c = {8}> { y = Div(x, c) }", "Mul"),
    ("simplify-arithmetic", "g (float[B,4] x) => (float[B,4] y) <float c = {0.3}> { y = Sub(x, c) }", "Add"),
    (
        "recognise-softmax",
        "g (float[B,4] x) => (float[B,4] y) <int64[1] a = {-1}> { m = ReduceMax(x, a) d = Sub(x, m) e = Exp(d) "
        "s = ReduceSum(e, a) y = Div(e, s) }",
        "Softmax",
    ),
    (
        "canonicalize-sizes",
        "g (float[B,S] x) => (int64[1] y) <int64[1] a = {0}, int64 i = {1}> "
        "{ n = Relu(x) s = Shape(n) g = Gather(s, i) "
        "u = Unsqueeze(g, a) y = Neg(u) }",
        "Shape Neg",
    ),
    (
        "fold-index-tensors",
        "g (float[B,S] x) => (bool[S] y) <int64 z = {0}, int64 o = {1}> { s = Shape<start=1>(x) n = Squeeze(s) "
        "r = Range(z, n, o) c = GreaterOrEqual(r, z) y = Not(c) }",
        "Shape Squeeze Range Shape Expand Not",
    ),
    (
        "fold-index-tensors",  # a gather with positions of both axes is a view
        "g (float[B,S] x) => (float[B,1,S] y) <int64 z = {0}, int64 o = {1}, int64[1] a0 = {0}, int64[2] a12 = {1, 2}, "
        "int64[2] a01 = {0, 1}, int64[1] m = {-1}> { b1 = Shape<end=1>(x) b = Squeeze(b1) s1 = Shape<start=1>(x) "
        "s = Squeeze(s1) rb = Range(z, b, o) rs = Range(z, s, o) ub = Unsqueeze(rb, a12) us = Unsqueeze(rs, a01) "
        "t = Max(ub, us) h = Shape(t) eb = Expand(ub, h) es = Expand(us, h) cb = Unsqueeze(eb, m) "
        "cs = Unsqueeze(es, m) i = Concat<axis=-1>(cb, cs) y = GatherND(x, i) }",
        "Unsqueeze",
    ),
    (
        "sink-expand",
        "g (float[B,S,4] x, float[B,1,4] m) => (float[B,S,4] y) { s = Shape(x) e = Expand(m, s) y = Add(x, e) }",
        "Add",
    ),
    (
        "sink-expand",
        "g (bool[B,1] c, float[B,S] x) => (float[B,S] y) <float p = {0}, float q = {-9}> "
        "{ s = Shape(x) e = Expand(c, s) "
        "y = Where(e, p, q) }",
        "Shape Where Expand",
    ),
    (
        "decompose-attention",
        "g (float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,8] v, float[B,1,S,T] m) => (float[B,3,S,8] y) "
        "{ y = Attention<scale=0.25>(q, k, v, m) }",
        "Transpose MatMul Mul Add Softmax IsNaN Where MatMul",
    ),
    (
        "decompose-attention",
        "g (float[B,S,12] q, float[B,T,12] k, float[B,T,12] v, bool[S,T] m) => (float[B,S,12] y) "
        "{ y = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, m) }",
        "Reshape Transpose Reshape Transpose Reshape Transpose Transpose MatMul "
        "Mul Where Add Softmax IsNaN Where MatMul Transpose Reshape",
    ),
    (
        "sink-views",  # Conv1D: the rows of all batches in one product, a bias and an activation between the views
        "g (float[B,S,4] x, float[4,6] w, float[6] b) => (float[B,S,6] y) <int64[2] f = {-1, 4}> "
        "{ s = Shape<end=2>(x) n = Constant<value_ints=[6]>() t = Concat<axis=0>(s, n) r = Reshape(x, f) "
        "p = MatMul(r, w) a = Add(p, b) g = Gelu(a) y = Reshape(g, t) }",
        "Shape Concat MatMul Add Gelu Reshape Reshape",
    ),
    (
        "sink-views",  # both operands are merged alike; a norm and a split of the last axis; the views end up last
        "g (float[B,S,4] x, float[B,S,4] z, float[4] w) => (float[M,2] y, float[M,2] k) <int64[2] f = {-1, 4}, "
        "int64[2] h = {2, 2}> { r = Reshape(x, f) q = Reshape(z, f) a = Add(r, q) n = LayerNormalization(a, w) "
        "y, k = Split<axis=1>(n, h) }",
        "Add LayerNormalization Split Reshape Reshape",
    ),
    (
        "sink-views",  # heads are joined and rows merged by one view
        "g (float[B,S,2,4] x, float[8,6] w) => (float[M,6] y) <int64[2] f = {-1, 8}> "
        "{ r = Reshape(x, f) y = MatMul(r, w) }",
        "Reshape MatMul Reshape",
    ),
    (
        "sink-views",
        "g (float[1,S,4] x, float[4,4] w) => (float[S,4] y) <int64[1] a = {0}> { r = Squeeze(x, a) y = MatMul(r, w) }",
        "MatMul Squeeze",
    ),
    (
        "decompose-conv-transpose",
        "g (float[B,1,2,2] x) => (float[B,1,4,4] y) <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}, float[1] c = {1}> "
        "{ y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w, c) }",
        "Conv Reshape Transpose Reshape Slice",
    ),
    (
        "decompose-conv-transpose",  # turned around, and nothing to move
        "g (float[B,2,3,3] x) => (float[B,1,3,3] y) <float[2,1,2,2] w = {1,2,3,4,5,6,7,8}> "
        "{ y = ConvTranspose<dilations=[2,2], pads=[1,1,1,1]>(x, w) }",
        "Conv",
    ),
    (
        "decompose-conv-transpose",  # with what normalizes it
        "g (float[B,2,2] x) => (float[B,4,4] y) <float[2,4,2] w = {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}, "
        + _NORM
        + "{ a = ConvTranspose<strides=[2]>(x, w) y = BatchNormalization(a, s, b, m, v) }",
        "Conv Reshape Transpose Reshape",
    ),
    (
        "fold-batch-norm",
        "g (float[B,1,4,4] x) => (float[B,2,2,2] y) <float[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1}, "
        "float[2] c = {1,2}, float[2] s = {0.5,2}, float[2] b = {1,-1}, float[2] m = {0.1,0.2}, float[2] v = {1,4}> "
        "{ a = Conv(x, w, c) y = BatchNormalization(a, s, b, m, v) }",
        "Conv",
    ),
    (
        "fold-batch-norm",  # two filters for each of two groups of two channels
        "g (float[B,4,4,4] x) => (float[B,4,3,3] y) <float[4,2,2,2] w = {1,2,3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1,3,5,7,9,"
        "1,2,3,4,5,6,7,8,9,1}, float[4] c = {1,2,3,4}, "
        + _NORM
        + "{ a = BatchNormalization(x, s, b, m, v) y = Conv<group=2>(a, w, c) }",
        "Conv",
    ),
    (
        "fold-batch-norm",  # zeros around what is normalized
        "g (float[B,4,2,2] x) => (float[B,1,4,4] y) <float[1,4,1,1] w = {1,2,3,4}, "
        + _NORM
        + "{ a = BatchNormalization(x, s, b, m, v) y = Conv<pads=[1,1,1,1]>(a, w) }",
        "Mul Add Conv",
    ),
    (
        "fold-batch-norm",  # the filters are needed as they are
        "g (float[B,1,3,3] x, float[4,1,2,2] w) => (float[B,4,2,2] y) <"
        + _NORM
        + "{ a = Conv(x, w) y = BatchNormalization(a, s, b, m, v) }",
        "Conv Mul Add",
    ),
    (
        "fold-batch-norm",
        "g (float[B,4,2,2] x, float[B,4,2,2] r) => (float[B,4,2,2] y) <"
        + _NORM
        + "{ a = Add(x, r) y = BatchNormalization(a, s, b, m, v) }",
        "Add Mul Add",
    ),
    (
        "fold-batch-norm",
        "g (float[B,4] x) => (float[B,4] y) <" + _NORM + "{ y = BatchNormalization(x, s, b, m, v) }",
        "Mul Add",
    ),
]

_GELU = (
    "g (float[B,4] x) => (float[B,4] y) <float r = {1.4142135}, float o = {1}, float h = {0.5}, float k = {0.7978846}, "
    "float c = {0.044715}, float three = {3}> "
)
_ERF = "d = Div(x, r) e = Erf(d) p = Add(e, o)"
_TANH = "q = Pow(x, three) cq = Mul(c, q) i = Add(x, cq) ki = Mul(k, i) t = Tanh(ki) p = Add(o, t)"
REWRITES += [
    ("recognise-gelu", _GELU + "{" + _ERF + " a = Mul(x, p) y = Mul(a, h) }", "Gelu"),
    ("recognise-gelu", _GELU + "{" + _ERF + " a = Mul(p, h) y = Mul(a, x) }", "Gelu"),
    ("recognise-gelu", _GELU + "{ xh = Mul(x, h) " + _ERF + " y = Mul(xh, p) }", "Gelu"),
    ("recognise-gelu", _GELU + "{ xh = Mul(h, x) " + _TANH + " y = Mul(xh, p) }", "Gelu"),
    (
        "recognise-gelu",
        _GELU + "{ xx = Mul(x, x) q = Mul(xx, x) cq = Mul(q, c) i = Add(cq, x) ki = Mul(i, k) t = Tanh(ki) "
        "p = Add(t, o) a = Mul(x, p) y = Mul(h, a) }",
        "Gelu",
    ),
]

_NORM = (
    "g (float[B,S,4] x) => (float[B,S,4] y) <float[4] w = {1,2,3,4}, float[4] b = {1,0,1,0}, float eps = {1e-5}, "
    "float two = {2}, int64[1] a = {-1}> "
)
_CENTRED = "m = ReduceMean(x, a) d = Sub(x, m) "
REWRITES += [
    (
        "recognise-layer-norm",
        _NORM + "{" + _CENTRED + "q = Pow(d, two) v = ReduceMean(q, a) e = Add(v, eps) r = Sqrt(e) "
        "n = Div(d, r) g = Mul(n, w) y = Add(g, b) }",
        "LayerNormalization",
    ),
    (
        "recognise-layer-norm",
        _NORM + "{" + _CENTRED + "q = Mul(d, d) v = ReduceMean(q, a) e = Add(eps, v) r = Sqrt(e) "
        "i = Reciprocal(r) n = Mul(d, i) g = Mul(w, n) y = Add(b, g) }",
        "LayerNormalization",
    ),
    (
        "recognise-layer-norm",
        _NORM + "{" + _CENTRED + "q = Mul(d, d) v = ReduceMean(q, a) e = Add(eps, v) r = Sqrt(e) "
        "n = Div(d, r) g = Mul(w, n) y = Neg(g) }",
        "LayerNormalization Neg",
    ),
    (
        "split-projections",
        "g (float[B,2] x) => (float[B,1] y, float[B,2] z) <float[2,3] w = {1,2,3,4,5,6}, float[3] b = {1,0,2}, "
        "int64[2] n = {1,2}> { p = MatMul(x, w) a = Add(b, p) y, z = Split<axis=-1>(a, n) }",
        "MatMul Add MatMul Add",
    ),
]


@pytest.mark.parametrize(("name", "text", "after"), REWRITES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(REWRITES)])
def test_rewrites(name: str, text: str, after: str) -> None:
    model = graph(text)
    result = run(registry()[name](), model)
    registry()["eliminate-dead-code"]().run(model)
    assert ops(model) == after
    assert result.modified


#: pass, graph, a piece of the reason (empty: not even a candidate).
REFUSALS = [
    (
        "canonicalize-casts",  # f16 does not hold what x is
        "g (float[B,4] x, bool[B,4] c) => (float[B,4] y) <float16 least = {-10}> {"
        " a = Cast<to=10>(x) b = Where(c, a, least) y = Cast<to=1>(b) }",
        "",
    ),
    (
        "canonicalize-casts",  # the wide value is an output as well
        "g (float16[B,4] x, bool[B,4] c) => (float16[B,4] y, float[B,4] b) <float least = {-10}> {"
        " a = Cast<to=1>(x) b = Where(c, a, least) y = Cast<to=10>(b) }",
        "",
    ),
    (
        "split-projections",  # the whole is an output as well
        "g (float[B,2] x) => (float[B,2] y, float[B,2] z, float[B,4] p) <float[2,4] w = {1,2,3,4,5,6,7,8}, "
        "int64[2] n = {2,2}> { p = MatMul(x, w) y, z = Split<axis=1>(p, n) }",
        "product with a weight",
    ),
    (
        "split-projections",  # rows, not features
        "g (float[4,2] x) => (float[2,3] y, float[2,3] z) <float[2,3] w = {1,2,3,4,5,6}, int64[2] n = {2,2}> "
        "{ p = MatMul(x, w) y, z = Split<axis=0>(p, n) }",
        "along features",
    ),
    (
        "sink-views",  # the other operand has a row for each row
        "g (float[B,S,4] x, float[M,4] z) => (float[M,4] y) <int64[2] f = {-1, 4}> { r = Reshape(x, f) y = Add(r, z) }",
        "each row",
    ),
    (
        "sink-views",  # the softmax runs over the merged axis
        "g (float[B,S,4] x) => (float[M,4] y) <int64[2] f = {-1, 4}> { r = Reshape(x, f) y = Softmax<axis=0>(r) }",
        "each row",
    ),
    (
        "sink-views",  # a matrix for each of them
        "g (float[B,S,3,4] x, float[B,4,2] w) => (float[B,M,2] y) <int64[3] f = {0, -1, 4}> "
        "{ r = Reshape(x, f) y = MatMul(r, w) }",
        "each row",
    ),
    (
        "fold-constants",
        "g (float[1] x) => (float[300,300] y) <int64[2] s = {300,300}, float o = {1}> "
        "{ e = Expand(o, s) y = Add(x, e) }",
        "more than",
    ),
    (
        "eliminate-identity",
        "g (float[B,1] x) => (float[B,4] y) <float[4] z = {0,0,0,0}> { y = Add(x, z) }",
        "is not f32[B, 4]",
    ),
    (
        "eliminate-identity",
        "g (float[4] x) => (float[4] y) <int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {0}, "
        "int64[1] t = {-1}> { y = Slice(x, s, e, a, t) }",
        "",
    ),
    ("simplify-arithmetic", "g (float[B,4] x) => (float[B,4] y) <float c = {3}> { y = Div(x, c) }", "no power of two"),
    ("simplify-arithmetic", "g (int64[B,4] x) => (int64[B,4] y) <int64 c = {2}> { y = Div(x, c) }", ""),
    ("recognise-gelu", _GELU + "{ d = Mul(x, r) e = Erf(d) p = Add(e, o) a = Mul(x, p) y = Mul(a, h) }", "0.707107"),
    (
        "recognise-gelu",
        _GELU + "{ n = Neg(x) d = Div(n, r) e = Erf(d) p = Add(e, o) a = Mul(x, p) y = Mul(a, h) }",
        "should be",
    ),
    (
        "recognise-softmax",
        "g (float[B,4] x) => (float[B,4] y) <int64[1] a = {-1}, int64[1] b = {0}> { m = ReduceMax(x, a) "
        "d = Sub(x, m) e = Exp(d) s = ReduceSum(e, b) y = Div(e, s) }",
        "one and the same axis",
    ),
    (
        "recognise-softmax",
        "g (float[B,4] x) => (float[B,4] y) <int64[1] a = {-1}> { e = Exp(x) s = ReduceSum(e, a) y = Div(e, s) }",
        "not Sub",
    ),
    (
        "recognise-layer-norm",
        _NORM.replace("float[4] w = {1,2,3,4}", "float w = {2}") + "{" + _CENTRED + "q = Mul(d, d) "
        "v = ReduceMean(q, a) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) g = Mul(n, w) y = Add(g, b) }",
        "one number per element",
    ),
    (
        "recognise-layer-norm",
        _NORM.replace("int64[1] a = {-1}", "int64[1] a = {1}") + "{" + _CENTRED + "q = Mul(d, d) "
        "v = ReduceMean(q, a) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) g = Mul(n, w) y = Add(g, b) }",
        "last axis",
    ),
    (
        "compose-transposes",
        "g (float[B,6,4] x) => (float[3,2,4,B] y) <int64[4] s = {0,2,3,4}> { r = Reshape(x, s) "
        "y = Transpose<perm=[2,1,3,0]>(r) }",
        "",
    ),
    (
        "merge-views",
        "g (float[B,S,4] x) => (float[S,B,4] y) { b = Shape<end=1>(x) s = Shape<start=1,end=2>(x) "
        "d = Shape<start=2>(x) t = Concat<axis=0>(s, b, d) y = Reshape(x, t) }",
        "only a run knows",
    ),
    (
        "fold-batch-norm",
        "g (float[B,1,4,4] x, float[1] s) => (float[B,1,4,4] y) <float[1,1,1,1] w = {2}, "
        "float[1] b = {0}, float[1] m = {0}, float[1] v = {1}> { a = Conv(x, w) "
        "y = BatchNormalization(a, s, b, m, v) }",
        "statistics are no constants",
    ),
    (
        "decompose-conv-transpose",
        "g (float[B,1,2,2] x, float[1,1,2,2] w) => (float[B,1,3,3] y) { y = ConvTranspose(x, w) }",
        "no constants",
    ),
    (
        "decompose-conv-transpose",
        "g (float[B,1,2,2] x) => (float[B,1,4,4] y) <float[1,1,1,1] w = {2}> "
        "{ y = ConvTranspose<strides=[3,3]>(x, w) }",
        "meet no entry",
    ),
    (
        "decompose-conv-transpose",
        "g (float[B,1,S] x) => (float[B,1,M] y) <float[1,1,3] w = {1,2,3}> "
        "{ y = ConvTranspose<pads=[2,2]>(x, w) }",  # nothing comes of two elements, and a window needs three
        "hangs on sizes",
    ),
    (
        "fold-index-tensors",
        "g (float[B,S] x) => (float[S,B] y) <int64 z = {0}, int64 o = {1}, "
        "int64[1] a = {0}, int64[1] c = {1}, int64[1] m = {-1}> { b1 = Shape<end=1>(x) b = Squeeze(b1) s1 = "
        "Shape<start=1>(x) "
        "s = Squeeze(s1) rb = Range(z, b, o) rs = Range(z, s, o) ub = Unsqueeze(rb, a) "
        "us = Unsqueeze(rs, c) t = Max(ub, us) h = Shape(t) "
        "eb = Expand(ub, h) es = Expand(us, h) cb = Unsqueeze(eb, m) cs = Unsqueeze(es, m) i = Concat<axis=-1>(cb, cs) "
        "y = GatherND(x, i) }",
        "do not ascend",
    ),
    (
        "eliminate-common-subexpressions",
        "g (float[B,4] x) => (float[B,4] y, float[B,4] z) { y = Exp(x) z = Exp(x) }",
        "graph output",
    ),
]


@pytest.mark.parametrize(("name", "text", "reason"), REFUSALS, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(REFUSALS)])
def test_refusals(name: str, text: str, reason: str) -> None:
    model = graph(text)
    before = ops(model)
    result = run(registry()[name](), model)
    assert not result.modified
    assert ops(model) == before
    assert any(reason in m.reason for m in result.misses) if reason else not result.misses, result.misses


def test_dead_code_goes_and_the_signature_stays() -> None:
    model = graph(
        "g (float[B,4] x, float[B,4] unused) => (float[B,4] y) <float[4] w = {1,2,3,4}> "
        "{ d = Exp(x) e = Add(d, w) y = Neg(x) }"
    )
    run(registry()["eliminate-dead-code"](), model)
    assert ops(model) == "Neg"
    assert not model.graph.initializers
    assert [v.name for v in model.graph.inputs] == ["x", "unused"]


def test_gemm_scales_and_transposes_its_constants() -> None:
    model = graph(
        "g (float[B,3] x) => (float[B,2] y) <float[2,3] w = {1,2,3,4,5,6}, float[2] c = {1,2}> "
        "{ y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c) }"
    )
    run(registry()["canonicalize-gemm"](), model)
    product, bias = (next(n for n in model.graph if n.op_type == o).inputs[1] for o in ("MatMul", "Add"))
    assert product is not None and bias is not None
    np.testing.assert_array_equal(constant_array(product), np.array([[0.5, 2], [1, 2.5], [1.5, 3]], np.float32))
    np.testing.assert_array_equal(constant_array(bias), np.array([2, 4], np.float32))


def test_reshape_gets_a_constant_target() -> None:
    model = graph(
        "g (float[B,S,8] x) => (float[B,S,2,4] y) { s = Shape<end=2>(x) h = Constant<value_ints=[2,4]>() "
        "t = Concat<axis=0>(s, h) y = Reshape(x, t) }"
    )
    run(registry()["merge-views"](), model)
    target = next(n for n in model.graph if n.op_type == "Reshape").inputs[1]
    assert target is not None and constant_array(target).tolist() == [0, 0, 2, 4]


def test_scalars_and_one_element_tensors_stay_apart() -> None:
    """They hold equal bytes, but an index and a list of one index are different things."""
    model = graph(
        "g (float[B,4] x) => (float[B] y, float[B,1] z) <int64 i = {1}, int64[1] j = {1}> "
        "{ y = Gather<axis=1>(x, i) z = Gather<axis=1>(x, j) }"
    )
    run(registry()["eliminate-common-subexpressions"](), model)
    assert [type_of(v).rank for v in model.graph.outputs] == [1, 2]
