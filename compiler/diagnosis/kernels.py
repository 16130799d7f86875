"""Every kernel of a graph on right inputs: the first whose result is off, and what of it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.accuracy import Comparison
from tilewright.diagnosis import rebuild
from tilewright.diagnosis.layers import split, stand_ins
from tilewright.diagnosis.states import Limits, values_of
from tilewright.errors import InternalError, UnsupportedError
from tilewright.ir.evaluate import check_shapes
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.machine import KernelFault
from tilewright.ops.infer import infer_model
from tilewright.ops.program import Call, Run, Step, lower_nodes
from tilewright.options import Options

Array = NDArray[Any]
Values = Mapping[str, Array]

#: Points of all axes of a kernel that are worth interpreting: some ten seconds in NumPy.
_INTERPRETED = 1 << 28


@dataclass(frozen=True, slots=True)
class Off:
    """A kernel that is wrong by itself: in its tile IR (``lowering``), or in what became of that (``kernel``)."""

    stage: Literal["lowering", "kernel"]
    kernel: str
    tensor: Comparison
    op_type: str
    told: str


def first_off(state: ir.Model, feed: Values, options: Options, limits: Limits) -> Off | None:
    """The first node of ``state``, in order, whose kernel is off on right inputs; ``None`` where all are right.

    ``options`` have one target. Every value is an input of the graph that is compiled, so that nothing is passed on.
    """
    values = values_of(state, feed)
    names = [str(v.name) for node in state.graph for v in node.outputs if v.name and _is_data(v) and v.name in values]
    inputs = stand_ins(state, names)
    apart = split(state, inputs)
    infer_model(apart)  # symbols that only a run tells are inputs' sizes now
    given = {**feed, **{inputs[n]: values[n] for n in names}}
    wanted = {str(v.name): given[str(v.name)] for v in apart.graph.inputs}
    got = rebuild.run(apart, replace(options, input_shapes=(), states=()), wanted, passes=())
    for node in state.graph:
        for name in (str(v.name) for v in node.outputs if v.name in got):
            found = limits.compare(name, got[name], values[name])
            if not found.ok:
                return _blame(state, node, found, values, limits)
    return None


def _is_data(value: ir.Value) -> bool:
    """Not a constant, and not integers that may be sizes: given as an input, those would be unknown."""
    whole = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return not is_constant(value) and not (whole and value.shape is not None and len(value.shape) <= 1)


def _blame(state: ir.Model, node: ir.Node, found: Comparison, values: Values, limits: Limits) -> Off:
    steps = _steps(state, node)
    names = [s.kernel.name if isinstance(s, Run) else s.routine.identity for s in steps if isinstance(s, Run | Call)]
    kernel = ", ".join(names) or node.op_type
    if len(steps) != 1 or not isinstance(steps[0], Run):
        return Off("kernel", kernel, found, node.op_type, "the code")
    meant = _interpreted(state, steps[0], values)
    if meant is None:
        return Off("kernel", kernel, found, node.op_type, "the tile IR or the code (too large to be interpreted)")
    right = all(limits.compare(n, a, values[n]).ok for n, a in meant.items() if n in values)
    if right:
        return Off("kernel", kernel, found, node.op_type, "the tile IR is right, the code")
    return Off("lowering", kernel, found, node.op_type, "the tile IR")


def _steps(state: ir.Model, node: ir.Node) -> list[Step]:
    for each, made in lower_nodes(state):
        if each is node and not isinstance(made, UnsupportedError):
            return made
    return []


def _interpreted(state: ir.Model, step: Run, values: Values) -> dict[str, Array] | None:
    """What the tile IR of a kernel means; ``None`` where that takes too long or cannot be run."""
    try:
        sizes = check_shapes(state, values)
        pairs = list(zip(step.kernel.params, step.values, strict=True))
        given = {
            p.name: constant_array(v) if is_constant(v) else values[str(v.name)] for p, v in pairs if p.role != "out"
        }
        shapes = {p.name: tuple(s.evaluate(sizes) for s in p.shape) for p in step.kernel.params}
        if prod(a.extent.evaluate(sizes) for a in step.kernel.axes) > _INTERPRETED:
            return None
        results = run_lowered(step.kernel, {n: np.asarray(a).reshape(shapes[n]) for n, a in given.items()}, sizes)
    except (InternalError, KernelFault, KeyError, ValueError):
        return None
    return {
        str(v.name): results[p.name].reshape(tuple(s.evaluate(sizes) for s in type_of(v).shape))
        for p, v in pairs
        if p.role == "out"
    }
