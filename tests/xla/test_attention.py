"""Attention and what it needs: positions that are turned, caches, padded keys."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from onnx.reference import ReferenceEvaluator
from tilewright.accuracy import compare

from tests.xla.reference import agree, model_of, normal
from tests.xla.run import compiled

ROTARY = [
    ("2,4,6,16", "6,8", "", ""),
    ("2,4,6,16", "6,8", "interleaved=1", ""),
    ("2,4,6,16", "6,4", "rotary_embedding_dim=8", ""),
    ("2,6,64", "6,8", "num_heads=4", ""),
    ("2,4,6,16", "2,6,8", "", "given"),
]


@pytest.mark.parametrize("x, table, attributes, given", ROTARY)
def test_rotary_embedding(x: str, table: str, attributes: str, given: str) -> None:
    """With tables by position, and (``given``) with one row for each token already."""
    sizes, rows = (tuple(map(int, t.split(","))) for t in (x, table))
    feeds = {"x": normal(*sizes), "c": normal(*rows, seed=1), "s": normal(*rows, seed=2)}
    places, more = ("", "") if given else (", p", ", int64[2,6] p")
    if not given:
        feeds["p"] = np.random.default_rng(0).integers(0, rows[0], (2, 6))
    agree(
        f"g (float[{x}] x, float[{table}] c, float[{table}] s{more}) => (float[{x}] y) "
        f"{{ y = RotaryEmbedding<{attributes or 'interleaved=0'}>(x, c, s{places}) }}",
        feeds,
        opset=23,
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(count: int, mode: str) -> None:
    """New rows of a padded cache; what is padding is written nowhere."""
    first = np.array([2, 0], np.int64) if mode == "linear" else np.array([4, 1], np.int64)
    past, new = normal(2, 3, 5, 4), normal(2, 3, count, 4, seed=1)
    want = past.copy()
    for b, s in np.ndindex(2, count):
        want[b, :, (first[b] + s) % 5] = new[b, :, s]
    open_count = "S" if count > 1 else "1"
    agree(
        f"g (float[B,3,T,4] past, float[B,3,{open_count},4] new, int64[B] first) => (float[B,3,T,4] y) "
        f'{{ y = TensorScatter<mode="{mode}">(past, new, first) }}',
        {"past": past, "new": new, "first": first},
        {"past": ("B=1..4", 3, "T=1..8", 4), "new": ("B", 3, "S=1..4" if count > 1 else 1, 4), "first": ("B",)},
        {"B": (4,), "T": (8,), **({"S": (4,)} if count > 1 else {})},
        want=[want],
        opset=24,
    )


ATTENTION = [
    ("4", "4", ""),
    ("4", "2", "is_causal=1"),
    ("4", "1", "softcap=2.0,scale=0.3"),
]


@pytest.mark.parametrize("queries, keys, attributes", ATTENTION)
@pytest.mark.parametrize("open_sizes", [False, True], ids=["static", "padded"])
def test_attention(queries: str, keys: str, attributes: str, open_sizes: bool) -> None:
    """Keys beyond the end are never chosen, and no transposed copy of the keys is made."""
    text = (
        f"g (float[B,{queries},S,8] q, float[B,{keys},S,8] k, float[B,{keys},S,8] v) => (float[B,{queries},S,8] y) "
        f"{{ y = Attention<{attributes or 'is_causal=0'}>(q, k, v) }}"
    )
    feeds = {"q": normal(2, int(queries), 5, 8), "k": normal(2, int(keys), 5, 8, seed=1)}
    feeds["v"] = normal(2, int(keys), 5, 8, seed=2)
    sizes = {n: ("B=1..3" if open_sizes else 2, a.shape[1], "S=1..9" if open_sizes else 5, 8) for n, a in feeds.items()}
    (want,) = ReferenceEvaluator(model_of(text, 24)).run(None, feeds)
    program = compiled(model_of(text, 24), sizes, {"B": (3,), "S": (9,)} if open_sizes else None)
    found = compare("y", program.run(feeds)["y"], np.asarray(want))
    assert found.ok, f"{found.distance} {found.problem}"
    assert "stablehlo.transpose" not in program.text
