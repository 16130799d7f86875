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
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op

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


class _Evaluator(ReferenceEvaluator):
    """Knows functions by domain, name and overload."""

    def __init__(self, proto: Any, **options: Any):
        functions = proto.functions if isinstance(proto, onnx.ModelProto) else ()
        self._overloads = {(f.domain, f.name, f.overload): _Evaluator(f) for f in functions if f.overload}
        super().__init__(proto, **{"new_ops": [Gelu, HardSwish, Mish], **options})

    def _load_impl(self, node: onnx.NodeProto, input_types: onnx.TypeProto | None = None) -> Any:
        function = self._overloads.get((node.domain, node.op_type, node.overload))
        if function is None:
            return super()._load_impl(node, input_types)
        version = self.opsets.get(node.domain, 1)
        return load_op(node.domain, node.op_type, version, custom=function, evaluator_cls=_Evaluator)


def evaluate(model: onnx.ModelProto | Path, feeds: Mapping[str, Array], *, every: bool = False) -> dict[str, Array]:
    """Outputs of ``model`` by name; with ``every``, all values of the graph, in order of computation.

    A path is for models whose weights are in files beside them.
    """
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(str(model))
    evaluator = _Evaluator(proto)
    if every:
        results = evaluator.run(None, dict(feeds), intermediate=True)
        assert isinstance(results, dict)
        return {n: np.asarray(v) for n, v in results.items() if n and v is not None and not isinstance(v, list)}
    return dict(
        zip((o.name for o in proto.graph.output), map(np.asarray, evaluator.run(None, dict(feeds))), strict=True)
    )
