"""What every model of this folder is written with: nodes, small constants, weights in a file beside the graph.

Weights go to the file as they are named, one after the other, so that no model is ever in memory as a whole. Same
calls, same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 18
IR_VERSION = 10
PAGE = 4096  # external data starts on pages, so that it can be mapped

Array = NDArray[Any]


def save_model(
    path: Path, describe: Callable[[GraphBuilder], None], location: str | None = None, opset: int = OPSET
) -> Path:
    """Write the graph that ``describe`` builds at ``path``, its weights beside it.

    Args:
        path: the ``.onnx`` file; its folder is made.
        describe: calls the builder; it declares inputs and outputs too.
        location: name of the file with the weights, ``<stem>.weights`` by default. Graphs that name the same weights in
            the same order may share one.
        opset: of the standard operators.

    Returns:
        ``path``. Raises what the ONNX checker raises.
    """
    location = location or f"{path.stem}.weights"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{location}.partial"
    with partial.open("wb") as file:
        builder = GraphBuilder(location, file)
        describe(builder)
    partial.replace(path.parent / location)  # another graph's reader may have the old one mapped
    graph = helper.make_graph(
        builder.nodes, path.stem, builder.inputs, builder.outputs, list(builder.initializers.values())
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION, producer_name="tilewright-models"
    )
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)
    return path


def seeded(name: str, shape: Sequence[int], scale: float, centre: float = 0.0) -> Array:
    """Normal float32 values that depend on the tensor's name alone: the same in every model that has the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape), dtype=np.float32)
    values *= np.float32(scale)
    values += np.float32(centre)
    return values


class GraphBuilder:
    """A graph in the making: each method adds to it and gives the name of what it added."""

    def __init__(self, location: str, file: BinaryIO):
        self.location, self.file = location, file
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declare an output."""
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node with one output, which has its ``name``."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{name}/{op}", **attributes))
        return name

    def nodes_of(self, op: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> Sequence[str]:
        """A node with several outputs."""
        self.nodes.append(helper.make_node(op, list(inputs), list(names), name=f"{names[0]}/{op}", **attributes))
        return names

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """A small initializer inside the graph; one per name."""
        if name not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def integers(self, *values: int) -> str:
        """A constant vector of int64, named after its values."""
        return self.constant(f"i64_{'_'.join(map(str, values))}", values, np.int64)

    def weight(self, name: str, array: Array) -> str:
        """An initializer in the external file, in the array's own dtype (little endian)."""
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        self.file.write(bytes(-self.file.tell() % PAGE))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", self.file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.file.write(memoryview(array.reshape(-1)).cast("B"))
        self.initializers[name] = tensor
        return name

    def seeded(self, name: str, shape: Sequence[int], scale: float | None = None, centre: float = 0.0) -> str:
        """A weight of :func:`seeded` values, or the one that has the name already.

        ``scale`` is ``1 / √rows`` of a matrix by default, which keeps the variance of what it multiplies.
        """
        if name in self.initializers:
            return name
        return self.weight(name, seeded(name, shape, shape[0] ** -0.5 if scale is None else scale, centre))
