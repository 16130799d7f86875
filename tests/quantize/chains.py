"""Chains of products to be quantized: of any widths, and with a layer that quantizing spoils."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def chain(widths: Sequence[int], spoiled: int | None = None, seed: int = 0) -> onnx.ModelProto:
    """``layer0``, ``layer1`` … with Relu between.

    What enters layer ``spoiled`` has one column far larger than the rest, which the layer's weights leave out: in float
    nothing changes, and rounding to steps of that range loses all the others.
    """
    random = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    for i, (inner, outer) in enumerate(pairwise(widths)):
        matrix = (random.standard_normal((inner, outer)) / np.sqrt(inner)).astype(np.float32)
        if spoiled is not None and i == spoiled:
            matrix[0] = 0.0
        if spoiled is not None and i == spoiled - 1:
            matrix[:, 0] *= 3000.0
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"], name=f"layer{i}"))
        last = i == len(widths) - 2
        nodes.append(helper.make_node("Neg" if last else "Relu", [f"h{i}"], ["y" if last else f"r{i}"]))
        value = f"r{i}"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w]) for n, w in (("x", widths[0]), ("y", widths[-1]))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def chain_file(folder: Path, widths: Sequence[int], spoiled: int | None = None) -> Path:
    """The same as a file."""
    onnx.save(chain(widths, spoiled), folder / "chain.onnx")
    return folder / "chain.onnx"


def rows(width: int, count: int = 8, height: int = 8, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Samples for a chain."""
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((height, width)).astype(np.float32)} for _ in range(count)]
