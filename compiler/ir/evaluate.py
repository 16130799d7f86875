"""Running a graph as ONNX defines it, to check states of the compiler against each other.

``onnx.reference`` 1.23 looks functions up without their overload, and cannot run Gelu, HardSwish and Mish inside a
function (their own bodies need types, which a function lacks). Fused operators have both, so :func:`evaluate` adds what
is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op
from tilewright.errors import InternalError
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr

Array = NDArray[Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Gelu(OpRun):
    """Formulas of the ONNX operator reference, Gelu."""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        wide = x.astype(np.float64)
        if approximate == "tanh":
            gate = np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))
        else:
            gate = _erf(wide / np.sqrt(2))
        return ((0.5 * wide * (1 + gate)).astype(x.dtype),)


class HardSwish(OpRun):
    """Formula of the ONNX operator reference, HardSwish."""

    def _run(self, x: Array) -> tuple[Array]:
        return ((x * np.clip(x / 6 + 0.5, 0, 1)).astype(x.dtype),)


class Mish(OpRun):
    """Formula of the ONNX operator reference, Mish."""

    def _run(self, x: Array) -> tuple[Array]:
        return ((x * np.tanh(np.logaddexp(0, x.astype(np.float64)))).astype(x.dtype),)


class GatherElements(OpRun):
    """onnx 1.23's own fails on more than 64 slices."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        lead = tuple(slice(None) if i == axis % data.ndim else slice(n) for i, n in enumerate(indices.shape))
        return (np.take_along_axis(data[lead], indices, axis),)


class _Evaluator(ReferenceEvaluator):
    """Knows functions by domain, name and overload."""

    def __init__(self, proto: Any, **options: Any):
        functions = proto.functions if isinstance(proto, onnx.ModelProto) else ()
        self._overloads = {(f.domain, f.name, f.overload): _Evaluator(f) for f in functions if f.overload}
        super().__init__(proto, **{"new_ops": [Gelu, HardSwish, Mish, GatherElements], **options})

    def _load_impl(self, node: onnx.NodeProto, input_types: onnx.TypeProto | None = None) -> Any:
        function = self._overloads.get((node.domain, node.op_type, node.overload))
        if function is None:
            return super()._load_impl(node, input_types)
        version = self.opsets.get(node.domain, 1)
        return load_op(node.domain, node.op_type, version, custom=function, evaluator_cls=_Evaluator)


class Evaluator:
    """A graph state, ready to run on any number of inputs. Later changes to the model are not seen."""

    def __init__(self, model: ir.Model):
        self._run = _Evaluator(ir.to_proto(model))
        self._outputs = [v.name or "" for v in model.graph.outputs]

    def outputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name."""
        values = self._run.run(None, dict(inputs))
        return {name: np.asarray(v) for name, v in zip(self._outputs, values, strict=True)}

    def all_values(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every value of the graph by name, constants and inputs included."""
        values = self._run.run(None, dict(inputs), intermediate=True)
        return {name: np.asarray(v) for name, v in dict(values).items() if name and v is not None}


def evaluate(
    model: ir.Model | onnx.ModelProto | Path, feeds: Mapping[str, Array], *, every: bool = False
) -> dict[str, Array]:
    """Outputs of ``model`` by name; with ``every``, all values of the graph, in order of computation.

    A path is for models whose weights are in files beside them. Raises :class:`InternalError` when the evaluator cannot
    run the model.
    """
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    proto = proto if isinstance(proto, onnx.ModelProto) else onnx.load(str(proto))
    try:
        results = _Evaluator(proto).run(None, dict(feeds), intermediate=every)
    except Exception as error:  # the evaluator raises whatever an operator's NumPy code raises
        raise InternalError(f"the reference evaluator failed: {type(error).__name__}: {error}") from error
    if every:
        named = dict(results)
        return {n: np.asarray(v) for n, v in named.items() if n and v is not None and not isinstance(v, list)}
    return dict(zip((o.name for o in proto.graph.output), map(np.asarray, results), strict=True))


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
