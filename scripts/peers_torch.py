"""The models of ``scripts/bench_cuda.py`` in PyTorch, with random weights: eager in a CUDA graph, and compiled.

The sizes are those of ``models/zoo.py``. A model that needs a package that is not there raises ``ImportError``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: One run; work on a GPU is started and not waited for.
Step = Callable[[], Any]


def model_of(name: str, precision: str, device: str, tiny: bool) -> tuple[torch.nn.Module, Callable[[int, int], Any]]:
    """A model on ``device``, and what makes its inputs for a batch and a length. ``tiny``: for a dry run."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16}.get(precision, torch.bfloat16)
    with torch.device(device):
        module, inputs = _MODELS[name](tiny, dtype)
    module = module.eval().to(dtype)
    if precision in ("int8 weights", "int4 weights"):
        _quantize(module, precision)
    return module, inputs


def graphed(step: Step) -> Step:
    """``step`` as a CUDA graph, replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _resnet(tiny: bool, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[int, int], Any]]:
    from torchvision.models import resnet18, resnet50

    model = (resnet18 if tiny else resnet50)().to(memory_format=torch.channels_last)
    return model, _images(dtype)


def _vit(tiny: bool, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[int, int], Any]]:
    from torchvision.models import VisionTransformer, vit_b_16

    return VisionTransformer(32, 16, 2, 2, 32, 64) if tiny else vit_b_16(), _images(dtype)


def _images(dtype: torch.dtype) -> Callable[[int, int], Any]:
    def inputs(batch: int, length: int) -> Any:
        image = torch.randn(batch, 3, length, length).to(dtype)
        return (image.contiguous(memory_format=torch.channels_last),)

    return inputs


def _bert(tiny: bool, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[int, int], Any]]:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2) if tiny else BertConfig()
    return BertModel(config), _tokens(config.vocab_size)


def _gpt2(tiny: bool, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[int, int], Any]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=64, n_layer=2, n_head=2) if tiny else GPT2Config()
    config.use_cache = False
    return GPT2LMHeadModel(config), _tokens(config.vocab_size)


def _tokens(vocabulary: int) -> Callable[[int, int], Any]:
    def inputs(batch: int, length: int) -> Any:
        ids = torch.randint(0, vocabulary, (batch, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return inputs


class _Decoder(torch.nn.Module):
    """One step of a Llama with a cache of fixed capacity, as gpt-fast spells it: one product for queries, keys and
    values, one for gate and up, and ``scaled_dot_product_attention`` over the whole cache under a mask."""

    def __init__(self, hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int, base: float):
        super().__init__()
        self.size, self.heads, self.groups = hidden // heads, heads, groups
        self.words = torch.nn.Embedding(vocabulary, hidden)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "before": torch.nn.RMSNorm(hidden),
                    "qkv": torch.nn.Linear(hidden, (heads + 2 * groups) * self.size, bias=False),
                    "out": torch.nn.Linear(hidden, hidden, bias=False),
                    "after": torch.nn.RMSNorm(hidden),
                    "wide": torch.nn.Linear(hidden, 2 * inner, bias=False),
                    "down": torch.nn.Linear(inner, hidden, bias=False),
                }
            )
            for _ in range(layers)
        )
        self.norm, self.head = torch.nn.RMSNorm(hidden), torch.nn.Linear(hidden, vocabulary, bias=False)
        self.register_buffer("speeds", base ** -(torch.arange(self.size // 2) / (self.size // 2)), persistent=False)

    def turned(self, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
        both = torch.cat((angle, angle), -1)[:, None, None]
        return x * both.cos().to(x.dtype) + turned * both.sin().to(x.dtype)

    def forward(self, ids: torch.Tensor, position: torch.Tensor, caches: list[torch.Tensor]) -> torch.Tensor:
        x, (heads, groups, size) = self.words(ids), (self.heads, self.groups, self.size)
        angle = position[:, None] * self.speeds.float()
        seen = (torch.arange(caches[0].shape[2], device=ids.device) <= position[:, None])[:, None, None]
        for n, layer in enumerate(self.layers):
            qkv = layer["qkv"](layer["before"](x)).view(len(ids), 1, heads + 2 * groups, size).transpose(1, 2)
            q, k, v = qkv.split((heads, groups, groups), 1)
            q, k = self.turned(q, angle), self.turned(k, angle)
            keys, values = caches[2 * n], caches[2 * n + 1]
            keys.index_copy_(2, position[:1], k)
            values.index_copy_(2, position[:1], v)
            y = torch.nn.functional.scaled_dot_product_attention(q, keys, values, seen, enable_gqa=True)
            x = x + layer["out"](y.transpose(1, 2).reshape(len(ids), 1, -1))
            gate, up = layer["wide"](layer["after"](x)).chunk(2, -1)
            x = x + layer["down"](torch.nn.functional.silu(gate) * up)
        return self.head(self.norm(x))


def _decode(sizes: tuple[int, ...]) -> Callable[[bool, torch.dtype], tuple[torch.nn.Module, Callable[[int, int], Any]]]:
    def make(tiny: bool, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[int, int], Any]]:
        hidden, inner, layers, heads, groups, vocabulary = (64, 160, 2, 4, 2, 301) if tiny else sizes
        model = _Decoder(hidden, inner, layers, heads, groups, vocabulary, 10000.0)

        def inputs(batch: int, length: int) -> Any:
            caches = [torch.randn(batch, groups, length, hidden // heads).to(dtype) for _ in range(2 * layers)]
            ids = torch.randint(0, vocabulary, (batch, 1))
            return {"ids": ids, "position": torch.full((batch,), length * 3 // 4), "caches": caches}

        return model, inputs

    return make


_MODELS: dict[str, Callable[[bool, torch.dtype], tuple[torch.nn.Module, Callable[[int, int], Any]]]] = {
    "resnet50": _resnet,
    "vit-b16": _vit,
    "bert-base": _bert,
    "gpt2": _gpt2,
    "llama-decode-static": _decode((768, 2048, 12, 12, 4, 32000)),
    "llama-1b-decode-static": _decode((2048, 5632, 22, 32, 4, 32000)),
}


class _Int8(torch.nn.Module):
    """A product with 8-bit weights and a scale a column, as gpt-fast has it: compiled, the cast is fused."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        scale = linear.weight.abs().amax(1) / 127
        self.register_buffer("weight", (linear.weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale


class _Int4(torch.nn.Module):
    """A product with 4-bit weights in groups of 32, by PyTorch's own kernel (``_weight_int4pack_mm``)."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        rows, columns = linear.weight.shape
        groups = linear.weight.view(rows, columns // 32, 32)
        scale = groups.abs().amax(2) / 7
        codes = ((groups / scale[..., None]).round() + 8).clamp(0, 15).to(torch.uint8).view(rows, columns)
        self.register_buffer("weight", torch._convert_weight_to_int4pack(codes[:, ::2] << 4 | codes[:, 1::2], 8))
        told = torch.stack((scale, torch.zeros_like(scale)), -1).transpose(0, 1).contiguous()
        self.register_buffer("scales", told.to(torch.bfloat16))
        self.columns = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return torch._weight_int4pack_mm(flat, self.weight, 32, self.scales).view(*x.shape[:-1], self.columns)


def _quantize(module: torch.nn.Module, precision: str) -> None:
    kind = _Int8 if precision == "int8 weights" else _Int4
    with torch.no_grad():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, kind(child))
            else:
                _quantize(child, precision)
