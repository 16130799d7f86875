"""Gather, scatter and sort on XLA beside onnx.reference, with sizes exact and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jaxlib")

import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

from tests.xla.run import compiled

_X = np.random.default_rng(0).standard_normal((6, 5, 4)).astype(np.float32)
_I = np.array([[1, -1, 3], [0, -5, 2]])

#: Text of a node; inputs by name with their symbolic shape; the array of each.
CASES: dict[str, tuple[str, dict[str, tuple[str, Any]]]] = {
    "gather": ("Gather<axis=1>(x, i)", {"x": ("N,S,4", _X), "i": ("2,K", _I)}),
    "gather-one-from-the-end": ("Gather<axis=1>(x, i)", {"x": ("N,S,4", _X), "i": ("", np.array(-1))}),
    "gather-elements": (
        "GatherElements<axis=1>(x, i)",
        {"x": ("N,S,4", _X), "i": ("N,K,4", np.resize(_I, (6, 3, 4)))},
    ),
    "gather-nd": ("GatherND(x, i)", {"x": ("N,S,4", _X), "i": ("2,K,2", np.resize(_I, (2, 3, 2)) % 5 - 5)}),
    "gather-nd-batch": (
        "GatherND<batch_dims=1>(x, i)",
        {"x": ("N,S,4", _X), "i": ("N,K,1", np.resize(_I, (6, 3, 1)))},
    ),
    "scatter-elements": (
        'ScatterElements<axis=1, reduction="add">(x, i, u)',
        {
            "x": ("N,S,4", _X),
            "i": ("N,K,4", np.resize(_I, (6, 3, 4))),
            "u": ("N,K,4", _X[:, :3] * 2),
        },
    ),
    "scatter-nd": (
        'ScatterND<reduction="max">(x, i, u)',
        {"x": ("N,S,4", _X), "i": ("K,1", np.array([[1], [-1], [1]])), "u": ("K,S,4", _X[:3] + 1)},
    ),
    "reverse-sequence": (
        "ReverseSequence<time_axis=1, batch_axis=0>(x, i)",
        {"x": ("N,S,4", _X), "i": ("N", np.array([1, 2, 3, 4, 5, 5]))},
    ),
    "top-k": ("TopK<axis=1>(x, i)", {"x": ("N,S,4", np.round(_X * 2)), "i": ("k", np.array([3]))}),
    "top-k-smallest": ("TopK<axis=0, largest=0>(x, i)", {"x": ("N,S,4", np.round(_X)), "i": ("k", np.array([3]))}),
}


def model_of(node: str, inputs: dict[str, tuple[str, Any]], outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    """A model of one node; an input of shape ``k`` is a constant."""
    types = {np.dtype(np.float32): "float", np.dtype(np.int64): "int64"}
    given = ", ".join(f"{types[a.dtype]}[{s}] {n}" for n, (s, a) in inputs.items() if s != "k")
    fixed = [(n, a) for n, (s, a) in inputs.items() if s == "k"]
    head = ", ".join(f"int64[{len(a)}] {n} = {{{', '.join(map(str, a))}}}" for n, a in fixed)
    ranks = ", ".join(f"float[] {o}" for o in outputs)
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g ({given}) => ({ranks}) '
        f"{f'<{head}>' if head else ''} {{ {', '.join(outputs)} = {node} }}"
    )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("padded", [False, True], ids=["exact", "padded"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(name: str, padded: bool) -> None:
    node, inputs = CASES[name]
    outputs = ("y", "p") if node.startswith("TopK") else ("y",)
    model = model_of(node, inputs, outputs)
    if "p" in outputs:
        model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    feeds = {n: a for n, (s, a) in inputs.items() if s != "k"}
    want = ReferenceEvaluator(model).run(None, feeds)
    symbols = {"N": (6, 8), "S": (5, 7), "K": (3, 4)}
    shapes = {n: [_size(d, symbols) for d in s.split(",") if d] for n, (s, _) in inputs.items() if s != "k"}
    buckets = {s: (sizes[padded],) for s, sizes in symbols.items()}
    got = compiled(model, shapes, buckets).run(feeds)
    for output, expected in zip(outputs, want, strict=True):
        np.testing.assert_array_equal(got[output], expected)


def _size(dim: str, symbols: dict[str, tuple[int, int]]) -> Any:
    return f"{dim}=1..{symbols[dim][1]}" if dim in symbols else int(dim)
