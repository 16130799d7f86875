"""A BERT sentence encoder as ONNX, built from a configuration and named weights: no torch, no transformers.

The graph is spelled as exporters spell it (biased ``MatMul``, ``Erf`` for GELU, an additive mask), so that importing
and fusing it is what it is for a user's model. Same configuration and weights, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from models.builder import Array, GraphBuilder, save_model
from models.layers import gelu

MASKED = -3.4028234663852886e38  # the least finite float32: what exporters add where the mask is 0


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of an encoder, named as in its ``config.json``."""

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    vocab_size: int
    layer_norm_eps: float

    @staticmethod
    def of(data: Mapping[str, Any]) -> Config:
        """Read the fields of a parsed ``config.json``. Raises ``ValueError`` for an encoder of another kind."""
        for key, want in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if data.get(key, want) != want:
                raise ValueError(f"config.json: {key} is {data[key]!r}, this builder knows {want!r}")
        return Config(**{name: data[name] for name in Config.__slots__})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the graph reads, by their names in a checkpoint (``[out, in]`` matrices)."""
        h, i = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, h),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, h),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, h),
            **{f"embeddings.LayerNorm.{part}": (h,) for part in ("weight", "bias")},
        }
        dense = {f"attention.self.{n}": (h, h) for n in ("query", "key", "value")}
        dense |= {"attention.output.dense": (h, h), "intermediate.dense": (i, h), "output.dense": (h, i)}
        for layer in range(self.num_hidden_layers):
            prefix = f"encoder.layer.{layer}."
            for name, shape in dense.items():
                shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
            for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
                shapes |= {f"{prefix}{norm}.{part}": (h,) for part in ("weight", "bias")}
        return shapes

    def pooler_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that only BERT's own pooler reads."""
        return {"pooler.dense.weight": (self.hidden_size,) * 2, "pooler.dense.bias": (self.hidden_size,)}


def save_encoder(
    path: Path, config: Config, weight: Callable[[str], Array], result: Literal["sentence", "states"] = "sentence"
) -> Path:
    """Write the encoder at ``path``, its weights beside it in ``<stem>.weights``.

    Args:
        path: the ``.onnx`` file.
        config: its sizes.
        weight: gives the float32 array of a name of :meth:`Config.shapes` (and of :meth:`Config.pooler_shapes`).
        result: ``sentence`` gives ``sentence_embedding``, the mean over tokens at unit length; ``states`` gives
            ``last_hidden_state`` and ``pooler_output``, as BERT does.

    Returns:
        ``path``.
    """
    return save_model(path, lambda b: _Encoder(b, config, weight).build(result))


class _Encoder:
    def __init__(self, b: GraphBuilder, config: Config, weight: Callable[[str], Array]):
        self.b, self.config, self.read = b, config, weight
        self.shapes = config.shapes() | config.pooler_shapes()

    def weight(self, name: str, transpose: bool = False) -> str:
        """An initializer in the external file; ``transpose`` turns a checkpoint's ``[out, in]`` into ``[in, out]``."""
        array = np.asarray(self.read(name), dtype=np.float32)
        if array.shape != self.shapes[name]:
            raise ValueError(f"{name}: shape {array.shape}, the configuration says {self.shapes[name]}")
        return self.b.weight(name, array.T if transpose else array)

    def dense(self, x: str, checkpoint: str, name: str) -> str:
        product = self.b.node("MatMul", [x, self.weight(f"{checkpoint}.weight", transpose=True)], f"{name}/product")
        return self.b.node("Add", [product, self.weight(f"{checkpoint}.bias")], name)

    def norm(self, x: str, checkpoint: str, name: str) -> str:
        inputs = [x, self.weight(f"{checkpoint}.weight"), self.weight(f"{checkpoint}.bias")]
        return self.b.node("LayerNormalization", inputs, name, axis=-1, epsilon=self.config.layer_norm_eps)

    def embeddings(self) -> str:
        words = self.b.node("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
        kinds = self.b.node(
            "Gather", [self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"], "kinds"
        )
        length = self.b.node("Shape", ["input_ids"], "shape", start=1, end=2)
        scalar = self.b.node("Squeeze", [length, self.b.constant("axis0", [0], np.int64)], "length")
        zero, step = self.b.constant("zero_i64", 0, np.int64), self.b.constant("one_i64", 1, np.int64)
        positions = self.b.node("Range", [zero, scalar, step], "positions")
        table = self.weight("embeddings.position_embeddings.weight")
        places = self.b.node("Gather", [table, positions], "places")
        total = self.b.node("Add", [self.b.node("Add", [words, kinds], "words_kinds"), places], "embedded")
        return self.norm(total, "embeddings.LayerNorm", "embeddings")

    def heads(self, x: str, name: str, perm: Sequence[int]) -> str:
        c = self.config
        head = c.hidden_size // c.num_attention_heads
        split = self.b.constant("split_heads", [0, 0, c.num_attention_heads, head], np.int64)
        return self.b.node("Transpose", [self.b.node("Reshape", [x, split], f"{name}/split")], name, perm=list(perm))

    def attention(self, x: str, mask: str, layer: int) -> str:
        c, name = self.config, f"layer{layer}"
        own = f"encoder.layer.{layer}.attention"
        query = self.heads(self.dense(x, f"{own}.self.query", f"{name}/q"), f"{name}/query", (0, 2, 1, 3))
        key = self.heads(self.dense(x, f"{own}.self.key", f"{name}/k"), f"{name}/key", (0, 2, 3, 1))
        value = self.heads(self.dense(x, f"{own}.self.value", f"{name}/v"), f"{name}/value", (0, 2, 1, 3))
        root = self.b.constant("root_head", np.sqrt(c.hidden_size // c.num_attention_heads))
        scores = self.b.node("Div", [self.b.node("MatMul", [query, key], f"{name}/products"), root], f"{name}/scores")
        masked = self.b.node("Add", [scores, mask], f"{name}/masked")
        weights = self.b.node("Softmax", [masked], f"{name}/weights", axis=-1)
        context = self.b.node("MatMul", [weights, value], f"{name}/context")
        merged = self.b.node("Transpose", [context], f"{name}/heads_last", perm=[0, 2, 1, 3])
        joined = self.b.node(
            "Reshape", [merged, self.b.constant("join_heads", [0, 0, c.hidden_size], np.int64)], f"{name}/joined"
        )
        out = self.dense(joined, f"{own}.output.dense", f"{name}/attention")
        return self.norm(self.b.node("Add", [out, x], f"{name}/residual1"), f"{own}.output.LayerNorm", f"{name}/middle")

    def layer(self, x: str, mask: str, layer: int) -> str:
        name, own = f"layer{layer}", f"encoder.layer.{layer}"
        middle = self.attention(x, mask, layer)
        wide = gelu(self.b, self.dense(middle, f"{own}.intermediate.dense", f"{name}/wide"), f"{name}/gelu")
        narrow = self.dense(wide, f"{own}.output.dense", f"{name}/narrow")
        return self.norm(self.b.node("Add", [narrow, middle], f"{name}/residual2"), f"{own}.output.LayerNorm", name)

    def pool(self, x: str, mask: str) -> str:
        """The mean over unmasked tokens, scaled to unit length."""
        axis1, last = self.b.constant("axis1", [1], np.int64), self.b.constant("axis_last", [-1], np.int64)
        weights = self.b.node("Unsqueeze", [mask, last], "token_weights")
        total = self.b.node("ReduceSum", [self.b.node("Mul", [x, weights], "kept"), axis1], "total", keepdims=0)
        count = self.b.node("ReduceSum", [weights, axis1], "count", keepdims=0)
        least = self.b.node("Max", [count, self.b.constant("least_count", 1e-9)], "count_above_0")
        mean = self.b.node("Div", [total, least], "mean")
        length = self.b.node("ReduceL2", [mean, last], "mean_length", keepdims=1)
        bounded = self.b.node("Max", [length, self.b.constant("least_length", 1e-12)], "length_above_0")
        return self.b.node("Div", [mean, bounded], "sentence_embedding")

    def first(self, x: str) -> None:
        """BERT's pooler: ``tanh`` of a projection of the first token."""
        first = self.b.node("Gather", [x, self.b.constant("zero_i64", 0, np.int64)], "first", axis=1)
        weight, bias = self.weight("pooler.dense.weight"), self.weight("pooler.dense.bias")
        self.b.node("Tanh", [self.b.node("Gemm", [first, weight, bias], "pooled", transB=1)], "pooler_output")

    def build(self, result: str) -> None:
        b, h = self.b, self.config.hidden_size
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            b.input(name, ["batch", "sequence"], TensorProto.INT64)
        x = self.embeddings()
        mask = b.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        wide = b.node("Unsqueeze", [mask, b.constant("axes12", [1, 2], np.int64)], "mask_wide")
        absent = b.node("Sub", [b.constant("one", 1.0), wide], "absent")
        bias = b.node("Mul", [absent, b.constant("masked", MASKED)], "mask_bias")
        for layer in range(self.config.num_hidden_layers):
            x = self.layer(x, bias, layer)
        if result == "sentence":
            self.pool(x, mask)
            b.output("sentence_embedding", ["batch", h])
            return
        b.node("Identity", [x], "last_hidden_state")
        self.first(x)
        b.output("last_hidden_state", ["batch", "sequence", h])
        b.output("pooler_output", ["batch", h])
