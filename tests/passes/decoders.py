"""Tiny decoders of transformers as the exporter of torch writes them.

    python -m tests.passes.decoders        writes them to ``tests/passes/exported`` again

An export takes ten seconds and more, so tests read the files; a slow one exports anew.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from functools import cache
from typing import Any

import onnx
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.cache_utils import DynamicCache

from tests.passes.exported import MODELS, OPSETS, file_of

LAYERS, VOCABULARY, HIDDEN, HEADS = 1, 41, 16, 4
#: Key and value heads of each family.
SHARED = {"llama": 2, "qwen3": 2, "gpt2": HEADS}
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": HIDDEN // HEADS,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


class _Decoder(torch.nn.Module):
    """Logits, and with a past the present keys and values of each layer, from tensors alone."""

    def __init__(self, family: str):
        super().__init__()
        torch.manual_seed(0)
        if family == "gpt2":
            sizes = {"n_positions": 64, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}
            model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes))
        elif family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**_SIZES))
        else:
            model = Qwen3ForCausalLM(Qwen3Config(**_SIZES))
        self.model = model.eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases start as 0, weights of norms as 1, and would be folded away
                parameter.add_(torch.randn_like(parameter) * 0.1)

    def forward(self, ids: Any, mask: Any, *past: Any) -> Any:
        if not past:
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        cache = DynamicCache([(past[2 * i], past[2 * i + 1]) for i in range(LAYERS)])
        result = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        layers = result.past_key_values.layers
        return (result.logits, *(t for layer in layers for t in (layer.keys, layer.values)))


@cache
def _exported(family: str, past: bool) -> Any:
    """The traced program; sizes B, S, P stay open, and M is the length of the mask."""
    size = {n: torch.export.Dim(n, min=1, max=m) for n, m in (("B", 8), ("S", 32), ("P", 31))}
    batch, new, old = size["B"], size["S"], size["P"]
    ids, mask = torch.randint(0, VOCABULARY, (2, 5)), torch.ones(2, 8 if past else 5, dtype=torch.int64)
    parts = [torch.randn(2, SHARED[family], 3, HIDDEN // HEADS) for _ in range(2 * LAYERS)] if past else []
    shapes: tuple[Any, ...] = ({0: batch, 1: new}, {0: batch, 1: torch.export.Dim.DYNAMIC if past else new})
    shapes = (*shapes, tuple({0: batch, 2: old} for _ in parts)) if parts else shapes
    return torch.export.export(_Decoder(family), (ids, mask, *parts), dynamic_shapes=shapes, strict=False)


@cache
def decoder(family: str, past: bool, opset: int) -> onnx.ModelProto:
    """``llama``, ``qwen3`` or ``gpt2``, with a cache of keys and values or without, at ``opset``."""
    logging.disable(logging.WARNING)
    names = [f"{w}{i}" for i in range(LAYERS) for w in ("keys", "values")] if past else []
    options: dict[str, Any] = {
        "input_names": ["ids", "mask", *(f"past_{n}" for n in names)],
        "output_names": ["logits", *(f"present_{n}" for n in names)],
        "opset_version": opset,
    }
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _exported(family, past)
            torch.onnx.export(program, (), file, dynamo=True, external_data=False, verbose=False, **options)
    finally:
        logging.disable(logging.NOTSET)
    return _bare(onnx.load_from_string(file.getvalue()))


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without where in which Python file each node comes from, and with the sizes of inputs named B, S, M and P."""
    del proto.metadata_props[:]
    del proto.graph.value_info[:]
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    shapes = [[d.dim_param for d in v.type.tensor_type.shape.dim] for v in proto.graph.input]
    names = dict(zip(shapes[2][2:3] if len(shapes) > 2 else [], "P", strict=False))
    names |= dict(zip(shapes[1], "BM", strict=True)) | dict(zip(shapes[0], "BS", strict=True))
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), dim.dim_param)
    return proto


if __name__ == "__main__":
    for family, past in MODELS:
        for opset in OPSETS:
            file_of(family, past, opset).write_bytes(decoder(family, past, opset).SerializeToString(deterministic=True))
