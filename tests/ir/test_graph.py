"""The typed view of a graph: types, constants, facts; and that a state survives being written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tilewright.errors import InternalError
from tilewright.frontend.onnx import import_model
from tilewright.ir.facts import Assumption, assumptions, dimension_names, facts, notes, set_assumptions, set_facts
from tilewright.ir.graph import (
    constant_array,
    consumers,
    has_type,
    is_constant,
    known_value,
    only_consumer,
    set_type,
    type_of,
)
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import symbol
from tilewright.ir.types import DType, TensorType
from tilewright.ops.infer import infer_model, verify_types

MODEL = """<ir_version: 10, opset_import: ["": 20]>
    g (float[batch,seq] x, float["batch-1",seq] z) => (float[a,b] y) <int64[2] shape = {0, -1}> {
        s = Add(x, z) r = Reshape(s, shape) c = Constant<value_ints=[3]>() t = Relu(r) u = Neg(r) y = Add(t, u) }"""


@pytest.fixture
def model() -> ir.Model:
    return import_model(onnx.parser.parse_model(MODEL))


def value(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph for v in (*node.outputs, *node.inputs) if v is not None and v.name == name)


def test_types_are_what_onnx_says(model: ir.Model) -> None:
    assert str(type_of(value(model, "r"))) == "f32[batch, seq]"
    assert str(value(model, "r").shape) == "[batch,seq]"


def test_a_type_can_be_set(model: ir.Model) -> None:
    y = value(model, "y")
    wanted = TensorType.of(DType.F16, symbol("P") + symbol("S"), 3)
    set_type(y, wanted)
    assert type_of(y) == wanted
    assert [d if isinstance(d, int) else d.value for d in y.shape or ()] == ["P + S", 3]


def test_a_value_without_type_is_an_internal_error() -> None:
    fresh = ir.Value(name="fresh")
    assert not has_type(fresh)
    with pytest.raises(InternalError, match="fresh"):
        type_of(fresh)


def test_constants(model: ir.Model) -> None:
    shape = value(model, "shape")
    assert is_constant(shape)
    np.testing.assert_array_equal(constant_array(shape), [0, -1])
    known = known_value(shape)
    assert known is not None
    assert [e.value for e in known] == [0, -1]
    assert not is_constant(value(model, "r"))
    assert known_value(value(model, "r")) is None
    with pytest.raises(InternalError):
        constant_array(value(model, "r"))


def test_an_input_with_a_default_is_a_constant() -> None:
    proto = onnx.parser.parse_model(MODEL)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("shape", 7, [2]))
    imported = import_model(proto)
    assert [v.name for v in imported.graph.inputs] == ["x", "z"]
    assert is_constant(value(imported, "shape"))


def test_consumers(model: ir.Model) -> None:
    assert [n.op_type for n in consumers(value(model, "r"))] == ["Relu", "Neg"]
    assert only_consumer(value(model, "r")) is None
    only = only_consumer(value(model, "t"))
    assert only is not None
    assert only.op_type == "Add"
    assert only_consumer(value(model, "y")) is None


def test_facts_are_kept_in_the_model(model: ir.Model) -> None:
    set_facts(model, {"batch": Range(1, 32, 4)})
    set_assumptions(model, (Assumption(symbol("a"), symbol("b") + 1, "Add"),))
    assert facts(model) == {"batch": Range(1, 32, 4)}
    assert assumptions(model) == (Assumption(symbol("a"), symbol("b") + 1, "Add"),)


def test_a_state_survives_being_written_and_read(model: ir.Model, tmp_path: Path) -> None:
    ir.save(model, tmp_path / "state.onnx")
    read = ir.load(tmp_path / "state.onnx")
    for a, b in zip(model.graph, read.graph, strict=True):
        assert [type_of(v) for v in a.outputs] == [type_of(v) for v in b.outputs]
    assert (facts(read), notes(read), dimension_names(read)) == (facts(model), notes(model), dimension_names(model))
    infer_model(read)
    verify_types(read)
    again = import_model(tmp_path / "state.onnx")
    assert [n.op_type for n in again.graph] == [n.op_type for n in model.graph]
    assert [type_of(v) for v in again.graph.inputs] == [type_of(v) for v in model.graph.inputs]
    assert facts(again) == facts(model)


FUSED = """<ir_version: 10, opset_import: ["": 24, "ai.tilewright": 1]>
    g (float[n,k] x, float[k,8] w) => (float[n,8] y) { y = ai.tilewright.MatMulRelu(x, w) }
    <domain: "ai.tilewright", opset_import: ["": 24]> MatMulRelu (a, b) => (c) { m = MatMul(a, b) c = Relu(m) }"""


def test_fused_operators_are_kept_and_inferred_through_their_body() -> None:
    model = import_model(onnx.parser.parse_model(FUSED))
    assert [n.op_type for n in model.graph] == ["MatMulRelu"]
    assert str(type_of(model.graph.outputs[0])) == "f32[n, 8]"
    verify_types(model)


def test_fused_operators_of_an_older_opset_are_taken_apart() -> None:
    model = import_model(onnx.parser.parse_model(FUSED.replace("24", "20")))
    assert [n.op_type for n in model.graph] == ["MatMul", "Relu"]
