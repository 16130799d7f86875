"""A plain method of static quantization: what the search and the reports need of one, and nothing more.

Activations u8 by the least and the largest value of all samples, weights i8 with a scale for each output channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from tilewright.ir.graph import constant_array
from tilewright.ops.infer import infer_node
from tilewright.passes.quantize.base import Calibration, Capability, Layer, Runner, Settings
from tilewright.passes.quantize.contractions import contractions, obstacle
from tilewright.passes.rewrite import Rewriter


def quantize(
    model: ir.Model,
    settings: Settings,
    capability: Capability,
    calibration: Calibration | None = None,
    runner: Runner | None = None,
) -> list[Layer]:
    """Quantize every layer of ``settings`` by itself: Q and DQ before it, DQ on its weight."""
    assert calibration is not None
    assert runner is not None
    rows, rewriter = [], Rewriter(model)
    absorbed = capability.static if settings.method != "int8-dynamic" else frozenset[str]()
    chosen = [(n, obstacle(n, absorbed, settings.layers)) for n in contractions(model)]
    values = [str(n.inputs[0].name) for n, why in chosen if not why]
    ranges = _ranges(runner(model.clone(), calibration.feeds, values)) if values else {}
    for node, why in chosen:
        rows.append(Layer(node.name, node.op_type, "int8", "f32" if why else "int8 × int8", why))
        if not why:
            _around(model, rewriter, node, *ranges[str(node.inputs[0].name)])
    return rows


def _ranges(found) -> dict[str, tuple[float, float]]:
    ranges: dict[str, tuple[float, float]] = {}
    for values in found:
        for name, array in values.items():
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return ranges


def _around(model: ir.Model, rewriter: Rewriter, node: ir.Node, low: float, high: float) -> None:
    scale = np.float32((high - low) / 255 or 1.0)
    zero = np.uint8(np.clip(round(-low / scale), 0, 255))
    x, weight = node.inputs[0], constant_array(node.inputs[1])
    axis = 0 if node.op_type == "Conv" else 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
    scales[scales == 0] = 1.0
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    integers = np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8)

    def constant(name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=rewriter.unique(f"{node.name}_{name}"), const_value=ir.tensor(array))
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        model.graph.register_initializer(value)
        return value

    def before(op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
        made = ir.node(op_type, list(inputs), attributes)
        made.outputs[0].name = rewriter.unique(f"{node.name}_{op_type}")
        made.name = made.outputs[0].name
        node.prepend(made)
        infer_node(model, made)
        return made.outputs[0]

    s, z = constant("scale", np.asarray(scale)), constant("zero", np.asarray(zero))
    node.replace_input_with(0, before("DequantizeLinear", [before("QuantizeLinear", [x, s, z]), s, z]))
    w = before("DequantizeLinear", [constant("weight", integers), constant("scales", scales)], axis=axis)
    node.replace_input_with(1, w)


def chain(folder: Path, widths: Sequence[int], spoiled: int | None = None, seed: int = 0) -> Path:
    """Products one after the other with Relu between; what enters layer ``spoiled`` has one value far from the rest."""
    random = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    for i, (inner, outer) in enumerate(pairwise(widths)):
        matrix = (random.standard_normal((inner, outer)) / np.sqrt(inner)).astype(np.float32)
        if spoiled is not None and i == spoiled:
            matrix[0] = 0.0  # a column that nobody reads, but that stretches the range of what is quantized
        if spoiled is not None and i == spoiled - 1:
            matrix[:, 0] *= 3000.0
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"], name=f"layer{i}"))
        last = i == len(widths) - 2
        nodes.append(helper.make_node("Identity" if last else "Relu", [f"h{i}"], ["y" if last else f"r{i}"]))
        value = f"r{i}"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w]) for n, w in (("x", widths[0]), ("y", widths[-1]))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    path = folder / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path
