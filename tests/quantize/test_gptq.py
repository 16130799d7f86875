"""Second-order rounding: beside its definition, beside rounding to nearest, and what it is told about a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from tilewright.errors import UsageError
from tilewright.ir.evaluate import evaluate
from tilewright.passes.quantize import gptq
from tilewright.passes.quantize.base import Capability, Settings
from tilewright.passes.quantize.gptq import Gptq, refitted, second_order, stages
from tilewright.passes.quantize.methods import quantize
from tilewright.passes.quantize.rounding import I4, I8, Grid, round_to_nearest
from tilewright.passes.quantize.second_moments import moments_of, rows_of
from tilewright.passes.quantize.weights import weights_of

from tests.quantize.graphs import Array, correlated, evaluated, model_of, samples, valid

ALL = Capability(weights=frozenset(["i4", "i8"]))


def by_definition(matrix: Array, products: Array, scale: Array, grid: Grid, damping: float, order: bool) -> Array:
    """Optimal brain quantization in a fixed order: after each rounding, the rest of every column moves to the minimum
    of the error given what is rounded so far, found by solving for it."""
    h = products.astype(np.float64) + damping * np.diagonal(products).mean() * np.eye(len(products))
    places = np.argsort(-np.diagonal(products), kind="stable") if order else np.arange(len(h))
    whole, moved = np.zeros(matrix.shape), matrix.astype(np.float64)
    for i, k in enumerate(places):
        whole[k] = np.clip(np.rint(moved[k] / scale[k]), grid.low, grid.high)
        done, rest = places[: i + 1], places[i + 1 :]
        lost = (matrix - whole * scale)[done]
        moved[rest] = matrix[rest] + np.linalg.solve(h[np.ix_(rest, rest)], h[np.ix_(rest, done)] @ lost)
    return whole


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize(("depth", "group", "grid"), [(6, 3, I4), (11, 4, I4), (16, 0, I8)], ids=str)
def test_definition(depth: int, group: int, grid: Grid, order: bool) -> None:
    random = np.random.default_rng(depth)
    rows = correlated(random, 64, depth)
    matrix = random.standard_normal((depth, 5)).astype(np.float32)
    got = second_order(matrix, rows.T @ rows, grid, group, order=order, refit=False)
    scale, _ = got.scales.rows(0, depth)
    want = by_definition(matrix, rows.T @ rows, scale, grid, 0.01, order)
    np.testing.assert_array_equal(got.integers.astype(int), want)


@pytest.mark.parametrize(("depth", "group"), [(12, 4), (11, 4), (9, 0)])
def test_scales_of_least_error(depth: int, group: int) -> None:
    """Beside the least squares of each column by itself; a block of zeros keeps its scale."""
    random = np.random.default_rng(depth)
    rows = correlated(random, 60, depth).astype(np.float64)
    matrix = random.standard_normal((depth, 5)).astype(np.float32)
    rounded = round_to_nearest(matrix, I4, group)
    whole = rounded.integers.astype(np.float64)
    whole[: group or 0, 2] = 0
    got = refitted(matrix, whole, rounded.scales, rows.T @ rows)
    block = np.arange(depth) // rounded.scales.group
    for n in range(5):
        columns = np.stack([rows @ (whole[:, n] * (block == b)) for b in range(block[-1] + 1)], 1)
        want = np.linalg.lstsq(columns, rows @ matrix[:, n], rcond=None)[0]
        ratio = want / rounded.scales.scale[:, n]
        usual = (ratio > 0.5) & (ratio < 1.5)
        np.testing.assert_allclose(got.scale[usual, n], want[usual], rtol=1e-4)
        np.testing.assert_array_equal(got.scale[~usual, n], rounded.scales.scale[~usual, n])
        assert n != 2 or not group or not usual[0]


@pytest.mark.parametrize("group", [32, 0])
@pytest.mark.parametrize("depth", [64, 300])
def test_error_is_below_that_of_nearest(depth: int, group: int) -> None:
    """On rows that were not seen: less than 0.7 of the error of rounding to nearest, whose scales are as good."""
    random = np.random.default_rng(1)
    rows = correlated(random, 3000, depth)
    seen, unseen = rows[:2000], rows[2000:]
    matrix = random.standard_normal((depth, 20)).astype(np.float32)
    second = second_order(matrix, seen.T @ seen, I4, group).real()
    nearest = round_to_nearest(matrix, I4, group).real()
    errors = [float(np.linalg.norm(unseen @ (m - matrix))) for m in (second, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_inputs_that_are_never_used() -> None:
    """Zeros on the calibration data: such weights are rounded to nearest, the rest is as without them."""
    random = np.random.default_rng(2)
    rows = correlated(random, 50, 8)
    rows[:, [2, 5]] = 0
    matrix = random.standard_normal((8, 3)).astype(np.float32)
    got = second_order(matrix, rows.T @ rows, I4, 0)
    assert np.isfinite(got.real()).all()
    assert (np.abs(got.real() - matrix)[[2, 5]] <= 0.51 * np.abs(got.scales.scale) + 0.2 * np.abs(matrix[[2, 5]])).all()
    nothing = second_order(matrix, np.zeros((8, 8), np.float32), I4, 4, refit=False)
    np.testing.assert_array_equal(nothing.integers, round_to_nearest(matrix, I4, 4).integers)


CONVOLUTIONS: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ({}, (2, 3, 6, 5), (4, 3, 3, 2)),
    ({"pads": [1, 0, 2, 1], "strides": [2, 1]}, (2, 3, 6, 5), (4, 3, 3, 2)),
    ({"auto_pad": "SAME_UPPER", "strides": [2, 2], "group": 2}, (2, 4, 7, 6), (6, 2, 3, 3)),
    ({"auto_pad": "SAME_LOWER", "strides": [2, 3], "group": 4}, (1, 4, 7, 8), (4, 1, 4, 2)),
    ({"auto_pad": "VALID", "dilations": [2, 1], "group": 2}, (2, 4, 7, 6), (6, 2, 3, 3)),
    ({"pads": [2, 1], "dilations": [2]}, (2, 3, 9), (4, 3, 3)),
]


@pytest.mark.parametrize(("attributes", "x", "w"), CONVOLUTIONS, ids=str)
def test_windows(attributes: dict[str, Any], x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """The rows times the columns of the weights are the convolution."""
    random = np.random.default_rng(0)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", **attributes)
    model = model_of([node], {"w": random.standard_normal(w).astype(np.float32)}, x)
    ((weight,), _) = weights_of(model, Settings("int4"))
    feed = {"x": random.standard_normal(x).astype(np.float32)}
    want = evaluate(model, feed)["y"]
    columns = np.split(weight.matrix(), weight.parts, axis=1)
    parts = [np.zeros((0, c.shape[1]), np.float32) for c in columns]
    for part, rows in rows_of(feed["x"], weight.nodes[0], weight):
        parts[part] = np.concatenate([parts[part], rows @ columns[part]])
    got = np.concatenate(parts, 1).reshape(len(want), *want.shape[2:], -1)
    np.testing.assert_allclose(np.moveaxis(got, -1, 1), want, atol=1e-5)
    ((_, moments),) = moments_of(model, [weight], evaluated, samples([feed, feed]))
    assert moments.rows == 2 * want[:, 0].size


@pytest.mark.parametrize("group", [1, 2])
def test_graph(group: int) -> None:
    """A network of convolution and products: less error than rounding to nearest, the same from one budget to another
    where stages do not matter, valid, the same bytes each time."""
    random = np.random.default_rng(5)
    weights = {
        "c": random.standard_normal((8, 4 // group, 3, 3)).astype(np.float32) / 6,
        "w": random.standard_normal((8 * 16, 12)).astype(np.float32) / 11,
        "v": random.standard_normal((8 * 16, 12)).astype(np.float32) / 11,
        "shape": np.array([0, -1]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["h"], name="c", group=group),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["a"], name="a"),
        helper.make_node("MatMul", ["f", "v"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    data = correlated(random, 420, 4 * 36).reshape(420, 4, 6, 6)
    feeds = [{"x": data[i : i + 50]} for i in range(0, 400, 50)]
    unseen = {"x": data[400:]}

    def made(settings: Settings, **options: Any) -> tuple[Array, bytes]:
        model = model_of(nodes, weights, ["n", 4, 6, 6], rank=2)
        Gptq(samples(feeds), evaluated, settings, **options).run(model)
        return evaluate(model, unseen)["y"], valid(model).SerializeToString(deterministic=True)

    plain = model_of(nodes, weights, ["n", 4, 6, 6], rank=2)
    want = evaluate(plain, unseen)["y"]
    lines = quantize(plain, Settings("int4", algorithm="rtn"), ALL)
    assert [line.name for line in lines] == ["c", "a", "b"]
    nearest = np.linalg.norm(evaluate(plain, unseen)["y"] - want)
    together, first = made(Settings("int4"))
    _, second = made(Settings("int4"))
    staged, _ = made(Settings("int4"), budget=1)
    assert first == second
    assert np.linalg.norm(together - want) < 0.9 * nearest
    assert np.linalg.norm(staged - want) < 0.9 * nearest


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_weights_of_too_many_inputs(monkeypatch: pytest.MonkeyPatch, algorithm: Any) -> None:
    """They are rounded to nearest, which is told; the others are not."""
    random = np.random.default_rng(4)
    weights = {"w": random.standard_normal((8, 40)), "v": random.standard_normal((40, 8))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="two"),
    ]
    model = model_of(nodes, {k: v.astype(np.float32) for k, v in weights.items()}, ["n", 8])
    monkeypatch.setattr(gptq, "LARGEST", 4 * 8 * 8)
    feed = {"x": random.standard_normal((30, 8)).astype(np.float32)}
    one, two = quantize(model, Settings("int4", algorithm=algorithm), ALL, samples([feed]), evaluated)
    assert (one.name, one.got, one.why) == ("one", "int4 weights", "")
    assert (two.name, two.got) == ("two", "int4 weights") and "rounded to nearest" in two.why
    valid(model)


def test_stages() -> None:
    """Readers of one value are of one stage, whatever the budget."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["x", "v"], ["b"]),
             helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("MatMul", ["c", "w"], ["y"])]  # fmt: skip
    eye = np.eye(8, dtype=np.float32)
    model = model_of(nodes, {"w": eye, "v": eye, "u": eye}, [2, 8])
    weights, _ = weights_of(model, Settings("int4"))
    assert [len(s) for s in stages(weights, 0)] == [1, 1]
    assert [len(s) for s in stages(weights, 1 << 20)] == [2]


def test_data_that_are_not_finite() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": np.eye(8, dtype=np.float32)}, ["n", 8])
    feeds = [{"x": np.ones((1, 8), np.float32)}, {"x": np.full((1, 8), np.nan, np.float32)}]
    with pytest.raises(UsageError, match="sample 1"):
        quantize(model, Settings("int4"), ALL, samples(feeds), evaluated)


def test_values_whose_products_leave_f32() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"w": np.ones((32, 8), np.float32)}, ["N", 32])
    feeds = [{"x": np.full((4, 32), 1e30, np.float32)}]
    with pytest.raises(UsageError, match="leave the range of f32"):
        quantize(model, Settings("int4"), Capability(weights=frozenset(["i4"])), samples(feeds), evaluated)
