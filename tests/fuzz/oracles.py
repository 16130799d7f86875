"""What a model computes, by two implementations that are not ours; each may be unable to."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]

#: What is wrong in ``onnx.reference``, by operator; a model with one of them is left to the other oracle.
FAULTS = {"GlobalMaxPool": "drops the last axis where there is one spatial axis"}
Arrays = Mapping[str, Array]


class Cannot(Exception):
    """An oracle refuses a model or its inputs; the message says why."""


@functools.cache
def _ort() -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def onnxruntime(model: onnx.ModelProto, feeds: Arrays) -> dict[str, Array]:
    """Outputs by ONNX Runtime without its optimizations. Raises :class:`Cannot`."""
    ort = _ort()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))
    except Exception as error:
        raise Cannot(f"ONNX Runtime: {_line(error)}") from None


def evaluator(model: onnx.ModelProto, feeds: Arrays) -> dict[str, Array]:
    """Outputs by ``onnx.reference``. Raises :class:`Cannot`."""
    from onnx.reference import ReferenceEvaluator

    for node in model.graph.node:
        if node.op_type in FAULTS:
            raise Cannot(f"onnx.reference: {node.op_type} {FAULTS[node.op_type]}")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, dict(feeds))
    except Exception as error:
        raise Cannot(f"onnx.reference: {_line(error)}") from None
    return {o.name: np.asarray(r) for o, r in zip(model.graph.output, results, strict=True)}


ORACLES = {"onnxruntime": onnxruntime, "onnx.reference": evaluator}


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
