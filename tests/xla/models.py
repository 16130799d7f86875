"""Small models for tests of whole artifacts of programs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

WIDTH = 8


def weight(seed: int = 0) -> np.ndarray:
    """A square weight."""
    return np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)).astype(np.float32)


def parsed(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text of opset 21, with weights by name."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def product() -> onnx.ModelProto:
    """A product and a maximum, with rows of open number."""
    text = f"g (float[N, {WIDTH}] x) => (float[N, {WIDTH}] y) {{ a = MatMul(x, w) y = Relu(a) }}"
    return parsed(text, w=weight())


def with_host() -> onnx.ModelProto:
    """The product, and what the device cannot say: where it is not 0."""
    text = f"""g (float[N, {WIDTH}] x) => (float[N, {WIDTH}] y, int64[2, n] found)
        {{ a = MatMul(x, w) y = Relu(a) found = NonZero(y) }}"""
    return parsed(text, w=weight())


def counter() -> onnx.ModelProto:
    """A state that grows, and twice it."""
    text = f"""g (float[{WIDTH}] past, float[{WIDTH}] x) => (float[{WIDTH}] present, float[{WIDTH}] twice)
        {{ present = Add(past, x) twice = Add(present, present) }}"""
    return parsed(text)


def narrow(kind: str) -> onnx.ModelProto:
    """An input and an output of a type, through f32."""
    number = {"bfloat16": 16, "float8e4m3fn": 17, "float8e5m2": 19, "float16": 10, "int4": 22, "uint4": 21}[kind]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=1),
            helper.make_node("Add", ["wide", "wide"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["y"], to=number),
        ],
        "g",
        [helper.make_tensor_value_info("x", number, [3])],
        [helper.make_tensor_value_info("y", number, [3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
