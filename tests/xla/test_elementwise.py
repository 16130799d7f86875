"""Arithmetic, logic, conversions and activations of every element type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

pytest.importorskip("jaxlib")

from tests.xla.reference import model_of
from tests.xla.run import Array, OnHost, Program, compiled, run
from tests.xla.together import SIZES, Case, check, difference

INTEGERS = "int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
NUMPY: dict[str, Any] = {
    "float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "bool": np.bool_,
    **{name: np.dtype(name).type for name in INTEGERS},
}  # fmt: skip

UNARY = (
    "Neg Abs Exp Sin Cos Tan Atan Sinh Cosh Tanh Asinh Erf Floor Ceil Round Sign Sigmoid Relu LeakyRelu Elu Selu "
    'Gelu Gelu<approximate="tanh"> Softplus Softsign HardSigmoid HardSwish Mish Shrink ThresholdedRelu'
).split()
POSITIVE = "Log Sqrt Reciprocal".split()
BINARY = "Add Sub Mul Div Max Min".split()


def _floats(dtype: str, operators: list[str]) -> str:
    outputs = ", ".join(f"{dtype}[B,S] u{n}" for n in range(len(operators)))
    body = " ".join(f"u{n} = {op}(x)" for n, op in enumerate(operators))
    return f"g ({dtype}[B,S] x) => ({outputs}) {{ {body} }}"


def _in_f64(text: str, dtype: str):  # type: ignore[no-untyped-def]
    """What the reference makes of a graph in f64, rounded once."""
    wide = ReferenceEvaluator(model_of(text.replace(dtype, "double"), 20))

    def want(feeds: Mapping[str, Array]) -> list[Array]:
        results = wide.run(None, {n: a.astype(np.float64) for n, a in feeds.items()})
        return [np.asarray(r).astype(NUMPY[dtype]) for r in results]

    return want


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float", 3e-6), ("float16", 2**-10), ("bfloat16", 2**-7), ("double", 1e-11)]
)
def test_functions_of_one_float(dtype: str, rtol: float) -> None:
    # Shrink is older than bfloat16; erf and the constants of Gelu are of f32 in the reference.
    without = {"bfloat16": ("Shrink",), "double": ("Erf", "Gelu", 'Gelu<approximate="tanh">')}.get(dtype, ())
    text = _floats(dtype, [op for op in UNARY if op not in without])
    inside = _floats(dtype, ["Asin", "Acos", "Atanh"])
    above = _floats(dtype, [*POSITIVE, "Acosh"])

    def spread(low: float, high: float):  # type: ignore[no-untyped-def]
        def feeds(sizes: Mapping[str, int]) -> dict[str, Array]:
            values = np.random.default_rng(1).uniform(low, high, (sizes["B"], sizes["S"]))
            return {"x": values.astype(NUMPY[dtype])}

        return feeds

    cases = {
        "anywhere": Case(text, _in_f64(text, dtype), spread(-4, 4), opset=20, rtol=rtol),
        "below 1": Case(inside, _in_f64(inside, dtype), spread(-0.9, 0.9), opset=20, rtol=rtol),
        "above 1": Case(above, _in_f64(above, dtype), spread(1.1, 9), opset=20, rtol=rtol),
    }
    check(cases, SIZES[:1])


def test_the_error_function_of_f64() -> None:
    x = np.linspace(-5, 5, 101)
    text = "g (double[101] x) => (double[101] y, double[101] z) { y = Erf(x) z = Gelu(x) }"
    got = run(model_of(text, 20), {"x": x})
    erf = np.array([math.erf(v) for v in x])
    bell = np.array([math.erf(v / math.sqrt(2)) for v in x])
    np.testing.assert_allclose(got["y"], erf, rtol=1e-14)
    np.testing.assert_allclose(got["z"], x / 2 * (1 + bell), rtol=1e-12, atol=1e-15)


def test_broadcasting_both_ways_over_padded_sizes() -> None:
    body = " ".join(f"u{n} = {op}(x, y)" for n, op in enumerate(BINARY))
    outputs = ", ".join(f"float[B,S,3] u{n}" for n in range(len(BINARY)))
    check(
        {
            "arithmetic": Case(f"g (float[B,1,3] x, float[S,1] y) => ({outputs}) {{ {body} }}"),
            "logic": Case(
                "g (float[B,S] x, float[S] y, float z) => (bool[B,S] a, bool[B,S] b, bool[B,S] c, float[B,S] d, "
                "bool[B,S] e, bool[B,S] f) "
                "{ a = Less(x, y) b = GreaterOrEqual(x, z) c = And(a, b) d = Where(c, x, y) e = Xor(a, b) f = Not(a) }"
            ),
            "a number's slope": Case("g (float[B,S] x) => (float[B,S] z) { z = Celu<alpha=0.5>(x) }"),
            "of three": Case(
                "g (float[B,S] x, float[S] y, float z) => (float[B,S] s, float[B,S] m, float[B,S] t) "
                "{ s = Sum(x, y, z) m = Mean(z, y, x) t = Max(y, x, z) }",
                lambda f: [
                    f["x"] + f["y"] + f["z"],
                    (f["z"] + f["y"] + f["x"]) / np.float32(3),
                    np.maximum(np.maximum(f["y"], f["x"]), f["z"]),
                ],
            ),
            "slopes": Case("g (float[B,S,2] x, float[S,1] y) => (float[B,S,2] z) { z = PRelu(x, y) }"),
            "sizes found equal": Case("g (float[B,S] x, float[B,S] y) => (float[B,S] z) { z = Sub(x, y) }"),
        }
    )


@pytest.mark.parametrize("buckets", [{"N": (8,), "M": (4,)}, {"N": (4,), "M": (8,)}])
def test_sizes_that_a_run_finds_equal_may_differ_in_the_bucket(buckets: dict[str, tuple[int, ...]]) -> None:
    program = compiled(
        "g (float[N,4] x, float[M,4] z) => (float[N,4] a, float[N,8] b, float[N,4] c, float[N,4] d, float[N,4] e) "
        "{ a = Sub(x, z) b = Concat<axis=1>(x, z) l = Less(x, z) c = Where(l, x, z) s = Shape(z) r = Reshape(x, s) "
        "d = Neg(r) e = Expand(x, s) }",
        {"x": ("N=1..8", 4), "z": ("M=1..8", 4)},
        buckets,
    )
    x, z = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    want = {"a": x - z, "b": np.concatenate([x, z], 1), "c": np.minimum(x, z), "d": -x, "e": x}
    assert {n: d for n, a in program.run({"x": x, "z": z}).items() if (d := difference(a, want[n], 0))} == {}


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_sign(dtype: str) -> None:
    signed = dtype[0] == "i"
    values = np.array([7, -7, 1, 100, -100, 0, 3] if signed else [7, 200, 1, 100, 255, 0, 3]).astype(dtype)
    x, y = (a.reshape(-1) for a in np.meshgrid(values, values[values != 0]))
    n = len(x)
    shifts = "" if signed else ' l = BitShift<direction="LEFT">(x, s) r = BitShift<direction="RIGHT">(x, s)'
    outputs = "add sub mul div mod rem max min and or xor inv abs sign" + ("" if signed else " l r")
    results = ", ".join(f"{dtype}[{n}] {o}" for o in outputs.split())
    text = (
        f"g ({dtype}[{n}] x, {dtype}[{n}] y, {dtype}[{n}] s) => ({results}) "
        "{ add = Add(x, y) sub = Sub(x, y) mul = Mul(x, y) div = Div(x, y) mod = Mod(x, y) rem = Mod<fmod=1>(x, y) "
        "max = Max(x, y) min = Min(x, y) and = BitwiseAnd(x, y) or = BitwiseOr(x, y) xor = BitwiseXor(x, y) "
        f"inv = BitwiseNot(x) abs = Abs(x) sign = Sign(x){shifts} }}"
    )
    s = np.resize(np.arange(8), n).astype(dtype)
    got = run(text, {"x": x, "y": y, "s": s})
    wide, other = x.astype(object), y.astype(object)
    quotient = np.array(
        [int(math.copysign(1, a) * math.copysign(1, b)) * (abs(a) // abs(b)) for a, b in zip(wide, other, strict=True)]
    )
    want = {
        "add": x + y, "sub": x - y, "mul": x * y, "div": quotient.astype(dtype), "mod": np.mod(x, y),
        "rem": np.fmod(x, y), "max": np.maximum(x, y), "min": np.minimum(x, y), "and": x & y, "or": x | y, "xor": x ^ y,
        "inv": ~x, "abs": np.abs(x), "sign": np.sign(x), "l": x << s, "r": x >> s,
    }  # fmt: skip
    wrong = {name: difference(a, want[name], 0) for name, a in got.items()}
    assert not {n: d for n, d in wrong.items() if d}


def test_nan_infinities_and_halves() -> None:
    nan, inf = np.nan, np.inf
    x = np.array([nan, 1, inf, -inf, 0.5, 1.5, 2.5, -0.5, -1.5, -0.0, nan], np.float32)
    y = np.array([1, nan, 2, inf, -1, 1, 2, 0, 9, 0, nan], np.float32)
    text = (
        "g (float[11] x, float[11] y) => (float[11] max, float[11] min, float[11] round, float[11] relu, "
        "bool[11] isnan, bool[11] inf, bool[11] low, bool[11] high, bool[11] lt, bool[11] eq, float[11] sign, "
        "float[11] rem) "
        "{ max = Max(x, y) min = Min(x, y) round = Round(x) relu = Relu(x) isnan = IsNaN(x) inf = IsInf(x) "
        "low = IsInf<detect_positive=0>(x) high = IsInf<detect_negative=0>(x) lt = Less(x, y) eq = Equal(x, y) "
        "sign = Sign(x) rem = Mod<fmod=1>(x, y) }"
    )
    with np.errstate(invalid="ignore"):
        want = {
            "max": np.maximum(x, y), "min": np.minimum(x, y), "round": np.round(x), "relu": np.maximum(x, 0),
            "isnan": np.isnan(x), "inf": np.isinf(x), "low": x == -inf, "high": x == inf, "lt": x < y, "eq": x == y,
            "sign": np.sign(x), "rem": np.fmod(x, y),
        }  # fmt: skip
    got = run(text, {"x": x, "y": y})
    assert {n: d for n, a in got.items() if (d := difference(a, want[n].astype(a.dtype), 0))} == {}


def test_powers() -> None:
    text = (
        "g (float[S] x, int64[S] n, int32[S] i, double[S] d, float16[S] h) => (float[S] a, int32[S] b, int32[S] c, "
        "float[S] e, float16[S] f, double[S] g, float[S] sq, int32[S] isq, float[S] root) "
        "<float two = {2}, int32 itwo = {2}, float half = {0.5}> "
        "{ a = Pow(x, n) b = Pow(i, n) c = Pow(i, x) e = Pow(x, d) f = Pow(h, i) g = Pow(d, x) sq = Pow(x, two) "
        "isq = Pow(i, itwo) root = Pow(x, half) }"
    )

    def feeds(sizes: Mapping[str, int]) -> dict[str, Array]:
        rng, s = np.random.default_rng(0), sizes["S"]
        return {
            "x": rng.uniform(0.2, 3, s).astype(np.float32),
            "n": rng.integers(0, 4, s),
            "i": rng.integers(1, 5, s).astype(np.int32),
            "d": rng.uniform(0.5, 3, s),
            "h": rng.uniform(0.5, 3, s).astype(np.float16),
        }

    def want(f: Mapping[str, Array]) -> list[Array]:
        x, n, i, d, h = (f[k] for k in "xnidh")
        wide = x.astype(np.float64)
        return [
            (wide**n).astype(np.float32), i ** n.astype(np.int32), (i.astype(np.float32) ** x).astype(np.int32),
            (wide**d).astype(np.float32), (h.astype(np.float64) ** i).astype(np.float16), d**wide, x * x, i * i,
            np.sqrt(x),
        ]  # fmt: skip

    check({"": Case(text, want, feeds, rtol=1e-5)})


def test_bounds_of_a_clip() -> None:
    text = (
        "g (float[B,S] x, float lo, float hi, int32[B,S] i) => (float[B,S] a, float[B,S] b, float[B,S] c, "
        "float[B,S] d, float[B,S] e, int32[B,S] f) <int32 three = {3}, float less = {-0.25}> "
        "{ a = Clip(x, lo, hi) b = Clip(x, lo) c = Clip(x, , hi) d = Clip(x) e = Clip(x, hi, less) "
        "f = Clip(i, , three) }"
    )

    def want(f: Mapping[str, Array]) -> list[Array]:
        x, lo, hi = f["x"], f["lo"], f["hi"]
        crossed = np.minimum(np.maximum(x, hi), np.float32(-0.25))
        return [
            np.minimum(np.maximum(x, lo), hi),
            np.maximum(x, lo),
            np.minimum(x, hi),
            x,
            crossed,
            np.minimum(f["i"], 3),
        ]

    check({"": Case(text, want)})
    got = run(
        "g (float[3] x) => (float[3] y) <float one = {1}> { y = Clip(x, , one) }",
        {"x": np.array([np.nan, 2, -5], np.float32)},
    )
    np.testing.assert_array_equal(got["y"], [np.nan, 1, -5])


# -- conversions -----------------------------------------------------------------------------------------------------


def _casts(source: str, targets: list[str], attributes: str = "", opset: int = 21, size: int = 8) -> Program:
    outputs = ", ".join(f"{t}[{size}] o{n}" for n, t in enumerate(targets))
    body = " ".join(f"o{n} = Cast<to={_code(t)}{attributes}>(x)" for n, t in enumerate(targets))
    return compiled(model_of(f"g ({source}[{size}] x) => ({outputs}) {{ {body} }}", opset))


def _code(name: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(NUMPY[name])) if name in NUMPY else FLOAT8[name][0])


@pytest.mark.parametrize("source", NUMPY)
def test_casts_between_ordinary_types(source: str) -> None:
    """Numbers that both types hold; integers keep their low bits, floats truncate."""
    targets = [t for t in NUMPY if t != source]
    kind = np.dtype(NUMPY[source]).kind
    x = (
        np.array([0, 1, 0, 1, 1, 0, 1, 1], bool)
        if kind == "b"
        else np.array([0, 1, 2, 3, 100, 5, 77, 127], NUMPY[source])
    )
    if kind == "i":
        x = x * np.array([1, -1] * 4, x.dtype)
    elif kind in "fV":
        x = np.array([0, 0.5, 1.75, 2.25, 100.5, 3, 77, 120], NUMPY[source])
    got = _casts(source, targets).run({"x": x})
    wrong = {}
    for n, target in enumerate(targets):
        want = x != 0 if target == "bool" else x.astype(NUMPY[target])
        if problem := difference(got[f"o{n}"], want, 0):
            wrong[target] = problem
    assert not wrong


def test_integers_keep_their_low_bits_and_floats_truncate() -> None:
    x = np.array([-1, 255, 256, 300, -129, 2**31 - 1, -(2**31), 65536 + 7], np.int64)
    got = _casts("int64", ["int8", "uint8", "int16", "uint16", "uint32"]).run({"x": x})
    for n, t in enumerate(["int8", "uint8", "int16", "uint16", "uint32"]):
        np.testing.assert_array_equal(got[f"o{n}"], x.astype(t))
    f = np.array([-1.5, -0.5, 1.99, -2.5, 3.5, 100.9, -100.9, -0.0], np.float32)
    got = _casts("float", ["int8", "int32", "int64", "uint8", "bool"]).run({"x": f})
    for n, t in enumerate(["int8", "int32", "int64"]):
        np.testing.assert_array_equal(got[f"o{n}"], np.trunc(f).astype(t))
    np.testing.assert_array_equal(got["o3"], np.trunc(f).astype(np.int32).astype(np.uint8))
    np.testing.assert_array_equal(got["o4"], f != 0)
    assert _casts("float", ["bool"], size=1).run({"x": np.array([np.nan], np.float32)})["o0"].all()


FLOAT8 = {
    "float8e4m3fn": (17, ml_dtypes.float8_e4m3fn, 448, np.nan),
    "float8e4m3fnuz": (18, ml_dtypes.float8_e4m3fnuz, 240, np.nan),
    "float8e5m2": (19, ml_dtypes.float8_e5m2, 57344, np.inf),
    "float8e5m2fnuz": (20, ml_dtypes.float8_e5m2fnuz, 57344, np.nan),
}  # fmt: skip


@pytest.mark.parametrize("source", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("name", FLOAT8)
def test_floats_of_8_bits_saturate_or_not(name: str, source: str) -> None:
    _, numpy, largest, beyond = FLOAT8[name]
    x = np.array([1.0625, 0.013, -3.3, 1e-9, np.nan, np.inf, -np.inf, 65000], NUMPY[source])
    for saturate in (1, 0):
        got = _casts(source, [name], f", saturate={saturate}").run({"x": x})["o0"]
        assert got.dtype == numpy
        ends = [largest, -largest, largest] if saturate else [beyond, -beyond, beyond]
        want = np.concatenate([x[:5].astype(numpy).astype(np.float32), np.array(ends, np.float32)])
        np.testing.assert_array_equal(got.astype(np.float32), want)


def test_a_float_of_8_bits_is_read_back() -> None:
    for name, (_, numpy, _, _) in FLOAT8.items():
        x = np.array([1.5, -0.25, 0, 2, 4, 8, 16, 0.125], numpy)
        got = _casts(name, ["float", "float16", "int32", "bool"]).run({"x": x})
        np.testing.assert_array_equal(got["o0"], x.astype(np.float32))
        np.testing.assert_array_equal(got["o1"], x.astype(np.float16))
        np.testing.assert_array_equal(got["o2"], x.astype(np.float32).astype(np.int32))
        np.testing.assert_array_equal(got["o3"], x.astype(np.float32) != 0)


def test_types_that_the_portable_form_lacks_are_for_the_host() -> None:
    for name, code, opset in (("float8e8m0", 24, 24), ("float4e2m1", 23, 23), ("int2", 26, 25)):
        model = model_of(f"g (float[8] x) => ({name}[8] y) {{ y = Cast<to={code}>(x) }}", opset)
        with pytest.raises(OnHost, match="younger than StableHLO's portable form"):
            compiled(model)


def test_bits_as_another_type() -> None:
    text = (
        "g (float[4] x, bool[3] b) => (int32[4] y, float[4] z, uint8[3] u) "
        "{ y = BitCast<to=6>(x) z = BitCast<to=1>(y) u = BitCast<to=2>(b) }"
    )
    x, b = np.array([1, -0.0, np.nan, np.inf], np.float32), np.array([True, False, True])
    got = compiled(model_of(text, 26)).run({"x": x, "b": b})
    np.testing.assert_array_equal(got["y"], x.view(np.int32))
    np.testing.assert_array_equal(got["z"].view(np.int32), x.view(np.int32))
    np.testing.assert_array_equal(got["u"], b.view(np.uint8))


def test_a_swish_and_its_slope() -> None:
    text = "g (float[B,S] x) => (float[B,S] y, float[B,S] z) { y = Swish(x) z = Swish<alpha=0.5>(x) }"

    def want(f: Mapping[str, Array]) -> list[Array]:
        x = f["x"].astype(np.float64)
        return [(x / (1 + np.exp(-a * x))).astype(np.float32) for a in (1, 0.5)]

    check({"": Case(text, want, opset=24)})


def test_whether_dropout_drops_has_to_be_known() -> None:
    with pytest.raises(OnHost, match="drops at random"):
        compiled("g (float[4] x, float r, bool t) => (float[4] y) { y = Dropout(x, r, t) }")
    got = run("g (float[4] x) => (float[4] y, bool[4] m) { y, m = Dropout(x) }", {"x": np.ones(4, np.float32)})
    assert got["m"].all()
