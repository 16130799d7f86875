"""Random quantized networks: QDQ in every form that exporters write, odd sizes, all kinds of scales and zero points.

A network is made with the values of one sample beside it, so that every scale fits what it quantizes. Every quantized
tensor is an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from tests.quantize import reference

Array = np.ndarray[Any, Any]


@dataclass
class Network:
    """A network as it grows. ``values`` are those of a sample, as the reference has them."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)  # element type and rank
    values: dict[str, Array] = field(default_factory=dict)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def one_of(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def constant(self, array: Any, kind: int | None = None) -> str:
        """A constant; ``kind`` is its element type where NumPy has none."""
        name = f"k{len(self.constants)}"
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if kind in (T.INT4, T.UINT4):
            tensor = helper.make_tensor(name, kind, np.shape(array), np.asarray(array).ravel().tolist())
        self.constants[name] = tensor
        self.values[name] = reference.wide(np.asarray(array))
        return name

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """A node; its first result."""
        names = [f"v{len(self.nodes)}", *(f"v{len(self.nodes)}_{i}" for i in range(1, outputs))]
        node = helper.make_node(op, list(inputs), names, **attributes)
        kinds = {n: t.data_type for n, t in self.constants.items()}
        made = reference.step(node, [self.values[n] if n else None for n in inputs], kinds)
        self.values |= dict(zip(names, made, strict=False))
        self.nodes.append(node)
        return names[0]

    def output(self, name: str, kind: int) -> None:
        self.outputs[name] = (kind, self.values[name].ndim)

    # -- quantization ------------------------------------------------------------------------------------------------

    def quantized(self, name: str) -> str:
        """A value through Q and DQ, with a range that sometimes cuts it off."""
        kind = self.one_of(T.UINT8, T.INT8)
        x = self.values[name]
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        share = self.random.uniform(0.6, 1.1)
        least, most = reference.limits(kind)
        if self.chance(0.4):
            scale, zero = max(-low, high) * share / 127, 0 if kind == T.INT8 else 128
        else:
            scale = (high - low) * share / 255
            zero = int(np.clip(round(least - low / (scale or 1)), least, most))
        scale = np.float32(scale or 1)
        given = [self.constant(scale), self.constant(np.array(zero, np.uint8 if kind == T.UINT8 else np.int8))]
        if kind == T.UINT8 and zero == 0 and self.chance(0.5):
            given.pop()
        q = self.add("QuantizeLinear", [name, *given])
        self.output(q, kind)
        if self.chance(0.1) and x.ndim == 4:
            q = self.add("MaxPool", [q], kernel_shape=[2, 2], pads=[1, 0, 0, 1])
            self.output(q, kind)
        return self.add("DequantizeLinear", [q, *given])

    def by_row(self, name: str) -> str:
        """A value quantized to i8 row by row, by what is in the row."""
        size = self.values[name].shape[-1]
        largest = self.add("ReduceMax", [self.add("Abs", [name]), self.constant([-1])], keepdims=1)
        scale = self.add(
            "Div", [self.add("Max", [largest, self.constant(np.float32(1e-6))]), self.constant(np.float32(127))]
        )
        self.output(scale, T.FLOAT)
        q = self.add("QuantizeLinear", [name, scale], axis=-1, block_size=size, output_dtype=T.INT8)
        self.output(q, T.INT8)
        return self.add("DequantizeLinear", [q, scale], axis=-1, block_size=size)

    def integers(self, name: str) -> str:
        """A product of integers that is scaled afterwards: dynamic quantization as ONNX Runtime's tools write it."""
        q = self.add("DynamicQuantizeLinear", [name], 3)
        for output, kind in ((q, T.UINT8), (f"{q}_1", T.FLOAT), (f"{q}_2", T.UINT8)):
            self.output(output, kind)
        depth, columns = self.values[name].shape[-1], int(self.random.integers(1, 50))
        kind = self.one_of(np.int8, np.uint8)
        w = self.random.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, (depth, columns)).astype(kind)
        scale = np.float32(self.random.uniform(0.5, 2, self.one_of((), (columns,))) / 70 / np.sqrt(depth))
        zero = self.constant(np.array(128 if kind is np.uint8 else 0, kind))
        y = self.add("MatMulInteger", [q, self.constant(w), f"{q}_2", zero])
        return self.add("Mul", [self.add("Cast", [y], to=T.FLOAT), self.add("Mul", [f"{q}_1", self.constant(scale)])])

    def weight(self, shape: Sequence[int], axis: int) -> tuple[str, Array]:
        """A constant of 8 bits through DQ, and its scale; per tensor or per channel, with zero points or without."""
        kind = self.one_of(T.INT8, T.INT8, T.UINT8)
        least, most = reference.limits(kind)
        dtype = np.int8 if kind == T.INT8 else np.uint8
        whole = self.random.integers(least, most + 1, shape).astype(dtype)
        count = shape[axis] if self.chance(0.6) else 0
        depth = int(np.prod(shape)) // shape[axis]
        scale = (self.random.uniform(0.5, 2, count or ()) / 70 / np.sqrt(depth)).astype(np.float32)
        given = [self.constant(whole), self.constant(scale)]
        if kind == T.UINT8 or self.chance(0.3):
            middle = 128 if kind == T.UINT8 else 0
            given.append(self.constant(self.random.integers(middle - 9, middle + 9, count or ()).astype(dtype)))
        return self.add("DequantizeLinear", given, axis=axis), scale

    def blocks(self, depth: int, columns: int) -> str:
        """A matrix of 4 (or 8) bits with a scale for each group of rows."""
        group = self.one_of(16, 32, depth)
        kind = self.one_of(T.INT4, T.UINT4, T.INT8)
        least, most = reference.limits(kind)
        whole = self.random.integers(least, most + 1, (depth, columns))
        rows = -(-depth // group)
        scale = (self.random.uniform(0.5, 2, (rows, columns)) / most / np.sqrt(depth)).astype(np.float32)
        given = [self.constant(whole.astype(np.int8) if kind == T.INT8 else whole, kind), self.constant(scale)]
        if kind == T.UINT4:
            given.append(self.constant(self.random.integers(0, 16, (rows, columns)), kind))
        return self.add("DequantizeLinear", given, axis=0, block_size=group)

    # -- layers ------------------------------------------------------------------------------------------------------

    def activation(self, name: str) -> str:
        match self.one_of("", "", "Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid"):
            case "":
                return name
            case "Clip":
                return self.add("Clip", [name, self.constant(np.float32(0)), self.constant(np.float32(1.5))])
            case op:
                return self.add(op, [name])

    def bias(self, count: int, scale: Array) -> str | None:
        """Of 32 bits, with the scale of the products or another one; of float; or none."""
        match self.one_of("none", "float", "integer"):
            case "none":
                return None
            case "float":
                return self.constant(self.random.standard_normal(count).astype(np.float32))
        whole = self.random.integers(-2000, 2000, count).astype(np.int32)
        axis = {"axis": 0} if np.ndim(scale) else {}
        return self.add(
            "DequantizeLinear", [self.constant(whole), self.constant(np.float32(scale) * np.float32(0.02))], **axis
        )

    def conv(self, name: str) -> str:
        _, channels, height, width = self.values[name].shape
        group = self.one_of(1, 1, 1, channels, *([2] if channels % 2 == 0 else []))
        filters = group * int(self.random.integers(1, 4)) if group > 1 else int(self.random.integers(1, 37))
        kernel = [int(k) for k in self.one_of((1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (2, 2))]
        strides, dilations = self.one_of([1, 1], [1, 1], [2, 2], [2, 1]), self.one_of([1, 1], [1, 1], [2, 2])
        pads = [int(p) for p in self.random.integers(0, 3, 4)] if max(kernel) > 1 else [0, 0, 0, 0]
        sizes = [n + pads[d] + pads[d + 2] for d, n in enumerate((height, width))]
        if any((k - 1) * d + 1 > n for k, d, n in zip(kernel, dilations, sizes, strict=True)):
            kernel, pads = [1, 1], [0, 0, 0, 0]
        w, scale = self.weight([filters, channels // group, *kernel], 0)
        bias = self.bias(filters, scale)
        shape = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "kernel_shape": kernel}
        return self.add("Conv", [name, w, *([bias] if bias else [])], **shape)

    def matmul(self, name: str, blocks: bool = False) -> str:
        depth, columns = self.values[name].shape[-1], int(self.random.integers(1, 70))
        if blocks:
            return self.add("MatMul", [name, self.blocks(depth, columns)])
        if self.values[name].ndim == 2 and self.chance(0.4):
            w, scale = self.weight([columns, depth], 0)
            bias = self.bias(columns, scale)
            return self.add("Gemm", [name, w, *([bias] if bias else [])], transB=1)
        w, scale = self.weight([depth, columns], 1)
        y = self.add("MatMul", [name, w])
        bias = self.bias(columns, scale)
        return y if bias is None else self.add("Add", [y, bias] if self.chance(0.7) else [bias, y])

    def model(self, inputs: dict[str, Sequence[int | str]]) -> onnx.ModelProto:
        """The network as a model."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(n, T.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, k, [None] * rank) for n, (k, rank) in self.outputs.items()],
            list(self.constants.values()),
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(made, full_check=True)
        return made


Made = tuple[onnx.ModelProto, list[dict[str, Array]]]


def images(seed: int, depth: int = 4) -> Made:
    """A convolutional network with residuals and pools, and two samples of unequal batch."""
    n = Network(np.random.default_rng(seed))
    channels, height, width = (int(n.random.integers(*r)) for r in ((1, 9), (5, 14), (5, 14)))
    x = n.random.standard_normal((2, channels, height, width)).astype(np.float32)
    n.values["x"] = reference.wide(x)
    current = n.quantized("x")
    earlier: list[str] = [current]
    for _ in range(depth):
        match n.one_of("conv", "conv", "conv", "average", "concat"):
            case "average" if min(n.values[current].shape[2:]) > 2:
                y = n.add("AveragePool", [current], kernel_shape=[2, 2], strides=[1, 1], pads=[0, 1, 1, 0])
            case "concat":
                same = [e for e in earlier if n.values[e].shape[2:] == n.values[current].shape[2:]]
                y = n.add("Concat", [current, same[0]], axis=1)
            case _:
                y = n.conv(current)
        if n.chance(0.5):
            y = n.activation(y)
        for other in earlier:
            if n.values[other].shape == n.values[y].shape and n.chance(0.7):
                y = n.add("Add", [y, other] if n.chance(0.5) else [other, y])
                break
        current = n.quantized(n.activation(y))
        earlier.append(current)
    flat = n.add("Flatten", [n.quantized(n.add("GlobalAveragePool", [current]))])
    n.output(n.matmul(flat), T.FLOAT)
    samples = [{"x": x}, {"x": n.random.standard_normal((3, *x.shape[1:])).astype(np.float32)}]
    return n.model({"x": ["N", *x.shape[1:]]}), samples


def rows(seed: int, depth: int = 4) -> Made:
    """Products of rows: static, by row, blocks of 4 bits, attention-like products of activations."""
    n = Network(np.random.default_rng(seed))
    size = n.one_of(16, 32, 48, 64, 7, 33)
    x = n.random.standard_normal((2, 5, size)).astype(np.float32)
    n.values["x"] = reference.wide(x)
    current, before = "x", "x"
    for _ in range(depth):
        match n.one_of("static", "static", "rows", "weights", "blocks", "scores", "integers"):
            case "static":
                y = n.matmul(n.quantized(current))
            case "rows":
                y = n.matmul(n.by_row(current))
            case "weights":
                y = n.matmul(current, blocks=n.chance(0.6))
            case "integers":
                y = n.integers(current)
            case "blocks":
                y = n.matmul(n.by_row(current), blocks=True)
            case _:
                keys = n.add("Transpose", [n.quantized(n.matmul(current))], perm=[0, 2, 1])
                queries = n.quantized(n.matmul(current))
                least = min(n.values[keys].shape[1], n.values[queries].shape[2])
                if n.values[keys].shape[1] != n.values[queries].shape[2] or not least:
                    keys = n.add("Transpose", [queries], perm=[0, 2, 1])
                scores = n.add("Softmax", [n.add("MatMul", [queries, keys])], axis=-1)
                y = n.add("MatMul", [n.quantized(scores), n.quantized(current)])
        y = n.activation(y)
        for other in (before, current):
            if n.values[other].shape == n.values[y].shape and n.chance(0.5):
                y = n.add("Add", [y, other])
                break
        before, current = current, y
    n.output(current, T.FLOAT)
    samples = [{"x": x}, {"x": n.random.standard_normal((1, 9, size)).astype(np.float32)}]
    return n.model({"x": ["B", "S", size]}), samples
