"""Constant operands that integers can stand for: found in a graph, seen as matrices, replaced by DequantizeLinear.

MatMul(x, W[K, N])       scales [ceil(K/g), N] along axis 0, or [N]
Conv(x, W[O, C, …])      blocks along an output channel's inputs and taps, C·taps in order: the integers are [O, C·taps]
                         under DequantizeLinear(axis=1, block_size=g) and a Reshape; or one scale an output channel
Gather(W[V, D], ids)     blocks along the rows: scales [V, ceil(D/g)] along axis 1, or [V]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.late import is_late
from tilewright.ir.types import DType
from tilewright.passes.quantize.base import Array, Capability, Layer, Settings
from tilewright.passes.quantize.rounding import Rounded
from tilewright.passes.rewrite import Rewriter

#: Operators whose constant operand may be quantized, and which input that is.
OPERANDS = {"MatMul": 1, "Conv": 1, "Gather": 0}

_FLOATS = frozenset([DType.F32, DType.F16, DType.BF16])


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant and the nodes that read it in one way; they go on sharing its integers.

    Attributes:
        value: the constant.
        nodes: its readers, in order.
        role: which of the module's three forms.
        parts: groups of a convolution; 1 for the others.
    """

    value: ir.Value
    nodes: tuple[ir.Node, ...]
    role: Literal["MatMul", "Conv", "Gather"]
    parts: int = 1

    @property
    def name(self) -> str:
        """That of the first reader."""
        return self.nodes[0].name or str(self.nodes[0].outputs[0].name)

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """What the weights are multiplied with, reader by reader; nothing for a table."""
        return () if self.role == "Gather" else tuple(v for n in self.nodes if (v := n.inputs[0]) is not None)

    def matrix(self) -> Array:
        """``[K, N]``, a copy in f32: the sum runs over K. Columns of a convolution's groups follow each other."""
        array = np.asarray(constant_array(self.value), np.float32)
        return np.array(array if self.role == "MatMul" else array.reshape(len(array), -1).T, np.float32, order="C")


def weights_of(
    model: ir.Model, settings: Settings, capability: Capability | None = None
) -> tuple[list[Weight], list[Layer]]:
    """The weights that ``settings`` name, and a line for each operator whose constant operand stays as it is.

    ``capability`` is what the target absorbs; without it nothing is left alone on its account.
    """
    found: dict[tuple[ir.Value, str, int], list[ir.Node]] = {}
    left: list[Layer] = []
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERANDS:
            continue
        why = _obstacle(node, settings, capability)
        if why is None:
            value = node.inputs[OPERANDS[node.op_type]]
            assert value is not None
            found.setdefault((value, node.op_type, _groups(node)), []).append(node)
        elif why:
            dtype = node.outputs[0].dtype
            left.append(Layer(node.name or "", node.op_type, settings.method, _spelled(dtype), why))
    return [Weight(v, tuple(nodes), role, parts) for (v, role, parts), nodes in found.items()], left  # type: ignore[arg-type]


def replace(weight: Weight, rounded: Rounded, rewriter: Rewriter) -> ir.Value:
    """Let the readers of ``weight`` read integers and scales; returns what DequantizeLinear makes of them."""
    value, scales = weight.value, rounded.scales
    dtype = type_of(value).dtype.numpy
    shape = tuple(s.value for s in type_of(value).shape)
    turned = weight.role != "MatMul"  # the rows of what is stored are columns of the matrix
    parameters = [scales.scale.astype(dtype)]
    if scales.zero is not None:
        parameters.append(scales.zero.astype(rounded.grid.dtype))
    single = len(scales.scale) == 1
    parameters = [p[0] if single else (p.T if turned else p) for p in parameters]
    integers = rounded.integers.T if turned else rounded.integers
    if single:
        integers = integers.reshape(shape)
    attributes = {"axis": 1 if single != turned else 0} | ({} if single else {"block_size": scales.group})
    first = weight.nodes[0]
    constants = [np.ascontiguousarray(integers), *map(np.ascontiguousarray, parameters)]
    names = (f"{value.name}_{t}" for t in (_integers(rounded), "scale", "zero"))
    operands = [rewriter.constant(array, name) for array, name in zip(constants, names, strict=False)]
    real = rewriter.new("DequantizeLinear", operands, before=first, attributes=attributes)
    if integers.shape != shape:
        target = rewriter.constant(np.array(shape, np.int64), f"{value.name}_shape")
        real = rewriter.new("Reshape", [real, target], before=first)
    index = OPERANDS[weight.role]
    for node in weight.nodes:
        node.replace_input_with(index, real)
    if not value.uses() and not value.is_graph_output():
        rewriter.model.graph.initializers.pop(str(value.name), None)
    return real


def by_input(weights: Sequence[Weight]) -> Iterator[tuple[tuple[ir.Value, ...], list[Weight]]]:
    """Weights together that are multiplied with the same values in the same way, in order."""
    groups: dict[object, list[Weight]] = {}
    for weight in weights:
        groups.setdefault((weight.inputs, weight.role, weight.parts), []).append(weight)
    for together in groups.values():
        yield together[0].inputs, together


def _integers(rounded: Rounded) -> str:
    return str(DType.from_numpy(rounded.grid.dtype))


def _obstacle(node: ir.Node, settings: Settings, capability: Capability | None) -> str | None:
    """Why the node's weights stay as they are; empty where it has none, ``None`` where nothing is in the way."""
    index = OPERANDS[node.op_type]
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not is_constant(value):
        left = node.inputs[0]
        if node.op_type == "MatMul" and left is not None and is_constant(left) and type_of(left).dtype in _FLOATS:
            return "the constant is the left operand"
        return ""
    tensor = type_of(value)
    if tensor.dtype not in _FLOATS:
        return ""
    if settings.layers is not None and node.name not in settings.layers:
        return "not among the layers that were named"
    if node.op_type == "Gather" and (tensor.rank != 2 or _axis(node) not in (0, -2)):
        return "" if tensor.rank < 2 else "no table whose rows are looked up"
    if node.op_type == "MatMul" and tensor.rank != 2:
        return f"weights of rank {tensor.rank}"
    if is_late(node):
        return "its shape hangs on run-time values"
    kind = "i4" if settings.method == "int4" and node.op_type != "Gather" else "i8"
    if capability is not None and kind not in capability.weights:
        return f"the target has no kernels for {kind} weights"
    return _unfit(value, node.op_type)


def _unfit(value: ir.Value, role: str) -> str | None:
    shape = [s.value for s in type_of(value).shape]
    summed = shape[0] if role == "MatMul" else prod(shape[1:])
    if summed < 4 or not prod(shape):
        return f"a scale for {summed} weights saves nothing"
    if not np.isfinite(np.asarray(constant_array(value), np.float32)).all():
        return "weights that are not finite"
    return None


def _groups(node: ir.Node) -> int:
    return node.attributes["group"].as_int() if node.op_type == "Conv" and "group" in node.attributes else 1


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 0


def _spelled(dtype: ir.DataType | None) -> str:
    return str(DType.from_onnx(dtype.value)) if dtype is not None else "f32"
