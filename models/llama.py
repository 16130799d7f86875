"""A Llama of 125 million parameters with seeded weights, as prefill and as one step of decoding,
with a cache that grows or one of fixed capacity.

Spelled as exporters spell it: decomposed RMS norm and rotary embedding, key and value heads repeated by ``Expand`` and
``Reshape``, the cache as plain inputs and outputs; into one of fixed capacity ``TensorScatter`` (opset 24) writes.
Touvron et al., arXiv:2302.13971; grouped queries: Ainslie et al., arXiv:2305.13245; rotary positions: Su et al.,
arXiv:2104.09864.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from onnx import TensorProto

from models.builder import OPSET, GraphBuilder, save_model
from models.layers import joined_sizes, size_of

MASKED = float(np.finfo(np.float32).min)
LAST = 2**63 - 1  # the end of a slice that goes to the end
TENSOR_SCATTER = 24  # the opset that has it first


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes, named as in ``config.json``; the vocabulary, epsilon and rotary base are those of Llama."""

    hidden_size: int = 768
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int = 4
    vocab_size: int = 32000
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.hidden_size // self.num_attention_heads


SMALL = Config(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=301,
)


def save_prefill(path: Path, config: Config) -> Path:
    """Write the model for a whole prompt at ``path``, its weights in ``llama.weights`` beside it.

    ``input_ids`` and ``attention_mask`` ``[batch, sequence]`` to ``logits [batch, sequence, vocabulary]`` and
    ``present.<layer>.key`` and ``.value`` ``[batch, kv heads, sequence, head]``.
    """
    return _save(path, config, "none")


def save_decode(path: Path, config: Config) -> Path:
    """Write the model for one more token at ``path``; it shares the weights of :func:`save_prefill` beside it.

    ``input_ids [batch, 1]``, ``attention_mask [batch, past + 1]``, ``past_key_values.<layer>.key`` and ``.value``
    ``[batch, kv heads, past, head]`` to ``logits [batch, 1, vocabulary]`` and the ``present`` ones, one longer.
    """
    return _save(path, config, "growing")


def save_static(path: Path, config: Config, new: int | str = 1) -> Path:
    """Write the model for ``new`` tokens and a cache of fixed capacity; it shares the weights of the others beside it.

    ``input_ids [batch, new]``, ``position [batch]``, where each row's first new token goes (at most capacity less
    ``new``), and ``past_key_values.<layer>.key`` and ``.value`` ``[batch, kv heads, capacity, head]`` to ``logits
    [batch, new, vocabulary]`` and ``present`` ones of equal shape: the past with the new tokens written into it. A
    token sees what stands at its position and before; what a cache holds beyond is multiplied with 0: it must be
    finite.
    """
    return _save(path, config, "fixed", new)


#: What is known of earlier tokens: nothing, all of them, or as many as were written into a cache with more room.
Cache = Literal["none", "growing", "fixed"]


def _save(path: Path, config: Config, cache: Cache, new: int | str = 1) -> Path:
    def describe(b: GraphBuilder) -> None:
        _Llama(b, config, cache, new).build()

    return save_model(path, describe, "llama.weights", TENSOR_SCATTER if cache == "fixed" else OPSET)


class _Llama:
    def __init__(self, b: GraphBuilder, config: Config, cache: Cache, new: int | str):
        self.b, self.c, self.cache = b, config, cache
        self.new = "sequence" if cache == "none" else new
        self.past, self.total = {
            "none": ("", "sequence"),
            "growing": ("past", "past + 1"),
            "fixed": ("capacity", "capacity"),
        }[cache]

    def build(self) -> None:
        b, c = self.b, self.c
        b.input("input_ids", ["batch", self.new], TensorProto.INT64)
        if self.cache == "fixed":
            b.input("position", ["batch"], TensorProto.INT64)
        else:
            b.input("attention_mask", ["batch", self.total], TensorProto.INT64)
        if self.past:
            for layer in range(c.num_hidden_layers):
                for part in ("key", "value"):
                    sizes = ["batch", c.num_key_value_heads, self.past, c.head_dim]
                    b.input(f"past_key_values.{layer}.{part}", sizes)
        x = b.node(
            "Gather", [b.seeded("embed_tokens.weight", (c.vocab_size, c.hidden_size), 1.0), "input_ids"], "words"
        )
        positions = self.positions()
        mask, turns = self.mask(positions), self.rotation(positions)
        for layer in range(c.num_hidden_layers):
            x = self.layer(x, mask, turns, layer)
        self.linear(self.norm(x, "norm", "states"), "lm_head", (c.hidden_size, c.vocab_size), "logits")
        b.output("logits", ["batch", self.new, c.vocab_size])
        for layer in range(c.num_hidden_layers):
            for part in ("key", "value"):
                b.output(f"present.{layer}.{part}", ["batch", c.num_key_value_heads, self.total, c.head_dim])

    def linear(self, x: str, own: str, sizes: tuple[int, int], name: str, gain: float = 1.0) -> str:
        return self.b.node("MatMul", [x, self.b.seeded(f"{own}.weight", sizes, gain * sizes[0] ** -0.5)], name)

    def norm(self, x: str, own: str, name: str) -> str:
        """``x / √(mean(x²) + ε) · weight``."""
        b, c = self.b, self.c
        square = b.node("Pow", [x, b.constant("two", 2.0)], f"{name}/square")
        mean = b.node("ReduceMean", [square, b.integers(-1)], f"{name}/mean", keepdims=1)
        root = b.node(
            "Sqrt", [b.node("Add", [mean, b.constant("epsilon", c.rms_norm_eps)], f"{name}/eps")], f"{name}/root"
        )
        scaled = b.node("Mul", [x, b.node("Reciprocal", [root], f"{name}/scale")], f"{name}/scaled")
        return b.node("Mul", [b.seeded(f"{own}.weight", (c.hidden_size,), 0.1, 1.0), scaled], name)

    def positions(self) -> str:
        """Where the new tokens stand, ``[new]``; ``[batch, new]`` where each row has a place of its own."""
        b = self.b
        if self.cache == "fixed":
            starts = b.node("Unsqueeze", ["position", b.integers(1)], "positions/starts")
            if self.new == 1:
                return starts
            zero, one = b.constant("i64_scalar_0", 0, np.int64), b.constant("i64_scalar_1", 1, np.int64)
            steps = b.node("Range", [zero, size_of(b, "input_ids", 1, "new"), one], "positions/steps")
            return b.node("Add", [starts, steps], "positions")
        new = size_of(b, "input_ids", 1, "new")
        start = size_of(b, "past_key_values.0.key", 2, "past") if self.past else b.constant("i64_scalar_0", 0, np.int64)
        end = b.node("Add", [start, new], "end") if self.past else new
        return b.node("Range", [start, end, b.constant("i64_scalar_1", 1, np.int64)], "positions")

    def mask(self, positions: str) -> str:
        """0 where a query sees a key, the least number elsewhere: ``[batch, 1, new, total]``."""
        b, fixed = self.b, self.cache == "fixed"
        zero, one = b.constant("i64_scalar_0", 0, np.int64), b.constant("i64_scalar_1", 1, np.int64)
        total = (
            size_of(b, "past_key_values.0.key", 2, "capacity") if fixed else size_of(b, "attention_mask", 1, "total")
        )
        keys = b.node("Range", [zero, total, one], "mask/keys")
        rows = b.node("Unsqueeze", [positions, b.integers(1, 3) if fixed else b.integers(0, 1, 3)], "mask/rows")
        columns = b.node("Unsqueeze", [keys, b.integers(0, 1, 2)], "mask/columns")
        causal = b.node("LessOrEqual", [columns, rows], "mask/causal")
        seen = causal
        if not fixed:
            present = b.node("Cast", ["attention_mask"], "mask/present", to=TensorProto.BOOL)
            wide = b.node("Unsqueeze", [present, b.integers(1, 2)], "mask/wide")
            seen = b.node("And", [causal, wide], "mask/seen")
        return b.node("Where", [seen, b.constant("zero", 0.0), b.constant("masked", MASKED)], "mask")

    def rotation(self, positions: str) -> tuple[str, str]:
        """Cosine and sine of every position and element, ``[1, 1, new, head]``, or of every row's own positions."""
        b, half = self.b, self.c.head_dim // 2
        speeds = self.c.rope_theta ** -(np.arange(half) / half)
        axes = b.integers(1) if self.cache == "fixed" else b.integers(0, 1)
        rows = b.node("Cast", [b.node("Unsqueeze", [positions, axes], "turns/rows")], "turns/float", to=1)
        product = b.node("MatMul", [b.constant("inv_freq", speeds.reshape(1, half, 1)), rows], "turns/product")
        angles = b.node("Transpose", [product], "turns/angles", perm=[0, 2, 1])
        both = b.node("Concat", [angles, angles], "turns/both", axis=-1)
        cos, sin = (
            b.node("Unsqueeze", [b.node(f, [both], f"turns/{f}/3d"), b.integers(1)], f"turns/{f}")
            for f in ("Cos", "Sin")
        )
        return cos, sin

    def rotate(self, x: str, turns: tuple[str, str], name: str) -> str:
        """``x · cos + rotate_half(x) · sin``."""
        b, half = self.b, self.c.head_dim // 2
        axis, step = b.integers(3), b.integers(1)
        first = b.node("Slice", [x, b.integers(0), b.integers(half), axis, step], f"{name}/first")
        second = b.node("Slice", [x, b.integers(half), b.integers(LAST), axis, step], f"{name}/second")
        half_turned = b.node("Concat", [b.node("Neg", [second], f"{name}/neg"), first], f"{name}/half", axis=-1)
        straight = b.node("Mul", [x, turns[0]], f"{name}/straight")
        return b.node("Add", [straight, b.node("Mul", [half_turned, turns[1]], f"{name}/across")], name)

    def heads(self, x: str, own: str, count: int, name: str) -> str:
        """A projection as ``[batch, heads, new, head]``."""
        b, c = self.b, self.c
        y = self.linear(x, own, (c.hidden_size, count * c.head_dim), f"{name}/projected")
        sizes = [size_of(b, x, axis, f"{name}/size{axis}") for axis in (0, 1)]
        shape = joined_sizes(b, [*sizes, -1, c.head_dim], f"{name}/sizes")
        return b.node("Transpose", [b.node("Reshape", [y, shape], f"{name}/split")], f"{name}/heads", perm=[0, 2, 1, 3])

    def cached(self, x: str, layer: int, part: str) -> str:
        """The old cache and ``x`` behind it or in its place: an output."""
        name = f"present.{layer}.{part}"
        if self.cache == "fixed":
            return self.b.node("TensorScatter", [f"past_key_values.{layer}.{part}", x, "position"], name, axis=-2)
        if self.past:
            return self.b.node("Concat", [f"past_key_values.{layer}.{part}", x], name, axis=-2)
        return self.b.node("Identity", [x], name)

    def repeated(self, x: str, name: str) -> str:
        """Each key or value head as often as query heads share it."""
        b, c = self.b, self.c
        group = c.num_attention_heads // c.num_key_value_heads
        batch, length = (size_of(b, x, axis, f"{name}/size{axis}") for axis in (0, 2))
        wide = b.node("Unsqueeze", [x, b.integers(2)], f"{name}/wide")
        shape = joined_sizes(b, [batch, c.num_key_value_heads, group, length, c.head_dim], f"{name}/expanded_sizes")
        copies = b.node("Expand", [wide, shape], f"{name}/expanded")
        shape = joined_sizes(b, [batch, c.num_attention_heads, length, c.head_dim], f"{name}/sizes")
        return b.node("Reshape", [copies, shape], name)

    def attention(self, x: str, mask: str, turns: tuple[str, str], layer: int, name: str) -> str:
        b, c = self.b, self.c
        own = f"layers.{layer}.self_attn"
        query = self.heads(x, f"{own}.q_proj", c.num_attention_heads, f"{name}/q")
        key = self.heads(x, f"{own}.k_proj", c.num_key_value_heads, f"{name}/k")
        value = self.heads(x, f"{own}.v_proj", c.num_key_value_heads, f"{name}/v")
        query, key = self.rotate(query, turns, f"{name}/query"), self.rotate(key, turns, f"{name}/key")
        key, value = self.cached(key, layer, "key"), self.cached(value, layer, "value")
        keys, values = self.repeated(key, f"{name}/keys"), self.repeated(value, f"{name}/values")
        turned = b.node("Transpose", [keys], f"{name}/keys_turned", perm=[0, 1, 3, 2])
        products = b.node("MatMul", [query, turned], f"{name}/products")
        scores = b.node("Mul", [products, b.constant("scale", c.head_dim**-0.5)], f"{name}/scores")
        weights = b.node("Softmax", [b.node("Add", [scores, mask], f"{name}/masked")], f"{name}/weights", axis=-1)
        context = b.node("MatMul", [weights, values], f"{name}/context")
        last = b.node("Transpose", [context], f"{name}/heads_last", perm=[0, 2, 1, 3])
        sizes = [size_of(b, x, axis, f"{name}/size{axis}") for axis in (0, 1)]
        joined = b.node("Reshape", [last, joined_sizes(b, [*sizes, -1], f"{name}/sizes")], f"{name}/joined")
        gain = (2 * c.num_hidden_layers) ** -0.5
        return self.linear(joined, f"{own}.o_proj", (c.hidden_size, c.hidden_size), f"{name}/attention", gain)

    def layer(self, x: str, mask: str, turns: tuple[str, str], layer: int) -> str:
        b, c = self.b, self.c
        own, name = f"layers.{layer}", f"layer{layer}"
        before = self.norm(x, f"{own}.input_layernorm", f"{name}/before")
        middle = b.node("Add", [x, self.attention(before, mask, turns, layer, name)], f"{name}/residual1")
        after = self.norm(middle, f"{own}.post_attention_layernorm", f"{name}/after")
        wide = (c.hidden_size, c.intermediate_size)
        gate = self.linear(after, f"{own}.mlp.gate_proj", wide, f"{name}/gate")
        active = b.node("Mul", [gate, b.node("Sigmoid", [gate], f"{name}/sigmoid")], f"{name}/silu")
        up = self.linear(after, f"{own}.mlp.up_proj", wide, f"{name}/up")
        gain = 2 * (2 * c.num_hidden_layers) ** -0.5
        down = self.linear(
            b.node("Mul", [active, up], f"{name}/gated"), f"{own}.mlp.down_proj", wide[::-1], f"{name}/down", gain
        )
        return b.node("Add", [middle, down], name)
