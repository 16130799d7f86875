"""Graphs, samples and a runner for tests of quantization: small, seeded, run by the reference evaluator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import evaluate
from tilewright.passes.quantize.base import Calibration, Feed

Array = NDArray[Any]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    x: Sequence[int | str],
    kind: int = TensorProto.FLOAT,
    result: int = TensorProto.FLOAT,
    rank: int | None = None,
) -> ir.Model:
    """The imported graph of ``nodes`` with input ``x`` and output ``y`` (of the rank of ``x`` unless told)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", result, [None] * (len(x) if rank is None else rank))],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))


def evaluated(model: ir.Model, feeds: Sequence[Feed], values: Sequence[str]) -> Iterator[dict[str, Array]]:
    """A runner: the reference evaluator."""
    for feed in feeds:
        found = {**evaluate(model, feed, every=True), **feed}
        yield {name: found[name] for name in values}


def samples(feeds: Sequence[Feed]) -> Calibration:
    """Calibration data."""
    return Calibration(tuple(feeds), "test", "")


def valid(model: ir.Model) -> onnx.ModelProto:
    """The state as ONNX, accepted by the checker with its types."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def correlated(random: np.random.Generator, rows: int, depth: int) -> Array:
    """Rows whose elements hang together, a few of them large, as activations are."""
    mix = random.standard_normal((max(2, depth // 4), depth)) * np.exp(random.standard_normal(depth))
    return np.asarray(
        random.standard_normal((rows, len(mix))) @ mix + 0.1 * random.standard_normal((rows, depth)), np.float32
    )
