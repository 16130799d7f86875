"""Small artifacts with parts for NVIDIA GPUs, compiled here with no GPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import tilewright as tw
from onnx import TensorProto as T
from onnx import helper
from tilewright.artifact import Artifact


def topk_model() -> onnx.ModelProto:
    """Relu and Add on the device, between them TopK, which a host part runs."""
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("TopK", ["r", "k"], ["v", "i"], name="topk"),
        node("Add", ["v", "b"], ["y"], name="add"),
    ]
    constants = [helper.make_tensor("k", T.INT64, [1], [4]), helper.make_tensor("b", T.FLOAT, [4], [1, 2, 3, 4])]
    outputs = [value("y", T.FLOAT, ["N", 4]), value("i", T.INT64, ["N", 4])]
    graph = helper.make_graph(nodes, "topk", [value("x", T.FLOAT, ["N", 16])], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@cache
def topk_artifact(targets: tuple[str, ...] = ("cuda:sm_80", "cpu:x86-64-v3")) -> Artifact:
    """:func:`topk_model`, compiled once in this process."""
    return tw.compile(topk_model(), targets=targets, verify=False, input_shapes={"x": ("1..64", 16)})


def saved(artifact: Artifact, folder: Path) -> Path:
    """The artifact as a file."""
    path = folder / "model.tw"
    artifact.save(path)
    return path
