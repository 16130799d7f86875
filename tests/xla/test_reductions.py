"""Reductions, positions of extremes and running sums: padding is masked by the identity, means have the true count."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("jaxlib")

from tests.xla.run import Array, compiled, run
from tests.xla.together import SIZES, Case, check

OPERATORS = "Sum Mean Prod Max Min SumSquare L1 L2 LogSumExp".split()


def _reduced(operator: str, dtype: str = "float") -> str:
    r = f"Reduce{operator}"
    return (
        f"g ({dtype}[B,S,2] x) => ({dtype}[B,1,2] a, {dtype}[B,2] b, {dtype} c, {dtype}[1,1,2] d, {dtype}[B,S,1] e, "
        f"{dtype}[B,S,2] f) <int64[1] one = {{1}}, int64[2] two = {{0,-2}}, int64[1] last = {{2}}, "
        "int64[0] none = {}> "
        f"{{ a = {r}(x, one) b = {r}<keepdims=0>(x, one) c = {r}<keepdims=0>(x) d = {r}(x, two) e = {r}(x, last) "
        f"  n = {r}<noop_with_empty_axes=1>(x, none) f = Identity(n) }}"
    )


def test_over_padded_and_other_axes() -> None:
    cases = {op: Case(_reduced(op), _wanted(op)) for op in OPERATORS}
    cases["LogSum"] = Case(
        "g (float[B,S] x) => (float[B,1] y) <int64[1] one = {1}> { p = Abs(x) y = ReduceLogSum(p, one) }"
    )
    check(cases)


def _wanted(operator: str):  # type: ignore[no-untyped-def]
    """The definition in f64, rounded once; composed operators without axes still apply their functions."""
    functions = {
        "Sum": np.sum,
        "Mean": np.mean,
        "Prod": np.prod,
        "Max": np.max,
        "Min": np.min,
        "SumSquare": lambda x, **k: np.sum(x * x, **k),
        "L1": lambda x, **k: np.sum(np.abs(x), **k),
        "L2": lambda x, **k: np.sqrt(np.sum(x * x, **k)),
        "LogSumExp": lambda x, **k: np.log(np.sum(np.exp(x), **k)),
    }
    alone = {"SumSquare": lambda x: x * x, "L1": np.abs, "L2": np.abs}

    def want(feeds: Mapping[str, Array]) -> list[Array]:
        x, f = feeds["x"], functions[operator]
        wide = x.astype(np.float64) if x.dtype.kind in "fV" else x
        results = [
            f(wide, axis=1, keepdims=True),
            f(wide, axis=1),
            f(wide),
            f(wide, axis=(0, 1), keepdims=True),
            f(wide, axis=2, keepdims=True),
            alone.get(operator, lambda x: x)(wide),
        ]
        return [np.asarray(r).astype(x.dtype) for r in results]

    return want


@pytest.mark.parametrize(("dtype", "rtol"), [("double", 1e-12), ("float16", 2**-10), ("bfloat16", 2**-7)])
def test_narrow_floats_are_summed_in_f32_and_rounded_once(dtype: str, rtol: float) -> None:
    check({op: Case(_reduced(op, dtype), _wanted(op), rtol=rtol) for op in OPERATORS}, SIZES[:2])


@pytest.mark.parametrize("dtype", "int8 int32 int64 uint8 uint32 uint64".split())
def test_integers(dtype: str) -> None:
    cases = {op: Case(_reduced(op, dtype), _wanted(op)) for op in ("Sum", "Prod", "Max", "Min", "SumSquare")}
    if dtype in ("int8", "uint8"):
        cases = {op: cases[op] for op in ("Max", "Min")}
    check(cases, SIZES[:2])


def test_booleans_and_the_mean_of_integers() -> None:
    check(
        {
            "or, and": Case(
                "g (bool[B,S] x) => (bool[B,1] y, bool[1,S] z) <int64[1] one = {1}, int64[1] zero = {0}> "
                "{ y = ReduceMax(x, one) z = ReduceMin(x, zero) }",
                lambda f: [f["x"].max(1, keepdims=True), f["x"].min(0, keepdims=True)],
                opset=21,
            ),
            "truncated": Case(
                "g (int32[B,S] x) => (int32[B,1] y) <int64[1] one = {1}> { y = ReduceMean(x, one) }",
                lambda f: [np.trunc(f["x"].mean(1, keepdims=True)).astype(np.int32)],
            ),
        }
    )


def test_sums_that_f16_cannot_hold_on_the_way() -> None:
    x = np.concatenate([np.full(64, 2048, np.float16), np.full(64, -2048, np.float16), np.full(128, 1, np.float16)])
    got = run(
        "g (float16[256] x) => (float16 y, float16 z) { y = ReduceSum<keepdims=0>(x) z = ReduceMean<keepdims=0>(x) }",
        {"x": x},
    )
    assert got["y"] == 128
    assert got["z"] == np.float16(0.5)
    ones = np.full(4096, 1, ml_dtypes.bfloat16)
    assert run("g (bfloat16[4096] x) => (bfloat16 y) { y = ReduceSum<keepdims=0>(x) }", {"x": ones})["y"] == 4096


def test_infinities_and_nan() -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[1, inf, 2], [-inf, -inf, -inf], [nan, 1, 0], [inf, -inf, 0]], np.float32)
    text = (
        "g (float[4,3] x) => (float[4] a, float[4] b, float[4] c) <int64[1] one = {1}> "
        "{ a = ReduceMax<keepdims=0>(x, one) b = ReduceMin<keepdims=0>(x, one) "
        "c = ReduceLogSumExp<keepdims=0>(x, one) }"
    )
    got = run(text, {"x": x})
    np.testing.assert_array_equal(got["a"], [inf, -inf, nan, inf])
    np.testing.assert_array_equal(got["b"], [1, -inf, nan, -inf])
    np.testing.assert_array_equal(got["c"], [inf, -inf, nan, inf])


EXTREMES = (
    "g (float[B,S] x, int32[B,S] i) => (int64[B,1] a, int64[S] b, int64[B,1] c, int64[B,1] d, int64[B,1] e, "
    "int64[1,S] f) { a = ArgMax<axis=1>(x) b = ArgMin<axis=0, keepdims=0>(x) "
    "c = ArgMax<axis=1, select_last_index=1>(x) "
    "d = ArgMin<axis=1, select_last_index=1>(i) e = ArgMax<axis=-1>(i) f = ArgMax<axis=0, select_last_index=1>(i) }"
)


def _with_ties(sizes: Mapping[str, int]) -> dict[str, Array]:
    rng = np.random.default_rng(sizes["S"])
    shape = sizes["B"], sizes["S"]
    return {
        "x": rng.choice(np.array([-np.inf, 0, 1], np.float32), shape),
        "i": rng.integers(-1, 2, shape).astype(np.int32) * (2**31 - 1),
    }


def test_positions_of_extremes() -> None:
    check({"ties": Case(EXTREMES, feeds=_with_ties), "others": Case(EXTREMES)})


def test_a_nan_is_the_extreme_wherever_it_stands() -> None:
    x = np.array([[1, np.nan, 3, np.nan], [np.nan] * 4, [0, 0, 0, 0]], np.float32)
    text = "g (float[3,4] x) => (int64[3] a, int64[3] b, int64[3] c) { a = ArgMax<axis=1, keepdims=0>(x) "
    text += "b = ArgMin<axis=1, keepdims=0>(x) c = ArgMax<axis=1, keepdims=0, select_last_index=1>(x) }"
    got = run(text, {"x": x})
    assert [got[n].tolist() for n in "abc"] == [[1, 0, 0], [1, 0, 0], [3, 3, 3]]


def test_running_sums() -> None:
    forms = ["", "<reverse=1>", "<exclusive=1>", "<reverse=1, exclusive=1>"]
    names = "abcd"
    outputs = ", ".join(f"float[B,S] {n}, int32[B,S] i{n}" for n in names)
    body = " ".join(
        f"{n} = CumSum{form}(x, k) i{n} = CumSum{form}(j, one)" for n, form in zip(names, forms, strict=True)
    )
    text = f"g (float[B,S] x, int32[B,S] j, int64 k) => ({outputs}) <int64 one = {{-1}}> {{ {body} }}"

    def feeds(axis: int):  # type: ignore[no-untyped-def]
        def made(sizes: Mapping[str, int]) -> dict[str, Array]:
            rng = np.random.default_rng(abs(axis))
            shape = sizes["B"], sizes["S"]
            x, j = rng.standard_normal(shape).astype(np.float32), rng.integers(-5, 6, shape).astype(np.int32)
            return {"x": x, "j": j, "k": np.int64(axis)}

        return made

    check({f"axis {axis}": Case(text, feeds=feeds(axis)) for axis in (0, 1, -2)})


def test_a_running_product() -> None:
    text = (
        "g (float[5] x) => (float[5] y, float[5] z) <int64 a = {0}> { y = CumProd(x, a) z = CumProd<reverse=1>(x, a) }"
    )
    x = np.array([1, 2, 3, 4, 0.5], np.float32)
    got = compiled(_opset(text, 26)).run({"x": x})
    np.testing.assert_allclose(got["y"], np.cumprod(x))
    np.testing.assert_allclose(got["z"], np.cumprod(x[::-1])[::-1])


def _opset(text: str, opset: int):  # type: ignore[no-untyped-def]
    from tests.xla.reference import model_of

    return model_of(text, opset)


def test_a_mean_over_everything_reads_its_input_once() -> None:
    program = compiled("g (float[64,64] x) => (float y) { y = ReduceMean<keepdims=0>(x) }")
    assert program.text.count("stablehlo.reduce") == 1
    assert "select" not in program.text  # nothing is padded, nothing is masked
