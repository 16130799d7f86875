"""A BERT sentence encoder as ONNX, built from a configuration and named weights: no torch, no transformers.

The graph is spelled as exporters spell it (biased ``MatMul``, ``Erf`` for GELU, an additive mask), so that importing
and fusing it is what it is for a user's model. Same configuration and weights, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 18
IR_VERSION = 10
PAGE = 4096  # external data starts on pages, so that it can be mapped
MASKED = -3.4028234663852886e38  # the least finite float32: what exporters add where the mask is 0

Array = NDArray[Any]


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


def save_encoder(path: Path, config: Config, weight: Callable[[str], Array]) -> Path:
    """Write the encoder at ``path``, its weights beside it in ``<stem>.weights``.

    Args:
        path: the ``.onnx`` file.
        config: its sizes.
        weight: gives the float32 array of a name of :meth:`Config.shapes`.

    Returns:
        ``path``.
    """
    location = f"{path.stem}.weights"
    with (path.parent / location).open("wb") as file:
        builder = _Builder(config, location, file, weight)
        graph = builder.encoder(path.stem)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tilewright-models"
    )
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)
    return path


class _Builder:
    def __init__(self, config: Config, location: str, file: Any, weight: Callable[[str], Array]):
        self.config, self.location, self.file, self.read = config, location, file, weight
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{name}/{op}", **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        if name not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def weight(self, name: str, transpose: bool = False) -> str:
        """An initializer in the external file; ``transpose`` turns a checkpoint's ``[out, in]`` into ``[in, out]``."""
        array = np.ascontiguousarray(self.read(name), dtype="<f4")
        if array.shape != self.config.shapes()[name]:
            raise ValueError(f"{name}: shape {array.shape}, the configuration says {self.config.shapes()[name]}")
        array = np.ascontiguousarray(array.T) if transpose else array
        self.file.write(bytes(-self.file.tell() % PAGE))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", self.file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.file.write(array.tobytes())
        self.initializers[name] = tensor
        return name

    def dense(self, x: str, checkpoint: str, name: str) -> str:
        product = self.node("MatMul", [x, self.weight(f"{checkpoint}.weight", transpose=True)], f"{name}/product")
        return self.node("Add", [product, self.weight(f"{checkpoint}.bias")], name)

    def norm(self, x: str, checkpoint: str, name: str) -> str:
        inputs = [x, self.weight(f"{checkpoint}.weight"), self.weight(f"{checkpoint}.bias")]
        return self.node("LayerNormalization", inputs, name, axis=-1, epsilon=self.config.layer_norm_eps)

    def gelu(self, x: str, name: str) -> str:
        """``x · (1 + erf(x / √2)) / 2``, as exporters write it."""
        scaled = self.node("Div", [x, self.constant("sqrt2", np.sqrt(2.0))], f"{name}/scaled")
        erf = self.node("Erf", [scaled], f"{name}/erf")
        cdf2 = self.node("Add", [erf, self.constant("one", 1.0)], f"{name}/cdf2")
        return self.node("Mul", [self.node("Mul", [x, cdf2], f"{name}/twice"), self.constant("half", 0.5)], name)

    def embeddings(self) -> str:
        words = self.node("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
        kinds = self.node("Gather", [self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"], "kinds")
        length = self.node("Shape", ["input_ids"], "shape", start=1, end=2)
        scalar = self.node("Squeeze", [length, self.constant("axis0", [0], np.int64)], "length")
        zero, step = self.constant("zero_i64", 0, np.int64), self.constant("one_i64", 1, np.int64)
        positions = self.node("Range", [zero, scalar, step], "positions")
        table = self.weight("embeddings.position_embeddings.weight")
        places = self.node("Gather", [table, positions], "places")
        total = self.node("Add", [self.node("Add", [words, kinds], "words_kinds"), places], "embedded")
        return self.norm(total, "embeddings.LayerNorm", "embeddings")

    def heads(self, x: str, name: str, perm: Sequence[int]) -> str:
        c = self.config
        head = c.hidden_size // c.num_attention_heads
        split = self.constant("split_heads", [0, 0, c.num_attention_heads, head], np.int64)
        return self.node("Transpose", [self.node("Reshape", [x, split], f"{name}/split")], name, perm=list(perm))

    def attention(self, x: str, mask: str, layer: int) -> str:
        c, name = self.config, f"layer{layer}"
        own = f"encoder.layer.{layer}.attention"
        query = self.heads(self.dense(x, f"{own}.self.query", f"{name}/q"), f"{name}/query", (0, 2, 1, 3))
        key = self.heads(self.dense(x, f"{own}.self.key", f"{name}/k"), f"{name}/key", (0, 2, 3, 1))
        value = self.heads(self.dense(x, f"{own}.self.value", f"{name}/v"), f"{name}/value", (0, 2, 1, 3))
        root = self.constant("root_head", np.sqrt(c.hidden_size // c.num_attention_heads))
        scores = self.node("Div", [self.node("MatMul", [query, key], f"{name}/products"), root], f"{name}/scores")
        masked = self.node("Add", [scores, mask], f"{name}/masked")
        weights = self.node("Softmax", [masked], f"{name}/weights", axis=-1)
        context = self.node("MatMul", [weights, value], f"{name}/context")
        merged = self.node("Transpose", [context], f"{name}/heads_last", perm=[0, 2, 1, 3])
        joined = self.node(
            "Reshape", [merged, self.constant("join_heads", [0, 0, c.hidden_size], np.int64)], f"{name}/joined"
        )
        out = self.dense(joined, f"{own}.output.dense", f"{name}/attention")
        return self.norm(self.node("Add", [out, x], f"{name}/residual1"), f"{own}.output.LayerNorm", f"{name}/middle")

    def layer(self, x: str, mask: str, layer: int) -> str:
        name, own = f"layer{layer}", f"encoder.layer.{layer}"
        middle = self.attention(x, mask, layer)
        wide = self.gelu(self.dense(middle, f"{own}.intermediate.dense", f"{name}/wide"), f"{name}/gelu")
        narrow = self.dense(wide, f"{own}.output.dense", f"{name}/narrow")
        return self.norm(self.node("Add", [narrow, middle], f"{name}/residual2"), f"{own}.output.LayerNorm", name)

    def pool(self, x: str, mask: str) -> str:
        """The mean over unmasked tokens, scaled to unit length."""
        axis1, last = self.constant("axis1", [1], np.int64), self.constant("axis_last", [-1], np.int64)
        weights = self.node("Unsqueeze", [mask, last], "token_weights")
        total = self.node("ReduceSum", [self.node("Mul", [x, weights], "kept"), axis1], "total", keepdims=0)
        count = self.node("ReduceSum", [weights, axis1], "count", keepdims=0)
        least = self.node("Max", [count, self.constant("least_count", 1e-9)], "count_above_0")
        mean = self.node("Div", [total, least], "mean")
        length = self.node("ReduceL2", [mean, last], "mean_length", keepdims=1)
        bounded = self.node("Max", [length, self.constant("least_length", 1e-12)], "length_above_0")
        return self.node("Div", [mean, bounded], "sentence_embedding")

    def encoder(self, name: str) -> onnx.GraphProto:
        x = self.embeddings()
        mask = self.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        wide = self.node("Unsqueeze", [mask, self.constant("axes12", [1, 2], np.int64)], "mask_wide")
        absent = self.node("Sub", [self.constant("one", 1.0), wide], "absent")
        bias = self.node("Mul", [absent, self.constant("masked", MASKED)], "mask_bias")
        for layer in range(self.config.num_hidden_layers):
            x = self.layer(x, bias, layer)
        self.pool(x, mask)
        shape = ["batch", "sequence"]
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in names]
        size = ["batch", self.config.hidden_size]
        outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, size)]
        return helper.make_graph(self.nodes, name, inputs, outputs, list(self.initializers.values()))
