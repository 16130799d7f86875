"""How many kernels the models of the zoo come to, at small size: two layers each. A change here needs its reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import body_of
from tilewright.ops.program import Run, lower_graph
from tilewright.passes.pipeline import default_pipeline, run_pipeline

from models.zoo import small

#: One layer of each transformer: what its kernels compute, views and other movement left out.
_DENSE = ["MatMul Add"] * 3 + ["attention", "MatMul Add Add", "norm", "MatMul Add Gelu", "MatMul Add Add", "norm"]
_LLAMA = ["MatMul"] * 3 + ["attention", "MatMul Add", "norm", "MatMul Swish", "MatMul Mul", "MatMul Add", "norm"]
LAYERS = {
    "bert-base": _DENSE,
    "vit-b16": _DENSE,
    "gpt2": ["MatMul Add", "attention", "MatMul Add Add", "norm", "MatMul Add Gelu", "MatMul Add Add", "norm"],
    "llama-prefill": [*_LLAMA, "RotaryEmbedding", "RotaryEmbedding", "copy"],  # values for the cache
    "llama-decode": [*_LLAMA, "RotaryEmbedding", "RotaryEmbedding Concat", "copy"],
}
#: Kernels of the whole model.
TOTALS = {
    "bert-base": 22,
    "vit-b16": 23,
    "gpt2": 19,
    "llama-prefill": 39,
    "llama-decode": 36,
    "mobilenetv2": 12,
    "resnet50": 12,
}
_MOVEMENT = frozenset("Transpose Reshape Unsqueeze Squeeze Slice Expand Split Constant".split())
_NORMS = frozenset(["LayerNormalization", "RMSNormalization"])


def _kernels(name: str, folder: Path) -> list[str]:
    """What each kernel computes."""
    model = small()[name]
    shapes = {k: tuple(map(str, v)) for k, v in model.input_shapes.items()}
    graph = import_model(model.build(folder), shapes)
    run_pipeline(graph, default_pipeline())
    found = []
    for step in lower_graph(graph):
        if isinstance(step, Run):
            nodes = body_of(graph, step.node) or [step.node]
            work = [n.op_type for n in nodes if n.op_type not in _MOVEMENT]
            text = " ".join(work) if work not in ([], ["Concat"]) else "copy"
            found.append("attention" if "Softmax" in work else "norm" if _NORMS & set(work) else text)
    return found


@pytest.mark.parametrize("name", TOTALS)
def test_kernels(name: str, tmp_path: Path) -> None:
    found = _kernels(name, tmp_path)
    assert len(found) == TOTALS[name], found
    missing = Counter(LAYERS.get(name, []) * 2) - Counter(found)
    assert not missing, found
