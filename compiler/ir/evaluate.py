"""Running a graph state in ONNX's own reference evaluator: slow, exact, and independent of everything compiled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr

Array = np.ndarray[Any, Any]


class Evaluator:
    """A graph state, ready to run on any number of inputs. Later changes to the model are not seen."""

    def __init__(self, model: ir.Model):
        from onnx.reference import ReferenceEvaluator

        self._run = ReferenceEvaluator(ir.to_proto(model), new_ops=_corrected_operators())
        self._outputs = [v.name or "" for v in model.graph.outputs]

    def outputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name."""
        values = self._run.run(None, dict(inputs))
        return {name: np.asarray(v) for name, v in zip(self._outputs, values, strict=True)}

    def all_values(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every value of the graph by name, constants and inputs included."""
        values = self._run.run(None, dict(inputs), intermediate=True)
        return {name: np.asarray(v) for name, v in dict(values).items() if name and v is not None}


@cache
def _corrected_operators() -> list[Any]:
    """Operators that onnx 1.23's evaluator gets wrong: GatherElements fails on more than 64 slices."""
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # type: ignore[misc,unused-ignore]
        def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
            lead = tuple(slice(None) if i == axis % data.ndim else slice(n) for i, n in enumerate(indices.shape))
            return (np.take_along_axis(data[lead], indices, axis),)

    return [GatherElements]


def evaluate(model: ir.Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of ``model`` by name. Raises :class:`InternalError` when the evaluator cannot run it."""
    try:
        return Evaluator(model).outputs(inputs)
    except Exception as error:  # the evaluator raises whatever an operator's NumPy code raises
        raise InternalError(f"the reference evaluator failed: {type(error).__name__}: {error}") from error


def check_shapes(model: ir.Model, values: Mapping[str, Array]) -> dict[str, int]:
    """Compare the shapes and element types of a run's ``values`` (by name) with the inferred ones.

    Returns the sizes of the dimension symbols in that run. Raises :class:`InternalError` for the first difference.
    """
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        for size, actual in zip(type_of(value).shape, values[value.name or ""].shape, strict=True):
            if len(size.symbols) == 1 and str(size) in size.symbols:
                sizes.setdefault(str(size), actual)
    for value in [*model.graph.inputs, *(v for n in model.graph for v in n.outputs)]:
        array = values.get(value.name or "")
        if array is None:
            continue
        inferred = type_of(value)
        for size, actual in zip(inferred.shape, array.shape, strict=False):
            if not size.symbols <= sizes.keys() and str(size) in size.symbols:
                sizes[str(size)] = actual  # known at run time only
        shape = tuple(_evaluated(s, sizes) for s in inferred.shape)
        if shape != array.shape or array.dtype != inferred.dtype.numpy:
            raise InternalError(f"value {value.name!r}: inferred {inferred}, got {array.dtype}{list(array.shape)}")
    return sizes


def _evaluated(size: Expr, sizes: Mapping[str, int]) -> int:
    return size.evaluate(sizes)
