"""Small artifacts with parts for NVIDIA GPUs, compiled here with no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import tilewright as tw
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from tilewright.artifact import Artifact
from tilewright.backends.cuda import routine

#: Why a routine is on the host.
REASON = "gru is sequential: it has no form for GPUs"


@contextmanager
def no_routines() -> Iterator[None]:
    """A backend without any routine for GPUs, so that there is something for a host part whatever they learn."""
    with patch.object(routine, "routines", frozenset):
        yield


def gru_model() -> onnx.ModelProto:
    """Relu and Add on the device, between them a recurrence, which a host part runs."""
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("GRU", ["r", "w", "u"], ["s", ""], name="gru", hidden_size=4),
        node("Add", ["s", "b"], ["y"], name="add"),
    ]
    generator = np.random.default_rng(0)
    shapes = {"w": (1, 12, 16), "u": (1, 12, 4), "b": (4,)}
    constants = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    outputs = [value("y", T.FLOAT, ["N", 1, 1, 4])]
    graph = helper.make_graph(nodes, "gru", [value("x", T.FLOAT, ["N", 1, 16])], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@cache
def gru_artifact(targets: tuple[str, ...] = ("cuda:sm_80", "cpu:x86-64-v3")) -> Artifact:
    """:func:`gru_model`, compiled once in this process."""
    with no_routines():
        return tw.compile(gru_model(), targets=targets, verify=False, input_shapes={"x": ("1..64", 1, 16)})


def saved(artifact: Artifact, folder: Path) -> Path:
    """The artifact as a file."""
    path = folder / "model.tw"
    artifact.save(path)
    return path
