"""Regions have an end: a long chain becomes several nodes, none too deep to lower."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from tilewright.ops.program import Run, lower_graph
from tilewright.passes.base import Pass
from tilewright.passes.fusion.elementwise import FuseElementwise
from tilewright.passes.fusion.softmax import FuseSoftmax
from tilewright.passes.pipeline import run_pipeline

from tests.ops.interpret import typed


@pytest.mark.parametrize(
    "fusion, last", [(FuseElementwise(), "Neg"), (FuseSoftmax(), "Softmax")], ids=["chain", "softmax"]
)
@pytest.mark.parametrize("softmax_first", [False, True])
def test_a_long_chain_is_cut(fusion: Pass, last: str, softmax_first: bool) -> None:
    length = 700
    ops = ["Abs"] * length + [last]
    ops = ops[::-1] if softmax_first else ops
    nodes = " ".join(f"h{i + 1} = {op}(h{i})" for i, op in enumerate(ops))
    text = f'<ir_version: 10, opset_import: ["" : 22]> g (float[3, 4] h0) => (float[3, 4] h{length + 1}) {{ {nodes} }}'
    model = typed(onnx.parser.parse_model(text), {})
    run_pipeline(model, [fusion, FuseElementwise()])
    sizes = [len(list(f)) for f in model.functions.values()]
    assert max(sizes) <= 200
    assert 4 <= len(model.graph) <= 10
    assert all(isinstance(step, Run) for step in lower_graph(model))
