"""Every lowering case through the C compiler and the runtime: one model with all of them, compiled once a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.backends.cpu.machine import runnable
from tilewright.options import Options
from tilewright.runtime import load

from tests.ops.test_lowering import CASES, build

TARGETS = [t.spelling for t in runnable() if t.arch != "x86-64-v4+vnni"]


def all_cases() -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """One model of all cases, its inputs, and what the reference evaluator makes of each."""
    nodes, inputs, outputs, constants = [], [], [], []
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    expected: dict[str, np.ndarray[Any, Any]] = {}
    for n, case in enumerate(CASES):
        model, arrays = build(case)
        prefix = f"c{n}_"
        results = ReferenceEvaluator(model).run(None, arrays)
        expected.update({f"{prefix}y{i}": r for i, r in enumerate(results)})
        feeds.update({prefix + name: a for name, a in arrays.items()})
        graph = onnx.compose.add_prefix_graph(model.graph, prefix)
        nodes += graph.node
        inputs += graph.input
        outputs += [_typed(o.name, expected[o.name]) for o in graph.output]
        constants += graph.initializer
    graph = helper.make_graph(nodes, "all", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), feeds, expected


def _typed(name: str, value: np.ndarray[Any, Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)


@pytest.mark.parametrize("target", TARGETS)
def test_all_operators(target: str) -> None:
    model, feeds, expected = all_cases()
    artifact = driver.compile(model, options=Options(targets=(target,)))
    check_cases(load(artifact.to_bytes())(**feeds), expected)


def check_cases(results: Mapping[str, np.ndarray[Any, Any]], expected: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Each output of :func:`all_cases` against what the reference evaluator made of it; all that is off together."""
    assert results.keys() == expected.keys()
    wrong = []
    for n, case in enumerate(CASES):
        for i in range(case.outputs):
            got, want = results[f"c{n}_y{i}"], expected[f"c{n}_y{i}"]
            if got.dtype != want.dtype or got.shape != want.shape:
                wrong.append(f"{case}: {got.dtype}{got.shape} instead of {want.dtype}{want.shape}")
            elif not np.allclose(got, want, rtol=5e-6, atol=5e-6, equal_nan=True):
                wrong.append(f"{case}: off by {np.abs(got.astype(float) - want.astype(float)).max():.2e}")
    assert not wrong, "\n".join(wrong)
