"""The verifier finds what a broken pass leaves behind, and the evaluator agrees with inference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tilewright.errors import InternalError
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import Evaluator, check_shapes, evaluate
from tilewright.ir.facts import set_facts
from tilewright.ir.graph import set_type
from tilewright.ir.types import DType, TensorType
from tilewright.ir.verify import verify
from tilewright.ops.infer import verify_types

WEIGHT = np.arange(1024, dtype=np.float32).reshape(32, 32)


@pytest.fixture
def model() -> ir.Model:
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        g (float[batch,32] x) => (float[batch,32] y) <float b = {2.0}> {
            m = MatMul(x, w) a = Add(m, b) y = Relu(a) }""")
    proto.graph.initializer.insert(0, onnx.numpy_helper.from_array(WEIGHT, "w"))
    return import_model(proto)


def test_an_imported_graph_is_legal(model: ir.Model) -> None:
    order = list(model.graph.initializers)
    verify(model)
    verify_types(model)
    assert list(model.graph.initializers) == order
    assert [v.name for v in model.graph.inputs] == ["x"]


def nodes(model: ir.Model) -> list[ir.Node]:
    return list(model.graph)


def no_type(model: ir.Model) -> None:
    nodes(model)[1].outputs[0].shape = None


def no_facts(model: ir.Model) -> None:
    set_facts(model, {})


def undefined(model: ir.Model) -> None:
    nodes(model)[2].replace_input_with(0, ir.Value(name="nowhere"))


def disorder(model: ir.Model) -> None:
    first = nodes(model)[0]
    model.graph.remove(first)
    model.graph.append(first)


def wrong_initializer(model: ir.Model) -> None:
    set_type(model.graph.initializers["b"], TensorType.of(DType.F32, 3))


def unknown_attribute(model: ir.Model) -> None:
    nodes(model)[2].attributes["no"] = ir.AttrInt64("no", 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_type, "has no type"),
        (no_facts, "which no fact bounds"),
        (undefined, "not valid ONNX"),
        (disorder, "not valid ONNX"),
        (wrong_initializer, "declared f32"),
        (unknown_attribute, "not valid ONNX"),
    ],
)
def test_illegal_graphs(model: ir.Model, damage: Callable[[ir.Model], None], message: str) -> None:
    damage(model)
    with pytest.raises(InternalError, match=message):
        verify(model)


def test_wrong_types_are_found(model: ir.Model) -> None:
    set_type(nodes(model)[1].outputs[0], TensorType.of(DType.F32, 7, 32))
    with pytest.raises(InternalError, match=r"of Add is f32\[batch, 32\], not f32\[7, 32\]"):
        verify_types(model)


def test_evaluation(model: ir.Model) -> None:
    x = np.ones((3, 32), np.float32)
    np.testing.assert_allclose(evaluate(model, {"x": x})["y"], x @ WEIGHT + 2)
    values = Evaluator(model).all_values({"x": x})
    assert {"x", "m", "a", "y"} <= values.keys()
    assert check_shapes(model, values) == {"batch": 3}


def test_a_run_that_disagrees_with_inference_is_found(model: ir.Model) -> None:
    values = Evaluator(model).all_values({"x": np.ones((3, 32), np.float32)})
    values["a"] = values["a"][:2]
    with pytest.raises(InternalError, match="value 'a'"):
        check_shapes(model, values)


def test_what_the_evaluator_cannot_run(model: ir.Model) -> None:
    with pytest.raises(InternalError, match="reference evaluator failed"):
        evaluate(model, {"x": np.ones((3, 5), np.float32)})


def test_gather_elements_with_many_rows() -> None:
    """onnx's own evaluator fails beyond 64 slices."""
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        g (float[100,4] x, int64[2,3] i) => (float[2,3] y) { y = GatherElements<axis=0>(x, i) }""")
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    i = np.array([[99, -1, 3], [0, 50, 70]])
    expected = np.array([[x[i[r, c], c] for c in range(3)] for r in range(2)])
    np.testing.assert_array_equal(evaluate(import_model(proto), {"x": x, "i": i})["y"], expected)
