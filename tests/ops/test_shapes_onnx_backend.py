"""The shape rules against the ONNX project's own node tests: inferred types equal the expected outputs' types.

Shapes, axes and the like are graph inputs in those tests; here every integer input of up to 64 elements becomes an
initializer, as it is in models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from tilewright.errors import TilewrightError, UnsupportedError
from tilewright.ir import graph
from tilewright.ir.facts import set_facts
from tilewright.ir.types import DType
from tilewright.ops.infer import infer_model
from tilewright.ops.registry import operators_with_shape_rule


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]


def prepared(case: Case) -> ir.Model | None:
    """The model with concrete input shapes, short integer inputs as initializers; ``None`` where one is no tensor."""
    model = ir.from_proto(case.model)
    known = {d.onnx for d in DType}
    for value, proto in zip(list(model.graph.inputs), case.inputs, strict=False):
        if proto.data_type not in known:
            return None
        array = numpy_helper.to_array(proto)
        value.shape = ir.Shape(array.shape)
        value.type = ir.TensorType(ir.DataType(proto.data_type))
        fixed = array.size <= 64 and (array.dtype.kind in "iub" or value.name in ("scales", "start", "limit", "delta"))
        if fixed and len(model.graph.inputs) > 1:
            model.graph.inputs.remove(value)
            value.const_value = ir.Tensor(array, name=value.name)
            model.graph.register_initializer(value)
    set_facts(model, {})
    return model


def check(case: Case) -> str:
    """``ok``, or why the case was passed over. Raises AssertionError on a wrong type."""
    nodes = list(case.model.graph.node)
    rules = operators_with_shape_rule()
    if any(("" if n.domain == "ai.onnx" else n.domain, n.op_type) not in rules for n in nodes):
        return "no rule"
    model = prepared(case)
    if model is None or any(p.data_type not in {d.onnx for d in DType} for p in case.outputs):
        return "element type"
    try:
        infer_model(model)
    except UnsupportedError as error:
        return f"unsupported: {error.problems[0]}"
    for value, proto in zip(model.graph.outputs, case.outputs, strict=True):
        inferred = graph.type_of(value)
        assert inferred.dtype.onnx == proto.data_type, f"{case.name}: {value.name} {inferred}"
        assert inferred.rank == len(proto.dims), f"{case.name}: {value.name} {inferred} for {list(proto.dims)}"
        for size, dim in zip(inferred.shape, proto.dims, strict=True):
            if size.is_constant:
                assert size == dim, f"{case.name}: {value.name} {inferred} for {list(proto.dims)}"
        known = graph.known_value(value)
        if known is not None and not graph.is_constant(value):
            expected = numpy_helper.to_array(proto)
            assert np.array_equal(known.astype(object), expected.astype(object)), f"{case.name}: {known} for {expected}"
    return "ok"


def cases() -> list[Case]:
    found = []
    for test in load_model_tests(kind="node"):
        if test.model is None or not test.data_sets:
            continue
        inputs, outputs = ([tensor(x) for x in items] for items in test.data_sets[0])
        if all(x is not None for x in (*inputs, *outputs)):
            found.append(Case(test.name, test.model, inputs, outputs))
    return found


def tensor(item: Any) -> onnx.TensorProto | None:
    """A test's input or output as a tensor; ``None`` for sequences and optional values."""
    if isinstance(item, onnx.TensorProto):
        return item
    return numpy_helper.from_array(np.asarray(item)) if isinstance(item, np.ndarray | np.generic) else None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_onnx_node_tests(capsys: pytest.CaptureFixture[str]) -> None:
    results: Counter[str] = Counter()
    wrong: list[str] = []
    for case in cases():
        try:
            result = check(case)
        except (AssertionError, TilewrightError) as error:
            wrong.append(f"{case.name}: {error}")
            continue
        results["ok" if result == "ok" else result.split(":")[0]] += 1
        if result.startswith("unsupported"):
            results[result] += 1
    with capsys.disabled():
        print(f"\nnode tests: {results.most_common()}")
    assert not wrong, "\n".join(wrong)
    assert results["ok"] > 1000
