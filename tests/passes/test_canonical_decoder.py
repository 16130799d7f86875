"""The canonical form of decoders: for each pass what it does to each spelling, and next to it what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from tilewright.ir.facts import assumptions
from tilewright.ir.graph import constant_array, type_of
from tilewright.passes.pipeline import canonicalization, parse_pipeline, registry, run_pipeline

from tests.passes.harness import check_each, feeds_for, graph, histogram, ops, run


@dataclass(frozen=True)
class Case:
    """A pass, a graph as text, the operators afterwards (``None``: it is left alone, for a reason that has ``why``)."""

    name: str
    text: str
    after: str | None = None
    why: str = ""


_RMS = (
    "g (float[B,S,4] x) => (float[B,S,4] y) <float[4] w = {1,2,3,4}, float eps = {1e-5}, float two = {2}, "
    "float half = {0.5}, float minus = {-0.5}, float one = {1}, int64[1] a = {-1}, int64[1] front = {1}> "
)
_MEAN = "q = Pow(x, two) m = ReduceMean(q, a) v = Add(m, eps) "
RMS_NORM = [
    Case("recognise-rms-norm", _RMS + "{" + body + "}", "RMSNormalization")
    for body in (
        _MEAN + "r = Sqrt(v) i = Reciprocal(r) n = Mul(x, i) y = Mul(w, n)",
        _MEAN + "r = Sqrt(v) n = Div(x, r) y = Mul(n, w)",
        _MEAN + "r = Sqrt(v) i = Div(one, r) n = Mul(i, x) y = Mul(n, w)",
        _MEAN + "i = Pow(v, minus) n = Mul(x, i) y = Mul(n, w)",
        _MEAN + "r = Pow(v, half) n = Div(x, r) y = Mul(n, w)",
        "q = Mul(x, x) m = ReduceMean(q, a) v = Add(eps, m) r = Sqrt(v) n = Div(x, r) y = Mul(w, n)",
    )
] + [
    Case(
        "recognise-rms-norm",
        _RMS + "{ q = Mul(x, x) m = ReduceMean(q, front) v = Add(m, eps) r = Sqrt(v) n = Div(x, r) y = Mul(n, w) }",
        why="last axis",
    ),
    Case("recognise-rms-norm", _RMS + "{" + _MEAN + "r = Sqrt(v) n = Div(x, r) y = Mul(n, two) }", why="per element"),
    Case(
        "recognise-rms-norm",  # what is divided is not what is squared
        _RMS + "{" + _MEAN + "r = Sqrt(v) z = Neg(x) n = Div(z, r) y = Mul(n, w) }",
        why="should be",
    ),
]

_GATE = "g (float[B,4] x, float[B,4] z, float[1,4] o) => (float[B,4] y) <float k = {1.702}> "
SWISH = [
    Case("recognise-swish", _GATE + "{ s = Sigmoid(x) y = Mul(x, s) }", "Swish"),
    Case("recognise-swish", _GATE + "{ s = Sigmoid(x) y = Mul(s, x) }", "Swish"),
    Case("recognise-swish", _GATE + "{ c = Mul(k, x) s = Sigmoid(c) y = Mul(s, x) }", "Swish"),
    Case("recognise-swish", _GATE + "{ s = Sigmoid(x) y = Mul(z, s) }", why="should be"),
    Case("recognise-swish", _GATE + "{ c = Mul(x, z) s = Sigmoid(c) y = Mul(s, x) }", why="not a constant"),
]

_QK = (
    "g (float[B,2,S,4] q, float[B,2,4,T] k) => (float[B,2,S,T] y) <float a = {0.5}, float b = {4}, float[4] w = "
    "{1,2,3,4}, float[4,4] m = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> "
)
SCALES = [
    Case("collect-scales", _QK + "{ s = Mul(q, a) y = MatMul(s, k) }", "MatMul Mul"),
    Case("collect-scales", _QK + "{ s = Mul(a, q) t = Div(k, b) p = MatMul(s, t) y = Mul(p, a) }", "MatMul Mul"),
    Case("collect-scales", _QK + "{ s = Mul(q, w) y = MatMul(s, k) }"),
    Case("collect-scales", _QK + "{ p = MatMul(q, k) y = Mul(p, a) }"),
    Case("collect-scales", _QK + "{ s = Mul(q, a) t = MatMul(s, m) y = MatMul(t, k) }"),
    Case(
        "collect-scales",  # 8 · 8 times smaller than the product without factors, which may be infinite
        "g (float16[B,S,64] q, float16[B,64,T] k) => (float16[B,S,T] y) <float16 a = {12288}> "
        "{ s = Mul(q, a) t = Mul(k, a) y = MatMul(s, t) }",
        why="f16",
    ),
]

_X = "float[B,2,S,4] x, float[B,1,S,4] c, float[B,1,S,4] s, float[B,1,S,2] ch, float[B,1,S,2] sh"
_TABLES = (
    "int64[1] z = {0}, int64[1] h = {2}, int64[1] e = {4}, int64[1] a = {3}, int64[1] one = {1}, int64[1] two = {2}, "
    "int64[1] last = {-1}, int64[5] pairs = {0, 2, 0, 2, 2}, int64[4] flat = {0, 2, 0, 4}, int64 i0 = {0}, "
    "int64 i1 = {1}, float[1,1,1,4] speed = {1,0.1,1,0.1}, float[1,1,1,4] uneven = {1,0.1,1,0.2}"
)
_HALVES = "lo = Slice(x, z, h, a) hi = Slice(x, h, e, a) n = Neg(hi) r = Concat<axis=3>(n, lo) "
_DOUBLED = "cc = Concat<axis=-1>(ch, ch) ss = Concat<axis=-1>(sh, sh) cos = Cos(cc) sin = Sin(ss) "
_TURN = "u = Mul(x, cos) v = Mul(r, sin) y = Add(u, v)"
_PARTS = "p = Mul(lo, ch) q = Mul(hi, sh) re = Sub(p, q) t = Mul(hi, ch) w = Mul(lo, sh) im = Add(t, w) "
_STACK = "ru = Unsqueeze(re, last) iu = Unsqueeze(im, last) st = Concat<axis=-1>(ru, iu) y = Reshape(st, flat)"


def _rotary(body: str) -> str:
    return f"g ({_X}) => (float[B,2,S,4] y) <{_TABLES}> {{ {body} }}"


ROTARY = [
    Case("recognise-rotary", _rotary(body), after)
    for body, after in (
        (_HALVES + _DOUBLED + _TURN, "Cos Squeeze Sin Squeeze RotaryEmbedding"),
        (
            _HALVES + _DOUBLED + "u = Mul(cos, x) v = Mul(sin, r) y = Add(v, u)",
            "Cos Squeeze Sin Squeeze RotaryEmbedding",
        ),
        (
            "lo, hi = Split<axis=-1, num_outputs=2>(x) n = Neg(hi) r = Concat<axis=3>(n, lo) " + _DOUBLED + _TURN,
            "Cos Squeeze Sin Squeeze RotaryEmbedding",
        ),
        (_HALVES + _PARTS + "y = Concat<axis=-1>(re, im)", "Squeeze Squeeze RotaryEmbedding"),
        (
            "lo = Slice(x, z, e, a, two) hi = Slice(x, one, e, a, two) " + _PARTS + _STACK,
            "Squeeze Squeeze RotaryEmbedding",
        ),
        (
            "xp = Reshape(x, pairs) lo = Gather<axis=-1>(xp, i0) hi = Gather<axis=-1>(xp, i1) " + _PARTS + _STACK,
            "Squeeze Squeeze RotaryEmbedding",
        ),
    )
] + [
    Case("recognise-rotary", _rotary(_HALVES + "u = Mul(x, c) v = Mul(r, s) y = Add(u, v)"), why="both halves"),
    Case(
        "recognise-rotary",  # the halves of something else
        _rotary(_HALVES + _DOUBLED + "xx = Neg(x) u = Mul(xx, cos) v = Mul(r, sin) y = Add(u, v)"),
        why="times cosines",
    ),
    Case(
        "recognise-rotary",  # turned the other way round in one half only
        _rotary(_HALVES + _PARTS.replace("w = Mul(lo, sh)", "w = Mul(lo, ch)") + "y = Concat<axis=-1>(re, im)"),
        why="does not turn",
    ),
    Case(
        "recognise-rotary",  # one angle for all pairs, which the operator cannot say
        "g (float[B,3,S,8] x, float[S,1] c, float[S,1] s) => (float[B,3,S,8] y) "
        "{ lo, hi = Split<axis=-1, num_outputs=2>(x) u = Mul(lo, c) v = Mul(hi, s) re = "
        "Sub(u, v) w = Mul(hi, c) q = Mul(lo, s) im = Add(w, q) "
        "y = Concat<axis=-1>(re, im) }",
        why="one angle for each pair",
    ),
]

CASES = [*RMS_NORM, *SWISH, *SCALES, *ROTARY]


@pytest.mark.parametrize("case", CASES, ids=[f"{c.name}-{i}" for i, c in enumerate(CASES)])
def test_pass(case: Case) -> None:
    model = graph(case.text)
    before = ops(model)
    result = run(registry()[case.name](), model)
    if case.after is None:
        assert not result.modified and ops(model) == before
        assert any(case.why in m.reason for m in result.misses) if case.why else not result.misses, result.misses
        return
    assert result.modified
    run_pipeline(model, parse_pipeline("fold-constants,eliminate-dead-code"))
    assert ops(model) == case.after


def test_turned_before_heads_come_first() -> None:
    """[B, S, H, D] as it leaves the projection: the two Transposes cancel with the one that follows."""
    model = graph(
        "g (float[B,S,2,4] x, float[B,S,1,2] ch, float[B,S,1,2] sh) => (float[B,2,S,4] y) <int64[1] z = {0}, "
        "int64[1] h = {2}, int64[1] e = {4}, int64[1] a = {3}> { lo = Slice(x, z, h, a) hi = Slice(x, h, e, a) "
        + _PARTS
        + "k = Concat<axis=-1>(re, im) y = Transpose<perm=[0,2,1,3]>(k) }"
    )
    check_each(model, canonicalization())
    assert histogram(model) == {"RotaryEmbedding": 1, "Squeeze": 2, "Transpose": 1}


def test_a_table_for_one_row_is_expanded_and_cut_at_its_source() -> None:
    model = graph(
        "g (float[B,2,S,4] x, int64[S] p) => (float[B,2,S,4] y) <float[1,4] f = {1,0.1,1,0.1}, int64[1] z = {0}, "
        "int64[1] h = {2}, int64[1] e = {4}, int64[1] a = {3}, int64[2] u = {0,1}, int64[1] last = {1}> "
        "{ pf = Cast<to=1>(p) pc = Unsqueeze(pf, last) cc = Mul(pc, f) lo = Slice(x, z, h, a) hi = Slice(x, h, e, a) "
        "n = Neg(hi) r = Concat<axis=3>(n, lo) c4 = Unsqueeze(cc, u) cos = Cos(c4) sin = Sin(c4) "
        "m = Mul(x, cos) v = Mul(r, sin) y = Add(m, v) }"
    )
    check_each(model, canonicalization())
    counts = histogram(model)
    assert (counts["RotaryEmbedding"], counts["Cos"], counts["Sin"], counts["Expand"]) == (1, 1, 1, 2)
    angles = next(n for n in model.graph if n.op_type == "Cos").outputs[0]
    assert str(type_of(angles)) == "f32[1, 1, S, 2]"


# -- the Attention operator ----------------------------------------------------------------------------------------

_QKV = "float[B,4,S,8] q, float[B,2,T,8] k, float[B,2,T,8] v"
_PAST = "float[B,2,P,8] pk, float[B,2,P,8] pv"
ATTENTION = {
    "causal": (f"{_QKV}", "", "is_causal=1", "q, k, v", 0),
    "mask": (f"{_QKV}, bool[B,1,S,T] m", "", "scale=0.3", "q, k, v, m", 1),
    "bias": (f"{_QKV}, float[1,S,T] m", "", "softcap=2.0", "q, k, v, m", 1),
    "causal and mask": (f"{_QKV}, bool[S,T] m", "", "is_causal=1", "q, k, v, m", 1),
    "causal and bias": (f"{_QKV}, float[S,T] m", "", "is_causal=1", "q, k, v, m", 1),
    "lengths": (f"{_QKV}, int64[B] n", "", "scale=0.5", 'q, k, v, "", "", "", n', 1),
    "lengths and causal": (f"{_QKV}, int64[B] n", "", "is_causal=1", 'q, k, v, "", "", "", n', 1),
    "cache": (f"{_QKV}, {_PAST}", "pk", "is_causal=1", 'q, k, v, "", pk, pv', 0),
    "side by side": (
        "float[B,S,32] q, float[B,T,16] k, float[B,T,16] v", "", "q_num_heads=4, kv_num_heads=2, is_causal=1",
        "q, k, v", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_operator(name: str) -> None:
    """Numbers against the operator itself, for each state; no copies of keys and values, a guard only where needed."""
    inputs, past, attributes, arguments, guards = ATTENTION[name]
    total = "[B,2,M,8]" if past else "[B,2,T,8]"
    rank3 = name == "side by side"
    result = "float[B,S,32] y" if rank3 else "float[B,4,S,8] y"
    outputs, names = (f"{result}, float{total} nk, float{total} nv", "y, nk, nv") if past else (result, "y")
    model = graph(
        f"g ({inputs}) => ({outputs}) {{ {names} = Attention<{attributes}>({arguments.replace(chr(34) * 2, '')}) }}", 24
    )
    feeds = feeds_for(model)
    check_each(model, canonicalization(), feeds)
    counts = histogram(model)
    assert counts["MatMul"] == 2 and "Expand" not in counts and "Attention" not in counts
    assert counts.get("IsNaN", 0) == guards
    assert all(type_of(n.outputs[0]).rank == 5 for n in model.graph if n.op_type == "MatMul")


_QKV_7 = "float[B,4,S,8] q, float[B,2,7,8] k, float[B,2,7,8] v"
#: inputs, attributes, arguments.
_FORMS_25 = {
    "left": (_QKV, "left_window_size=2", "q, k, v"),
    "right, with lengths": (f"{_QKV}, int64[B] n", "right_window_size=1", "q, k, v, , , , n"),
    "both, causal, with a mask": (
        f"{_QKV}, bool[S,T] m", "left_window_size=1, right_window_size=3, is_causal=1", "q, k, v, m",
    ),
    "both, after a cache": (
        f"{_QKV}, {_PAST}", "left_window_size=4, right_window_size=0", "q, k, v, , pk, pv",
    ),
    "a mask shorter than the keys": (f"{_QKV_7}, bool[S,3] m", "scale=0.5", "q, k, v, m"),
    "a bias shorter than the keys": (f"{_QKV_7}, float[4,1,5] m", "scale=0.5", "q, k, v, m"),
    "a bias for one key": (f"{_QKV}, float[S,1] m", "is_causal=1", "q, k, v, m"),
}  # fmt: skip


@pytest.mark.parametrize("name", _FORMS_25)
def test_attention_windows_and_short_masks(name: str) -> None:
    inputs, attributes, arguments = _FORMS_25[name]
    outputs, names = "float[B,4,S,8] y", "y"
    if "pk" in arguments:
        outputs, names = f"{outputs}, float[B,2,M,8] nk, float[B,2,M,8] nv", "y, nk, nv"
    model = graph(f"g ({inputs}) => ({outputs}) {{ {names} = Attention<{attributes}>({arguments}) }}", 25)
    check_each(model, canonicalization())
    assert "Attention" not in histogram(model)


@pytest.mark.parametrize("mode", range(4))
def test_attention_gives_its_scores(mode: int) -> None:
    """Mode 0 is the plain product by the operator's text; ``onnx.reference`` puts the soft cap into that as well."""
    model = graph(
        f"g ({_QKV}, bool[B,1,S,T] m) => (float[B,4,S,8] y, float[B,4,S,T] w) "
        f"{{ y, nk, nv, w = Attention<{'softcap=1.5, ' if mode else ''}qk_matmul_output_mode={mode}>(q, k, v, m) }}",
        24,
    )
    check_each(model, canonicalization())
    assert "Attention" not in histogram(model)


def test_hidden_rows_are_zero() -> None:
    """As the operator's text has it since onnx 1.23; NaN would be an older reading."""
    model = graph(f"g ({_QKV}, bool[B,1,S,T] m) => (float[B,4,S,8] y) {{ y = Attention(q, k, v, m) }}", 24)
    feeds = dict(feeds_for(model))
    feeds["m"] = feeds["m"].copy()
    feeds["m"][0, 0, :2] = False
    check_each(model, canonicalization(), feeds)


# -- shared heads --------------------------------------------------------------------------------------------------

_SHARED = (
    "g (float[B,4,S,8] q, float[B,2,T,8] k, float[B,2,T,8] v, float[{mask}] m) => (float[B,4,S,8] y) "
    "<int64[1] two = {{2}}, int64[5] by = {{1,1,2,1,1}}, int64[4] all = {{0,4,-1,8}}> "
    "{{ ku = Unsqueeze(k, two) ke = Expand(ku, by) "
    "kr = Reshape(ke, all) kt = Transpose<perm=[0,1,3,2]>(kr) vu = Unsqueeze(v, two) ve = Expand(vu, by) "
    "vr = Reshape(ve, all) s = MatMul(q, kt) a = Add(s, m) {softmax} y = MatMul(w, vr) }}"
)


@pytest.mark.parametrize(
    ("mask", "softmax", "reason"),
    [
        ("B,1,S,T", "w = Softmax(a)", None),
        ("S,T", "w = Softmax(a)", None),
        ("1,S,T", "p = Softmax(a) n = IsNaN(p) zero = Constant<value_float=0.0>() w = Where(n, zero, p)", None),
        ("B,4,S,T", "w = Softmax(a)", "is an input"),  # one plane a head, and two sizes that only a run knows
        ("B,4,S,1", "w = Softmax(a)", None),
        ("B,1,S,T", "w = Softmax<axis=2>(a)", "last axis"),
        ("B,1,S,T", "c = CumSum(a, three) w = Softmax(c)", "stands between"),
    ],
)
def test_share_heads(mask: str, softmax: str, reason: str | None) -> None:
    text = _SHARED.format(mask=mask, softmax=softmax.replace("CumSum(a, three)", "Transpose<perm=[0,1,2,3]>(a)"))
    model = graph(text)
    result = run(registry()["share-heads"](), model)
    assert result.modified == (reason is None)
    if reason is not None:
        assert any(reason in m.reason for m in result.misses), result.misses
        return
    run_pipeline(model, parse_pipeline("fold-constants,eliminate-dead-code"))
    assert "Expand" not in histogram(model)


# -- masks ---------------------------------------------------------------------------------------------------------

_CAUSAL = (
    "g (float[B,2,S,4] q, float[B,2,4,S] k, bool[B,1,1,S] pad) => (float[B,2,S,S] y) "
    "<int64 z = {{0}}, int64 one = {{1}}, int64[1] zero = {{0}}, int64[1] r = {{1}}, float off = {{0}}, "
    "float low = {{-1.70141183e38}}, float mild = {{-10000}}> "
    "{{ n = Shape<start=2,end=3>(q) s = Squeeze(n, zero) at = Range(z, s, one) row = Unsqueeze(at, r) {seen} "
    "m = Where(seen, off, {low}) p = MatMul(q, k) a = Add(p, m) w = Softmax(a) g = IsNaN(w) y = Where(g, off, w) }}"
)


@pytest.mark.parametrize(
    ("seen", "low", "guard", "hidden", "reason"),
    [
        ("seen = LessOrEqual(at, row)", "low", 0, "-inf", ""),
        ("seen = GreaterOrEqual(row, at)", "mild", 0, "-10000.0", ""),
        ("seen = Less(at, row)", "low", 1, "-1.70", "only a run"),  # the first row sees nothing
        ("c = LessOrEqual(at, row) seen = And(c, pad)", "low", 1, "-1.70", "only a run"),
    ],
)
def test_masks(seen: str, low: str, guard: int, hidden: str, reason: str) -> None:
    model = graph(_CAUSAL.format(seen=seen, low=low))
    misses = []
    for name in ("eliminate-nan-guard", "canonicalize-masks"):
        misses += run(registry()[name](), model).misses
    assert histogram(model).get("IsNaN", 0) == guard
    mask = next(n for n in model.graph if n.op_type == "Where")
    assert mask.inputs[2] is not None and str(constant_array(mask.inputs[2]).item()).startswith(hidden)
    assert not reason or any(reason in m.reason for m in misses)


_GUARDED = (
    "g (float[B,2,S,4] q, float[B,2,4,T] k) => (float[{more}B,2,S,T] y) "
    "<int64 z = {{0}}, int64 one = {{1}}, int64[1] none = {{0}}, int64[1] r = {{1}}, float off = {{0}}, "
    "float[1,1,1,1,1] wide = {{0}}, float[1,1,1,1] low = {{{low}}}, float f = {{{factor}}}> "
    "{{ n = Shape<start=2,end=3>(q) s = Squeeze(n, none) h = Shape<start=3>(k) t = Squeeze(h, none) "
    "rows = Range(z, s, one) row = Unsqueeze(rows, r) at = Range(z, t, one) seen = LessOrEqual(at, row) "
    "m = Where(seen, off, low) p = MatMul(q, k) a = Add(p, m) b = {scale} w = Softmax<axis={axis}>(b) g = IsNaN(w) "
    "y = Where(g, {zero}, w) }}"
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"axis": -2}, "last axis"),  # the mask leaves each row a column, not each column a row
        ({"low": "inf"}, "below"),
        ({"low": "nan"}, "below"),
        ({"factor": "-2"}, "positive"),  # what is hidden becomes +∞
        ({"factor": "0"}, "positive"),  # … becomes NaN
        ({"scale": "Div(f, a)"}, "positive"),
        ({"zero": "wide", "more": "1,"}, "axes"),
    ],
)
def test_a_guard_that_has_something_to_do_stays(change: dict[str, str], reason: str) -> None:
    default = {"low": "-inf", "factor": "0.5", "scale": "Mul(a, f)", "axis": "-1", "zero": "off", "more": ""}
    model = graph(_GUARDED.format(**{**default, **change}))
    result = run(registry()["eliminate-nan-guard"](), model)
    assert result.modified == (reason == "")
    assert not reason or any(reason in m.reason for m in result.misses), result.misses


def test_a_hidden_number_of_many_axes_keeps_them() -> None:
    text = _GUARDED.format(low="-3e38", factor="1", scale="Identity(a)", axis="-1", zero="off", more="")
    model = graph(text)
    run(registry()["eliminate-identity"](), model)
    assert run(registry()["canonicalize-masks"](), model).modified


def test_a_mask_beside_one_that_only_a_run_knows_keeps_its_number() -> None:
    """The first row sees position 0 alone; where ``pad`` hides that, every position has the same weight."""
    both = "h = Where(pad, off, low) o = Add(p, h) a = Add(o, m)"
    model = graph(_CAUSAL.format(seen="seen = LessOrEqual(at, row)", low="low").replace("a = Add(p, m)", both))
    feeds = {**feeds_for(model)}
    feeds["pad"] = np.arange(feeds["pad"].shape[-1]) > np.zeros_like(feeds["pad"])
    result = run(registry()["canonicalize-masks"](), model, feeds)
    assert not result.modified and any("nothing else hides" in m.reason for m in result.misses)


# -- positions and sizes -------------------------------------------------------------------------------------------


def test_a_mask_longer_than_the_keys_is_cut_and_the_rest_asserted() -> None:
    """``mask[b, t]`` for t up to S: a gather as exporters write it, of a mask with M columns."""
    model = graph(
        "g (float[B,S] x, bool[B,M] mask) => (float[B,S] y) <int64 z = {0}, int64 one = {1}, int64[1] a = {0}, "
        "int64[1] c = {1}, int64[1] last = {-1}, float low = {-9}> { b1 = Shape<end=1>(x) b = Squeeze(b1) "
        "s1 = Shape<start=1>(x) s = Squeeze(s1) rb = Range(z, b, one) rs = Range(z, s, one) ub = Unsqueeze(rb, c) "
        "us = Unsqueeze(rs, a) t = Max(ub, us) h = Shape(t) eb = Expand(ub, h) es = Expand(us, h) "
        "cb = Unsqueeze(eb, last) cs = Unsqueeze(es, last) i = Concat<axis=-1>(cb, cs) seen = GatherND(mask, i) "
        "y = Where(seen, x, low) }"
    )
    feeds = dict(feeds_for(model))
    feeds["mask"] = np.concatenate([feeds["mask"], feeds["mask"]], axis=1)  # 8 columns for 5 keys
    check_each(model, canonicalization(), feeds)
    assert ops(model) == "Shape Slice Where"
    assert [str(a).split(" (")[0] for a in assumptions(model)] == ["S == min(M, S)"]


def test_positions_that_count_by_one_are_one_sequence() -> None:
    """What transformers asks to find packed sequences: where do positions not go up by one?"""
    model = graph(
        "g (float[B,1,S,S] x) => (float[B,1,S,S] y) <int64 z = {0}, int64 one = {1}, int64[1] a = {0}, "
        "int64[1] c = {1}, int64[1] last = {-1}, int64 axis = {-1}, int64[2] rows = {1, 3}, "
        "int64[2] columns = {1, 2}, float low = {-9}> "
        "{ b = Shape<end=1>(x) s1 = Shape<start=2,end=3>(x) s = Squeeze(s1) r = Range(z, s, one) p1 = Unsqueeze(r, a) "
        "to = Concat<axis=0>(b, c) p = Expand(p1, to) f = Slice(p, a, c, c) g = Sub(f, one) k = Concat<axis=-1>(g, p) "
        "e = Add(s1, c) lo = Slice(k, a, s1, last) hi = Slice(k, c, e, last) d = Sub(hi, lo) same = Equal(d, one) "
        "new = Not(same) n = Cast<to=7>(new) q = CumSum(n, axis) qr = Unsqueeze(q, rows) qc = Unsqueeze(q, columns) "
        "seen = Equal(qr, qc) y = Where(seen, x, low) }"
    )
    check_each(model, canonicalization())
    assert ops(model) == "Identity"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a = Add(s, p) b = Add(p, s) u = Unsqueeze(a, z) v = Unsqueeze(b, z) r = Max(u, v)", "Shape Shape Add"),
        ("h = Shape(e) g = Gather(h, one) r = Unsqueeze(g, z)", "Shape"),
    ],
)
def test_sizes_come_from_inputs(body: str, after: str) -> None:
    model = graph(
        "g (float[B,S] x, float[B,P] past) => (float[1] y) <int64[1] z = {0}, int64 one = {1}> "
        f"{{ e = Exp(x) s1 = Shape<start=1>(e) s = Squeeze(s1) p1 = Shape<start=1>(past) p = Squeeze(p1) {body} "
        "y = Cast<to=1>(r) }"
    )
    run_pipeline(model, parse_pipeline("merge-views"))
    run(registry()["canonicalize-sizes"](), model)
    run_pipeline(model, parse_pipeline("eliminate-common-subexpressions,eliminate-dead-code"))
    assert ops(model) == after + " Cast"
