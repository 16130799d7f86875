"""A small BERT as the exporters of torch write it, cached per test run."""

from __future__ import annotations

import io
import logging
import warnings
from functools import cache
from typing import Any

import onnx
import torch
from transformers import BertConfig, BertModel

#: Largest batch and sequence that the exported models are declared for.
BATCH, SEQUENCE = 32, 64
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


class _Encoder(torch.nn.Module):
    def __init__(self, attention: str):
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=99,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=SEQUENCE,
            attn_implementation=attention,
        )
        self.bert = BertModel(config, add_pooling_layer=False).eval()
        with torch.no_grad():
            for parameter in self.bert.parameters():  # biases start as 0 and would be folded away
                parameter.add_(torch.randn_like(parameter) * 0.1)

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


@cache
def bert(exporter: str, attention: str, opset: int) -> onnx.ModelProto:
    """The model by ``exporter`` (``dynamo`` or ``legacy``), with ``attention`` written as ``eager`` or ``sdpa``."""
    ids = torch.randint(0, 99, (2, 7))
    arguments = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    options: dict[str, Any] = {"opset_version": opset, "input_names": NAMES, "output_names": ["hidden"]}
    if exporter == "dynamo":
        sizes = {0: torch.export.Dim("B", min=1, max=BATCH), 1: torch.export.Dim("S", min=1, max=SEQUENCE)}
        options |= {"dynamic_shapes": (sizes,) * 3, "external_data": False, "verbose": False}
    else:
        options |= {"dynamic_axes": {name: {0: "B", 1: "S"} for name in [*NAMES, "hidden"]}}
    file = io.BytesIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(_Encoder(attention), arguments, file, dynamo=exporter == "dynamo", **options)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load_from_string(file.getvalue())
