"""Run a graph through its lowered kernels in the NumPy interpreter: what the compiler means, with no backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from tilewright.ir.facts import set_facts
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.ranges import Range
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.verify import verify_kernel
from tilewright.ops.infer import infer_model
from tilewright.ops.program import View, lower_graph

Arrays = dict[str, np.ndarray[Any, Any]]


def typed(proto: onnx.ModelProto, bounds: dict[str, Range]) -> ir.Model:
    """A model with inferred types."""
    model = ir.from_proto(proto)
    set_facts(model, bounds)
    infer_model(model)
    return model


def run_interpreted(model: ir.Model, inputs: Arrays) -> Arrays:
    """Outputs of ``model``, every kernel verified and run by the lowered interpreter."""
    dims: dict[str, int] = {}
    values: dict[ir.Value, np.ndarray[Any, Any]] = {}
    for value in model.graph.inputs:
        array = inputs[str(value.name)]
        values[value] = array
        for size, actual in zip(type_of(value).shape, array.shape, strict=True):
            if len(size.symbols) == 1 and str(size) in size.symbols:
                dims[str(size)] = actual
    for step in lower_graph(model):
        if isinstance(step, View):
            shape = [s.evaluate(dims) for s in type_of(step.result).shape]
            values[step.result] = _value(step.source, values).reshape(shape)
            continue
        verify_kernel(step.kernel)
        arguments = {}
        for p, v in zip(step.kernel.params, step.values, strict=True):
            if p.role != "out":
                arguments[p.name] = _value(v, values).reshape([s.evaluate(dims) for s in p.shape])
        results = run_lowered(step.kernel, arguments, {n: dims[n] for n, _ in step.kernel.facts})
        for p, v in zip(step.kernel.params, step.values, strict=True):
            if p.role == "out":
                values[v] = results[p.name].reshape([s.evaluate(dims) for s in type_of(v).shape])
    return {str(o.name): _value(o, values) for o in model.graph.outputs}


def _value(value: ir.Value, values: dict[ir.Value, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.asarray(constant_array(value)) if is_constant(value) else values[value]
