"""Layers of ResNet-50, BERT-base and Llama-7B at their full sizes, as small ONNX graphs, with inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto
from zoo_rows import ROOT, Array

sys.path.insert(0, str(ROOT))

from models.builder import GraphBuilder, save_model, seeded
from models.layers import dense, gelu

Describe = Callable[[GraphBuilder], None]
#: Opset that has RotaryEmbedding and RMSNormalization.
_OPSET = 23


@dataclass(frozen=True, slots=True)
class Layer:
    """A graph of one layer. ``shapes``: of its inputs, open sizes as ``--input-shape`` takes them; ``sizes``: what they
    are here; ``precisions``: those that it is tried in; ``halves``: it is written in f16 itself."""

    name: str
    says: str
    describe: Describe
    shapes: Mapping[str, tuple[int | str, ...]]
    sizes: Mapping[str, int]
    precisions: tuple[str, ...] = ("fp16", "int8")
    halves: bool = False

    def build(self, folder: Path) -> Path:
        """Write the graph and return the path of its ``.onnx`` file."""
        return save_model(folder / "layer.onnx", self.describe, opset=_OPSET)

    def feed(self, seed: int = 0) -> dict[str, Array]:
        """Normal inputs."""
        random = np.random.default_rng(seed)
        sizes = {name: [_size(s, self.sizes) for s in shape] for name, shape in self.shapes.items()}
        dtype = np.float16 if self.halves else np.float32
        return {name: random.standard_normal(shape, dtype=np.float32).astype(dtype) for name, shape in sizes.items()}


def _size(size: int | str, sizes: Mapping[str, int]) -> int:
    return size if isinstance(size, int) else sizes[size.partition("=")[0]]


def _declared(b: GraphBuilder, shapes: Mapping[str, Sequence[int | str]], dtype: int) -> list[str]:
    named = {n: [s if isinstance(s, int) else s.partition("=")[0] for s in shape] for n, shape in shapes.items()}
    return [b.input(name, shape, dtype) for name, shape in named.items()]


def _layer(
    name: str,
    says: str,
    body: Callable[[GraphBuilder, list[str]], str],
    shapes: Mapping[str, tuple[int | str, ...]],
    result: Sequence[int | str],
    halves: bool = False,
    **sizes: int,
) -> Layer:
    dtype = TensorProto.FLOAT16 if halves else TensorProto.FLOAT

    def describe(b: GraphBuilder) -> None:
        made = body(b, _declared(b, shapes, dtype))
        b.node("Identity", [made], "y")
        b.output("y", result, dtype)

    return Layer(name, says, describe, shapes, sizes, ("fp16",) if halves else ("fp16", "int8"), halves)


def _convolution(
    name: str, inputs: int, outputs: int, kernel: int, pixels: int, *, stride: int = 1, more: str = ""
) -> Layer:
    """A convolution of one image, then a ReLU; with a residual before that where ``more`` says so."""
    out = pixels // stride
    x: tuple[int | str, ...] = ("batch=1..32", inputs, pixels, pixels)
    shapes = {"x": x} | ({"r": ("batch=1..32", outputs, out, out)} if more == "residual" else {})

    def body(b: GraphBuilder, given: list[str]) -> str:
        weight = b.seeded("w", (outputs, inputs, kernel, kernel), (2 / (inputs * kernel * kernel)) ** 0.5)
        pads = [kernel // 2] * 2 + [(kernel - 1) // 2] * 2 if stride == 1 else [kernel // 2] * 4
        bias = b.seeded("b", (outputs,), 0.1)
        y = b.node("Conv", [given[0], weight, bias], "conv", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        return b.node("Relu", [b.node("Add", [y, given[1]], "sum") if len(given) > 1 else y], "relu")

    says = f"1x{pixels}x{pixels}x{inputs} to {outputs}" + (f", step {stride}" if stride > 1 else "")
    return _layer(name, says, body, shapes, ("batch", outputs, out, out), batch=1)


def _dense(name: str, rows: int, inputs: int, outputs: int, *, biased: bool = True, then: str = "") -> Layer:
    def body(b: GraphBuilder, given: list[str]) -> str:
        if not biased:
            return b.node("MatMul", [given[0], b.seeded("w", (inputs, outputs))], "product")
        y = dense(b, given[0], "w", (inputs, outputs), "dense")
        if then == "residual":
            return b.node("Add", [y, given[1]], "sum")
        return gelu(b, y, "gelu") if then == "gelu" else y

    shapes: dict[str, tuple[int | str, ...]] = {"x": ("rows=1..4096", inputs)}
    if then == "residual":
        shapes["r"] = ("rows=1..4096", outputs)
    says = f"{rows}x{inputs} to {outputs}" + (f", {then}" if then else "")
    return _layer(name, says, body, shapes, ("rows", outputs), rows=rows)


def _attention(name: str, heads: int, queries: int, keys: int, depth: int, batch: int) -> Layer:
    """``softmax(Q Kᵀ / √depth) V``; one query is a step of decoding with a cache of ``keys``."""
    kv = "keys=1..2048" if queries != keys else "queries=1..2048"
    q = "queries=1..2048" if queries != 1 else 1
    shapes: dict[str, tuple[int | str, ...]] = {"q": ("batch=1..32", heads, q, depth)}
    shapes |= dict.fromkeys(("k", "v"), ("batch=1..32", heads, kv, depth))

    def body(b: GraphBuilder, given: list[str]) -> str:
        turned = b.node("Transpose", [given[1]], "turned", perm=[0, 1, 3, 2])
        scores = b.node("MatMul", [given[0], turned], "scores")
        scaled = b.node("Mul", [scores, b.constant("scale", depth**-0.5, np.float16)], "scaled")
        return b.node("MatMul", [b.node("Softmax", [scaled], "shares", axis=-1), given[2]], "mixed")

    result = ("batch", heads, "queries" if queries != 1 else 1, depth)
    says = f"{batch}x{heads}x{queries}x{depth}, {keys} keys"
    return _layer(name, says, body, shapes, result, True, batch=batch, queries=queries, keys=keys)


def _norm(name: str, rows: int, width: int, rms: bool) -> Layer:
    def body(b: GraphBuilder, given: list[str]) -> str:
        if rms:
            return b.node("RMSNormalization", [given[0], _half(b, "w", width, 1.0)], "norm", epsilon=1e-6)
        weights = [_half(b, "w", width, 1.0), _half(b, "b", width, 0.0)]
        return b.node("LayerNormalization", [given[0], *weights], "norm", epsilon=1e-5)

    return _layer(name, f"{rows}x{width}", body, {"x": ("rows=1..4096", width)}, ("rows", width), True, rows=rows)


def _half(b: GraphBuilder, name: str, width: int, centre: float) -> str:
    return b.weight(name, seeded(name, (width,), 0.1, centre).astype(np.float16))


def _rotary(name: str, heads: int, tokens: int, depth: int) -> Layer:
    """Rotary positions of ``tokens`` tokens; cosines and sines are given."""
    shapes: dict[str, tuple[int | str, ...]] = {"x": (1, heads, "tokens=1..4096", depth)}
    shapes |= dict.fromkeys(("cos", "sin"), (1, "tokens=1..4096", depth // 2))

    def body(b: GraphBuilder, given: list[str]) -> str:
        return b.node("RotaryEmbedding", given, "rotated")

    result = (1, heads, "tokens", depth)
    return _layer(name, f"1x{heads}x{tokens}x{depth}", body, shapes, result, True, tokens=tokens)


#: In the order of the table.
LAYERS: tuple[Layer, ...] = (
    _dense("llama-7b projection", 1, 4096, 4096, biased=False),
    _dense("llama-7b projection", 16, 4096, 4096, biased=False),
    _dense("llama-7b up", 1, 4096, 11008, biased=False),
    _dense("llama-7b up", 16, 4096, 11008, biased=False),
    _norm("llama-7b RMS norm", 16, 4096, rms=True),
    _rotary("llama-7b rotary", 32, 16, 128),
    _attention("llama-7b attention, decoding", 32, 1, 512, 128, 1),
    _dense("bert-base projection", 1024, 768, 768),
    _dense("bert-base up", 1024, 768, 3072, then="gelu"),
    _dense("bert-base down", 1024, 3072, 768, then="residual"),
    _attention("bert-base attention", 12, 128, 128, 64, 8),
    _norm("bert-base layer norm", 1024, 768, rms=False),
    _convolution("resnet-50 first", 3, 64, 7, 224, stride=2),
    _convolution("resnet-50 3x3", 64, 64, 3, 56),
    _convolution("resnet-50 3x3", 256, 256, 3, 14),
    _convolution("resnet-50 1x1, residual", 64, 256, 1, 56, more="residual"),
)
