"""Softmax · V inside one fused body, in one pass over the keys: hidden rows, odd rows, and what only looks like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator
from tilewright.ir.ranges import Range

from tests.ops.interpret import run_interpreted, typed

SOFTMAX = "p = Softmax(s) y = MatMul(p, v)"
GUARDED = "p = Softmax(s) n = IsNaN(p) zero = Constant<value=float {0.0}>() w = Where(n, zero, p) y = MatMul(w, v)"

INF = np.inf


def scores() -> np.ndarray[Any, Any]:
    s = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    s[1] = -INF
    s[2, :3] = -INF
    s[3, 2] = np.nan
    s[4, 0] = INF
    s[5, 4] = 30
    return s


@pytest.mark.parametrize(
    "body, shape",
    [
        (SOFTMAX, ("S", "T")),
        (SOFTMAX, ("B", "S", "T")),
        (SOFTMAX.replace("Softmax", "LogSoftmax"), ("S", "T")),
        (GUARDED, ("S", "T")),
        (GUARDED, ("B", "S", "T")),
        (SOFTMAX, ("T",)),
    ],
    ids=str,
)
def test_rows_that_are_hidden_or_not_numbers(body: str, shape: tuple[str, ...]) -> None:
    s = scores()
    if len(shape) == 1:
        s = s[0]
    if len(shape) == 3:
        s = np.stack([s, s[::-1]])
    v = np.random.default_rng(1).standard_normal((*s.shape[:-2], 5, 3)).astype(np.float32)
    model = fused(body, shape)
    expected = ReferenceEvaluator(model).run(None, {"s": s, "v": v})[0]
    actual = run_interpreted(typed(model, {n: Range(1, 64) for n in "BST"}), {"s": s, "v": v})["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def fused(body: str, shape: tuple[str, ...]) -> onnx.ModelProto:
    """A model with one fused operator of this body."""
    batch = "".join(f"{s}, " for s in shape[:-2])
    return onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 22, "ai.tilewright" : 1]>
        g (float[{", ".join(shape)}] s, float[{batch}T, 3] v) => (float[{", ".join((*shape[:-1], "3"))}] y)
        {{ y = ai.tilewright.Fused(s, v) }}
        <domain: "ai.tilewright", opset_import: ["" : 22]>
        Fused (s, v) => (y) {{ {body} }}
    """)
