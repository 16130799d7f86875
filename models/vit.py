"""A vision transformer with seeded weights, spelled as exporters spell it.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.builder import GraphBuilder, save_model
from models.layers import bias, dense, gelu, joined_sizes, layer_norm, size_of


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes, named as in ``config.json``; the defaults are those of ViT-B/16."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    num_labels: int = 1000


SMALL = Config(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    image_size=32,
    patch_size=8,
    num_labels=10,
)


def save(path: Path, config: Config) -> Path:
    """Write the model at ``path``: ``image [batch, 3, size, size]`` to ``logits [batch, labels]``."""
    c, h = config, config.hidden_size

    def describe(b: GraphBuilder) -> None:
        b.input("image", ["batch", c.num_channels, c.image_size, c.image_size])
        x = _embed(b, c)
        for layer in range(c.num_hidden_layers):
            x = _layer(b, x, layer, c)
        x = layer_norm(b, x, "layernorm", h, c.layer_norm_eps, "states")
        first = b.node("Gather", [x, b.constant("i64_scalar_0", 0, np.int64)], "first", axis=1)
        weight = b.seeded("classifier.weight", (c.num_labels, h), h**-0.5)
        b.node("Gemm", [first, weight, bias(b, "classifier", c.num_labels)], "logits", transB=1)
        b.output("logits", ["batch", c.num_labels])

    return save_model(path, describe)


def _embed(b: GraphBuilder, c: Config) -> str:
    """Patches by a convolution, a class token before them, positions added."""
    h, p = c.hidden_size, c.patch_size
    own = "embeddings.patch_embeddings.projection"
    weight = b.seeded(f"{own}.weight", (h, c.num_channels, p, p), (c.num_channels * p * p) ** -0.5)
    patches = b.node("Conv", ["image", weight, bias(b, own, h)], "patches", kernel_shape=[p, p], strides=[p, p])
    batch = size_of(b, "image", 0, "batch")
    flat = b.node("Reshape", [patches, joined_sizes(b, [batch, h, -1], "patches/sizes")], "patches/flat")
    rows = b.node("Transpose", [flat], "patches/rows", perm=[0, 2, 1])
    token = b.seeded("embeddings.cls_token", (1, 1, h), 1.0)
    tokens = b.node("Expand", [token, joined_sizes(b, [batch, 1, h], "tokens/sizes")], "tokens")
    both = b.node("Concat", [tokens, rows], "tokens_patches", axis=1)
    count = (c.image_size // p) ** 2 + 1
    return b.node("Add", [both, b.seeded("embeddings.position_embeddings", (1, count, h), 0.3)], "embedded")


def _heads(b: GraphBuilder, x: str, own: str, name: str, perm: list[int], c: Config) -> str:
    """A projection, split into heads by sizes that are read from it."""
    h = c.hidden_size
    y = dense(b, x, own, (h, h), f"{name}/projected")
    sizes = [size_of(b, y, 0, f"{name}/batch"), -1, c.num_attention_heads, h // c.num_attention_heads]
    split = b.node("Reshape", [y, joined_sizes(b, sizes, f"{name}/sizes")], f"{name}/split")
    turned = b.node("Transpose", [split], f"{name}/turned", perm=perm)
    if own.endswith("value"):
        return turned
    # scaled_dot_product_attention is exported with the root of the scale on both sides
    root = b.constant("root_scale", (h // c.num_attention_heads) ** -0.25)
    return b.node("Mul", [turned, root], name)


def _layer(b: GraphBuilder, x: str, layer: int, c: Config) -> str:
    own, name, h = f"encoder.layer.{layer}", f"layer{layer}", c.hidden_size
    residual = (2 * c.num_hidden_layers) ** -0.5  # what the branches add up to is of order 1
    before = layer_norm(b, x, f"{own}.layernorm_before", h, c.layer_norm_eps, f"{name}/before")
    part = f"{own}.attention.attention"
    query = _heads(b, before, f"{part}.query", f"{name}/query", [0, 2, 1, 3], c)
    key = _heads(b, before, f"{part}.key", f"{name}/key", [0, 2, 3, 1], c)
    value = _heads(b, before, f"{part}.value", f"{name}/value", [0, 2, 1, 3], c)
    scores = b.node("MatMul", [query, key], f"{name}/scores")
    weights = b.node("Softmax", [scores], f"{name}/weights", axis=-1)
    context = b.node("MatMul", [weights, value], f"{name}/context")
    last = b.node("Transpose", [context], f"{name}/heads_last", perm=[0, 2, 1, 3])
    sizes = [size_of(b, last, 0, f"{name}/batch"), size_of(b, last, 1, f"{name}/count"), h]
    joined = b.node("Reshape", [last, joined_sizes(b, sizes, f"{name}/sizes")], f"{name}/joined")
    out = dense(b, joined, f"{own}.attention.output.dense", (h, h), f"{name}/attention", residual)
    middle = b.node("Add", [out, x], f"{name}/residual1")
    after = layer_norm(b, middle, f"{own}.layernorm_after", h, c.layer_norm_eps, f"{name}/after")
    wide = dense(b, after, f"{own}.intermediate.dense", (h, c.intermediate_size), f"{name}/wide")
    active = gelu(b, wide, f"{name}/gelu")
    narrow = dense(b, active, f"{own}.output.dense", (c.intermediate_size, h), f"{name}/narrow", 2 * residual)
    return b.node("Add", [narrow, middle], f"{name}/residual2")
