"""Operators of quantized models, and quantized models of several exporters, compiled and compared with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

from tests.end_to_end.quantized_cases import CASES, OPSETS, Case, build, feeds

ort = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]


def reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime makes of ``model`` as it stands, without rewriting it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def together() -> onnx.ModelProto:
    """One model of all cases."""
    graphs = [build(case, f"c{n}_").graph for n, case in enumerate(CASES)]
    parts: list[list[Any]] = [[x for g in graphs for x in getattr(g, f)] for f in ("node", "input", "output")]
    for g in graphs:
        for value in g.input:
            dims = value.type.tensor_type.shape.dim
            if dims[0].dim_param:
                dims[0].dim_param = "B"
    graph = helper.make_graph(parts[0], "all", parts[1], parts[2], [t for g in graphs for t in g.initializer])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    assert '"" : 21' in OPSETS
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("level", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_operators_of_quantized_models(level: int) -> None:
    model = together()
    session = load(driver.compile(model, options=Options(targets=("cpu:native",), level=level)).to_bytes())
    for batch in (3, 1):
        inputs = feeds(model, batch, seed=batch)
        want = reference(model, inputs)
        got = session(**inputs)
        wrong = [line for n, case in enumerate(CASES) if (line := _off(case, got[f"c{n}_y"], want[f"c{n}_y"]))]
        assert not wrong, "\n".join(wrong)


def _off(case: Case, got: Array, want: Array) -> str:
    """What is wrong with a result. A quotient that is a tie in one order of f32 operations may not be in another: one
    step there, and only there."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{case.name}: {got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    distance = np.abs(got.astype(np.float64) - want)
    if got.dtype.kind == "f":
        worst = distance.max() / max(np.abs(want).max(), 1e-9)
        return f"{case.name}: off by {worst:.1e}" if worst > 1e-5 else ""
    if got.dtype == np.int32:
        return "" if not distance.any() else f"{case.name}: off by {distance.max()}"
    share = float(np.mean(distance > 0))
    return f"{case.name}: off by {distance.max()}, {share:.1%} differ" if distance.max() > 1 or share > 0.02 else ""
