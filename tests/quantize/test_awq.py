"""Activation-aware scales: less error than rounding to nearest, and where the scales go."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from tilewright.ir.evaluate import evaluate
from tilewright.passes.quantize.awq import Awq, divide
from tilewright.passes.quantize.base import Capability, Settings
from tilewright.passes.quantize.methods import quantize
from tilewright.passes.rewrite import Rewriter

from tests.quantize.graphs import Array, evaluated, model_of, samples, valid

ALL = Capability(weights=frozenset(["i4", "i8"]))
DEPTH = 64


def network(norm: str | None, second_reader: bool) -> ir.Model:
    """Two products of one value: of the input, or of what a normalization makes, which another node may read too."""
    random = np.random.default_rng(1)
    weights = {
        "w": random.standard_normal((DEPTH, 16)).astype(np.float32),
        "v": random.standard_normal((DEPTH, 16)).astype(np.float32),
        "gain": np.exp(2 * random.standard_normal(DEPTH)).astype(np.float32),
        "shift": random.standard_normal(DEPTH).astype(np.float32),
        "last": np.array([-1]),
    }
    read = "h" if norm else "x"
    nodes = [
        helper.make_node("MatMul", [read, "w"], ["a"], name="a"),
        helper.make_node("MatMul", [read, "v"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("ReduceMean", [read if second_reader else "c", "last"], ["m"]),
        helper.make_node("Add", ["c", "m"], ["y"]),
    ]
    if norm:
        inputs = ["x", "gain", "shift"] if norm == "LayerNormalization" else ["x", "gain"]
        nodes.insert(0, helper.make_node(norm, inputs, ["h"], name="norm", axis=-1))
    return model_of(nodes, weights, ["n", DEPTH])


def feeds(rows: int = 200) -> list[dict[str, Array]]:
    random = np.random.default_rng(2)
    sizes = np.exp(2 * random.standard_normal(DEPTH))
    return [{"x": (random.standard_normal((rows, DEPTH)) * sizes).astype(np.float32)} for _ in range(2)]


@pytest.mark.parametrize("second_reader", [False, True], ids=["alone", "read twice"])
@pytest.mark.parametrize("norm", [None, "LayerNormalization", "RMSNormalization"], ids=str)
def test_scales(norm: str | None, second_reader: bool) -> None:
    """Into the normalization where nobody else reads it, else into one Mul; the error is below that of nearest."""
    seen, unseen = feeds()
    model = network(norm, second_reader)
    want = evaluate(model, unseen)["y"]
    plain = model.clone()
    quantize(plain, Settings("int4", algorithm="rtn"), ALL)
    lines = quantize(model, Settings("int4", algorithm="awq"), ALL, samples([seen]), evaluated)
    assert [(line.name, line.got) for line in lines] == [("a", "int4 weights"), ("b", "int4 weights")]
    valid(model)
    folded = norm is not None and not second_reader
    assert [n.op_type for n in model.graph].count("Mul") == (0 if folded else 1)
    errors = [np.linalg.norm(evaluate(m, unseen)["y"] - want) for m in (model, plain)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("norm", [None, "LayerNormalization", "RMSNormalization"], ids=str)
def test_division(norm: str | None) -> None:
    """Dividing by powers of two what weights are multiplied by changes nothing."""
    model = network(norm, second_reader=False)
    (feed, _) = feeds(5)
    want = evaluate(model, feed)["y"]
    scale = 2.0 ** np.random.default_rng(0).integers(-3, 4, DEPTH).astype(np.float32)
    for name in "wv":
        array = model.graph.initializers[name].const_value
        assert array is not None
        model.graph.initializers[name].const_value = ir.tensor(array.numpy() * scale[:, None], name=name)
    divide([n for n in model.graph if n.op_type == "MatMul"], scale, Rewriter(model))
    valid(model)
    np.testing.assert_allclose(evaluate(model, feed)["y"], want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_convolutions_and_bytes() -> None:
    """A convolution is rounded without scales; the same bytes each time."""
    random = np.random.default_rng(3)
    node = helper.make_node("Conv", ["x", "c"], ["y"], name="c", group=2)
    weights = {"c": random.standard_normal((6, 4, 3, 3)).astype(np.float32)}
    feed: dict[str, Any] = {"x": random.standard_normal((4, 8, 6, 6)).astype(np.float32)}
    made = []
    for _ in range(2):
        model = model_of([node], weights, ["n", 8, 6, 6])
        Awq(samples([feed]), evaluated).run(model)
        made.append(valid(model).SerializeToString(deterministic=True))
    assert made[0] == made[1]
