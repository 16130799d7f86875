"""Softmax and normalizations, over padded axes too."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import pytest

pytest.importorskip("jaxlib")

from tests.xla.reference import model_of
from tests.xla.run import Array, compiled, run
from tests.xla.together import SIZES, Case, check, numbers

RNG = np.random.default_rng(0)


def _mean_variance(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    wide = x.astype(np.float64)
    return wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)


def _local_response(feeds: Mapping[str, Array]) -> list[Array]:
    """By its formula: the reference evaluator loops over the batch in place of the channels."""
    x = feeds["x"].astype(np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))) ** 2
    total = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return [(x / (1 + 1e-4 / 3 * total) ** 0.75).astype(np.float32)]


def _norms(feeds: Mapping[str, Array]) -> list[Array]:
    """By the formula: of norm 1 the reference evaluator forgets the absolute value."""
    x = feeds["x"].astype(np.float64)
    found = [np.sqrt((x * x).sum(1, keepdims=True)), np.abs(x).sum(0, keepdims=True)]
    return [np.where(n == 0, 0, x / np.where(n == 0, 1, n)).astype(np.float32) for n in found]


CASES = {
    "softmax": Case(
        "g (float[B,S] x) => (float[B,S] a, float[B,S] b, float[B,S] c, float[B,S] d) "
        "{ a = Softmax(x) b = Softmax<axis=0>(x) c = LogSoftmax(x) d = LogSoftmax<axis=0>(x) }"
    ),
    "hardmax": Case("g (float[B,S] x) => (float[B,S] a, float[B,S] b) { a = Hardmax(x) b = Hardmax<axis=0>(x) }"),
    "layer norm": Case(
        "g (float[B,S,6] x, float[6] c, float[6] d) => (float[B,S,6] y, float[B,S,1] m, float[B,S,1] i, "
        "float[B,S,6] z) "
        "{ y, m, i = LayerNormalization(x, c, d) z = LayerNormalization<epsilon=0.1>(x, c) }"
    ),
    "layer norm over padded axes": Case(
        "g (float[B,S,3] x, float[S,3] c) => (float[B,S,3] y, float[B,1,1] m) "
        "{ y, m = LayerNormalization<axis=1>(x, c, c) }"
    ),
    "by instance": Case(
        "g (float[B,2,S] x, float[2] c, float[2] d) => (float[B,2,S] y) { y = InstanceNormalization(x, c, d) }"
    ),
    "by group": Case(
        "g (float[B,4,S,T] x, float[4] c, float[4] d) => (float[B,4,S,T] y) "
        "{ y = GroupNormalization<num_groups=2>(x, c, d) }"
    ),
    "by batch": Case(
        "g (float[B,S,2] x, float[S] c, float[S] d) => (float[B,S,2] y) "
        "{ v = Abs(c) y = BatchNormalization(x, c, d, d, v) }"
    ),
    "by batch, training": Case(
        "g (float[B,3,S] x, float[3] c, float[3] d) => (float[B,3,S] y, float[3] m, float[3] n) "
        "{ v = Abs(c) y, m, n = BatchNormalization<training_mode=1, momentum=0.7>(x, c, d, d, v) }"
    ),
    "mean and variance": Case("g (float[B,2,S,3] x) => (float[B,2,S,3] y) { y = MeanVarianceNormalization(x) }"),
    "norms": Case(
        "g (float[B,S] x) => (float[B,S] y, float[B,S] z) "
        "{ y = LpNormalization<axis=1, p=2>(x) z = LpNormalization<axis=0, p=1>(x) }",
        _norms,
    ),
    "local response": Case("g (float[B,S,2,2] x) => (float[B,S,2,2] y) { y = LRN<size=3>(x) }", _local_response),
}


def test_over_padded_axes() -> None:
    check({name: Case(c.text, c.want, rtol=1e-5) for name, c in CASES.items()})


def test_rms_norm() -> None:
    text = "g (float[B,S,6] x, float[6] c) => (float[B,S,6] y) { y = RMSNormalization<epsilon=0.001>(x, c) }"

    def want(feeds: Mapping[str, Array]) -> list[Array]:
        x = feeds["x"].astype(np.float64)
        return [(x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.001) * feeds["c"]).astype(np.float32)]

    check({"": Case(text, want, opset=23)})


@pytest.mark.parametrize(("dtype", "ulp"), [("float16", 2**-10), ("bfloat16", 2**-7), ("double", 1e-10)])
def test_narrow_floats_are_rounded_once(dtype: str, ulp: float) -> None:
    def layer_norm(feeds: Mapping[str, Array]) -> list[Array]:
        x, c = feeds["x"], feeds["c"].astype(np.float64)
        mean, variance = _mean_variance(x, (1,))
        normal = (x.astype(np.float64) - mean) / np.sqrt(variance + float(np.float32(1e-5)))
        powers = np.exp(x.astype(np.float64))
        soft = powers / powers.sum(1, keepdims=True)
        return [(normal * c + c).astype(x.dtype), soft.astype(x.dtype), np.log(soft).astype(x.dtype)]

    text = (
        f"g ({dtype}[B,32] x, {dtype}[32] c) => ({dtype}[B,32] y, {dtype}[B,32] z, {dtype}[B,32] w) "
        "{ y = LayerNormalization(x, c, c) z = Softmax(x) w = LogSoftmax(x) }"
    )
    check({dtype: Case(text, layer_norm, rtol=ulp)}, SIZES[:2])


def test_extreme_rows_of_a_softmax() -> None:
    x = np.array([[1e4, 1e4 - 1, -1e4], [-np.inf, 0, 0], [88, 89, 90]], np.float32)
    got = run("g (float[3,3] x) => (float[3,3] y) { y = Softmax(x) }", {"x": x})["y"]
    shifted = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(got, shifted / shifted.sum(1, keepdims=True), rtol=1e-6)


def test_a_softmax_of_huge_means_is_finite() -> None:
    """XLA multiplies anew for the subtraction and rounds once: the largest less itself would not be 0."""
    x = np.broadcast_to(RNG.uniform(1e10, 2e10, (1, 1, 13, 13)), (1, 1000, 13, 13)).astype(np.float32)
    text = "g (float[1,1000,13,13] x) => (float[1,1000] y) "
    text += "{ g = GlobalAveragePool(x) f = Flatten(g) y = Softmax(f) }"
    np.testing.assert_allclose(run(text, {"x": x})["y"], 0.001, rtol=1e-5)


def test_groups_of_channels_get_programs_of_exact_sizes() -> None:
    text = "g (float[2,C,3] x, float[C] c) => (float[2,C,3] y) { y = GroupNormalization<num_groups=2>(x, c, c) }"
    program = compiled(text, {"x": (2, "C=2..8", 3), "c": ("C",)}, {"C": (4, 8)})
    assert program.compiled is not None
    assert program.compiled.padded == ()
    feeds = {"x": numbers(RNG, np.dtype(np.float32), (2, 4, 3)), "c": np.ones(4, np.float32)}
    assert np.abs(program.run(feeds)["y"].reshape(2, 2, 6).sum(2) - 6).max() < 1e-5


def test_the_forms_that_xla_fuses() -> None:
    """A softmax is a maximum, a sum and no more; an attention's softmax has no barrier; a norm two sums."""
    model = model_of(
        "g (float[4,8,16] x, float[4,16,8] w, float[8] c) => (float[4,8,8] y) "
        "{ p = MatMul(x, w) s = Softmax(p) y = LayerNormalization(s, c, c) }"
    )
    text = compiled(model).text
    assert text.count("stablehlo.reduce(") == 4
    assert "barrier" not in text
    assert "select" not in text
    assert math.prod(onnx.numpy_helper.to_array(i).size for i in model.graph.initializer) == 1


def test_a_layer_norm_of_far_values_keeps_its_digits() -> None:
    x = (numbers(RNG, np.dtype(np.float32), (4, 64)) + 1000).astype(np.float32)
    text = "g (float[4,64] x) => (float[4,64] y) <float[1] one = {1}> "
    text += "{ s = Shape<start=1>(x) c = Expand(one, s) y = LayerNormalization(x, c) }"
    mean, variance = _mean_variance(x, (1,))
    want = (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(run(text, {"x": x})["y"], want, atol=1e-3)
