"""How much a model has to do at least: multiply-adds of its products, and weights to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference
from tilewright.errors import UsageError

COUNTED = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True, slots=True)
class Work:
    """One run. ``operations``: two per multiply-add of the operators in :data:`COUNTED`; ``weight_bytes``: of the
    initializers that those read, each once. A lower bound: everything else is left out."""

    operations: float
    weight_bytes: float


def count_work(path: Path, shapes: Mapping[str, Sequence[int]]) -> Work:
    """Count an ONNX model at concrete input shapes. Raises :class:`UsageError` where a size stays unknown."""
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
    del model.graph.value_info[:]
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    sizes: dict[str, list[int]] = {t.name: list(t.dims) for t in inferred.graph.initializer}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        dims = value.type.tensor_type.shape.dim
        sizes[value.name] = [d.dim_value if d.HasField("dim_value") else -1 for d in dims]
    operations = 0.0
    read: dict[str, float] = {}
    weights = {t.name: math.prod(t.dims) * _item_bytes(t.data_type) for t in inferred.graph.initializer}
    for node in inferred.graph.node:
        if node.op_type in COUNTED:
            operations += _operations(node, sizes)
            read |= {name: weights[name] for name in node.input if name in weights}
    return Work(operations, sum(read.values()))


def _operations(node: onnx.NodeProto, sizes: Mapping[str, list[int]]) -> float:
    out, first, second = (sizes.get(n, [-1]) for n in (node.output[0], node.input[0], node.input[1]))
    if min([*out, *first, *second], default=0) < 0:
        raise UsageError(
            "size-unknown",
            where=f"{node.op_type} {node.name}",
            cause="its sizes could not be inferred, so its work cannot be counted",
            fix="measure without --roofline",
        )
    if node.op_type == "Conv":
        return 2.0 * math.prod(out) * math.prod(second[1:])
    inner = first[-1]
    if node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
        inner = first[0]
    return 2.0 * math.prod(out) * inner


def _item_bytes(kind: int) -> float:
    return 0.5 if kind in (TensorProto.INT4, TensorProto.UINT4) else helper.tensor_dtype_to_np_dtype(kind).itemsize
