"""Every lowered operator through generated C, kernel by kernel, against the lowered interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.ranges import Range
from tilewright.kernel.interpret import run_lowered
from tilewright.ops.program import View, lower_graph

from tests.cpu.harness import LEVELS, compile_kernel
from tests.ops.interpret import typed
from tests.ops.test_lowering import CASES, SIZES, Case, build


@pytest.mark.parametrize("level", [LEVELS[-1], *(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[:-1])])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, level: str) -> None:
    proto, arrays = build(case)
    model = typed(proto, {name: Range(1, 64) for name in SIZES})
    values = {v: arrays[str(v.name)] for v in model.graph.inputs}
    for step in lower_graph(model):
        if isinstance(step, View):
            shape = [s.evaluate(SIZES) for s in type_of(step.result).shape]
            source = step.source
            values[step.result] = (
                np.asarray(constant_array(source)) if is_constant(source) else values[source]
            ).reshape(shape)
            continue
        kernel, arguments = step.kernel, {}
        for p, v in zip(kernel.params, step.values, strict=True):
            if p.role != "out":
                array = np.asarray(constant_array(v)) if is_constant(v) else values[v]
                arguments[p.name] = array.reshape([s.evaluate(SIZES) for s in p.shape])
        dims = {n: SIZES[n] for n, _ in kernel.facts}
        expected = run_lowered(kernel, arguments, dims)
        got = compile_kernel(kernel, level)(arguments, dims)
        for p, v in zip(kernel.params, step.values, strict=True):
            if p.role != "out":
                continue
            if p.dtype.is_float:
                np.testing.assert_allclose(got[p.name], expected[p.name], rtol=2e-6, atol=2e-6, err_msg=kernel.name)
            else:
                np.testing.assert_array_equal(got[p.name], expected[p.name], err_msg=kernel.name)
            values[v] = expected[p.name].reshape([s.evaluate(SIZES) for s in type_of(v).shape])
