"""GPT-2 with seeded weights as PyTorch exports it: flattened ``Conv1D``, a sliced causal buffer, ``Pow`` in GELU.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from models.builder import GraphBuilder, save_model
from models.layers import bias, joined_sizes, layer_norm, size_of

MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes, named as in ``config.json``; the defaults are those of GPT-2 small."""

    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_positions: int = 1024
    vocab_size: int = 50257
    layer_norm_epsilon: float = 1e-5


SMALL = Config(n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=301)


def save(path: Path, config: Config) -> Path:
    """Write the model at ``path``: ``input_ids``, ``attention_mask`` to ``logits [batch, sequence, vocabulary]``."""
    c, h = config, config.n_embd

    def describe(b: GraphBuilder) -> None:
        for name in ("input_ids", "attention_mask"):
            b.input(name, ["batch", "sequence"], TensorProto.INT64)
        words = b.node("Gather", [b.seeded("wte.weight", (c.vocab_size, h), 0.1), "input_ids"], "words")
        length = size_of(b, "input_ids", 1, "length")
        zero, step = b.constant("i64_scalar_0", 0, np.int64), b.constant("i64_scalar_1", 1, np.int64)
        positions = b.node("Range", [zero, length, step], "range")
        positions = b.node("Unsqueeze", [positions, b.integers(0)], "positions")
        places = b.node("Gather", [b.seeded("wpe.weight", (c.n_positions, h), 0.1), positions], "places")
        x = b.node("Add", [words, places], "embedded")
        mask = _mask(b)
        b.weight("bias", np.tril(np.ones((1, 1, c.n_positions, c.n_positions), np.bool_)))
        for layer in range(c.n_layer):
            x = _layer(b, x, mask, layer, c)
        x = layer_norm(b, x, "ln_f", h, c.layer_norm_epsilon, "states")
        table = b.node("Transpose", ["wte.weight"], "lm_head", perm=[1, 0])
        b.node("MatMul", [x, table], "logits")
        b.output("logits", ["batch", "sequence", c.vocab_size])

    return save_model(path, describe)


def _mask(b: GraphBuilder) -> str:
    """The additive mask of absent tokens, ``[batch, 1, 1, sequence]``."""
    wide = b.node("Unsqueeze", ["attention_mask", b.integers(1)], "mask/1")
    wide = b.node("Unsqueeze", [wide, b.integers(2)], "mask/2")
    present = b.node("Cast", [wide], "mask/float", to=TensorProto.FLOAT)
    absent = b.node("Sub", [b.constant("one", 1.0), present], "mask/absent")
    return b.node("Mul", [absent, b.constant("masked", MASKED)], "mask")


def _conv1d(b: GraphBuilder, x: str, own: str, sizes: tuple[int, int], name: str, gain: float = 1.0) -> str:
    """``Conv1D``: rows of all batches in one Gemm."""
    shape = [size_of(b, x, axis, f"{name}/size{axis}") for axis in (0, 1)]
    flat = b.node("Reshape", [x, b.integers(-1, sizes[0])], f"{name}/flat")
    weight = b.seeded(f"{own}.weight", sizes, gain * sizes[0] ** -0.5)
    product = b.node("Gemm", [flat, weight, bias(b, own, sizes[1])], f"{name}/gemm")
    return b.node("Reshape", [product, joined_sizes(b, [*shape, sizes[1]], f"{name}/sizes")], name)


def _gelu(b: GraphBuilder, x: str, name: str) -> str:
    """``0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))``."""
    cube = b.node("Pow", [x, b.constant("three", 3.0)], f"{name}/cube")
    inner = b.node(
        "Add", [x, b.node("Mul", [cube, b.constant("gelu_cubic", 0.044715)], f"{name}/cubic")], f"{name}/sum"
    )
    tanh = b.node(
        "Tanh", [b.node("Mul", [inner, b.constant("gelu_root", np.sqrt(2 / np.pi))], f"{name}/in")], f"{name}/t"
    )
    half = b.node("Mul", [x, b.constant("half", 0.5)], f"{name}/half")
    return b.node("Mul", [half, b.node("Add", [tanh, b.constant("one", 1.0)], f"{name}/cdf2")], name)


def _causal(b: GraphBuilder, query: str, key: str, name: str) -> str:
    """The rows and columns of the causal buffer that these positions have, ``[1, 1, queries, keys]``."""
    queries, keys = size_of(b, query, 2, f"{name}/queries"), size_of(b, key, 2, f"{name}/keys")
    start = b.node("Sub", [keys, queries], f"{name}/start")
    start, end = (b.node("Unsqueeze", [s, b.integers(0)], f"{s}/1d") for s in (start, keys))
    rows = b.node("Slice", ["bias", start, end, b.integers(2), b.integers(1)], f"{name}/rows")
    return b.node("Slice", [rows, b.integers(0), end, b.integers(3), b.integers(1)], f"{name}/buffer")


def _attention(b: GraphBuilder, x: str, mask: str, own: str, name: str, c: Config) -> str:
    h, head = c.n_embd, c.n_embd // c.n_head
    fused = _conv1d(b, x, f"{own}.c_attn", (h, 3 * h), f"{name}/qkv")
    parts = b.nodes_of("Split", [fused, b.integers(h, h, h)], [f"{name}/{p}" for p in "qkv"], axis=2)
    turned = []
    for part in parts:
        sizes = [size_of(b, part, axis, f"{part}/size{axis}") for axis in (0, 1)]
        split = b.node("Reshape", [part, joined_sizes(b, [*sizes, c.n_head, head], f"{part}/sizes")], f"{part}/split")
        turned.append(b.node("Transpose", [split], f"{part}/heads", perm=[0, 2, 1, 3]))
    query, key, value = turned
    key_turned = b.node("Transpose", [key], f"{name}/key", perm=[0, 1, 3, 2])
    products = b.node("MatMul", [query, key_turned], f"{name}/products")
    scores = b.node("Div", [products, b.constant("root_head", np.sqrt(head))], f"{name}/scores")
    causal = b.node("Where", [_causal(b, query, key, name), scores, b.constant("masked", MASKED)], f"{name}/causal")
    weights = b.node("Softmax", [b.node("Add", [causal, mask], f"{name}/masked")], f"{name}/weights", axis=-1)
    context = b.node("MatMul", [weights, value], f"{name}/context")
    last = b.node("Transpose", [context], f"{name}/heads_last", perm=[0, 2, 1, 3])
    sizes = [size_of(b, last, axis, f"{name}/size{axis}") for axis in (0, 1)]
    joined = b.node("Reshape", [last, joined_sizes(b, [*sizes, h], f"{name}/sizes")], f"{name}/joined")
    return _conv1d(b, joined, f"{own}.c_proj", (h, h), f"{name}/out", (2 * c.n_layer) ** -0.5)


def _layer(b: GraphBuilder, x: str, mask: str, layer: int, c: Config) -> str:
    own, name, h = f"h.{layer}", f"layer{layer}", c.n_embd
    before = layer_norm(b, x, f"{own}.ln_1", h, c.layer_norm_epsilon, f"{name}/before")
    middle = b.node("Add", [_attention(b, before, mask, f"{own}.attn", name, c), x], f"{name}/residual1")
    after = layer_norm(b, middle, f"{own}.ln_2", h, c.layer_norm_epsilon, f"{name}/after")
    wide = _gelu(b, _conv1d(b, after, f"{own}.mlp.c_fc", (h, 4 * h), f"{name}/wide"), f"{name}/gelu")
    gain = 2 * (2 * c.n_layer) ** -0.5
    return b.node("Add", [middle, _conv1d(b, wide, f"{own}.mlp.c_proj", (4 * h, h), f"{name}/narrow", gain)], name)
