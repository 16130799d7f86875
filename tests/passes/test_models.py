"""Whole models: whatever exporter and opset they come from, the pipeline ends with the same graph and same numbers."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import FUSED_DOMAIN
from tilewright.passes.pipeline import default_pipeline, run_pipeline

from models.minilm import SMALL, build_small
from tests.passes.exports import bert
from tests.passes.harness import body, check_each, histogram

#: What two layers of BERT are made of, in any export. A change here needs its reason.
BERT = {
    "FusedAttention": 2,  # splitting and joining heads included
    "FusedElementwise": 1,  # the mask, once for all layers
    "FusedLayerNorm": 1,  # embeddings
    "FusedMatMul": 12,  # q, k, v, out + residual, up + GELU, down + residual; twice
    "LayerNormalization": 4,
}
#: The same with an integer mask that pooling reads too, mean pooling and L2 normalization.
MINILM = {**BERT, "Cast": 1, "FusedReduction": 2}

FAST = [(e, a, o) for e, a, o in [("dynamo", "sdpa", 18), ("dynamo", "sdpa", 23), ("dynamo", "eager", 20)]] + [
    ("legacy", a, o) for a in ("eager", "sdpa") for o in (17, 18, 20, 23)
]
SLOW = [("dynamo", a, o) for a in ("eager", "sdpa") for o in (17, 18, 20, 23) if ("dynamo", a, o) not in FAST]


def _imported(proto: onnx.ModelProto) -> ir.Model:
    sizes = ("1..32", "1..64")
    return import_model(proto, {v.name: sizes for v in proto.graph.input})


def _check_bert(exporter: str, attention: str, opset: int) -> None:
    model = _imported(bert(exporter, attention, opset))
    check_each(model, default_pipeline())
    assert histogram(model) == BERT
    products = [body(model, n) for n in model.graph if n.op_type == "FusedMatMul"]
    layer = ["MatMul Add"] * 3 + ["MatMul Add Add", "MatMul Add Gelu", "MatMul Add Add"]
    assert sorted(products) == sorted(layer * 2)
    attentions = [n for n in model.graph if n.op_type == "FusedAttention"]
    for node in attentions:
        assert node.attributes["num_heads"].as_int() == 4
        assert node.attributes["scale"].as_float() == pytest.approx(0.25)
        assert node.attributes["mask"].as_int() == 1
        assert {node.attributes[f"{x}_layout"].as_string() for x in ("q", "k", "v", "out")} == {"bsm"}


@pytest.mark.parametrize(("exporter", "attention", "opset"), FAST)
def test_bert_ends_the_same_from_every_export(exporter: str, attention: str, opset: int) -> None:
    _check_bert(exporter, attention, opset)


@pytest.mark.slow
@pytest.mark.parametrize(("exporter", "attention", "opset"), SLOW)
def test_bert_ends_the_same_from_the_other_exports(exporter: str, attention: str, opset: int) -> None:
    _check_bert(exporter, attention, opset)


def test_sentence_encoder(tmp_path: Path) -> None:
    model = import_model(build_small(tmp_path))
    check_each(model, default_pipeline())
    assert histogram(model) == MINILM
    reductions = [body(model, n) for n in model.graph if n.op_type == "FusedReduction"]
    assert reductions == ["Unsqueeze Mul ReduceSum ReduceSum Max Div", "ReduceL2 Max Div"]
    assert SMALL.num_hidden_layers == 2


def test_level_3_merges_projections(tmp_path: Path) -> None:
    model = import_model(build_small(tmp_path))
    check_each(model, default_pipeline(level=3))
    assert histogram(model) == {**MINILM, "FusedMatMul": MINILM["FusedMatMul"] - 4}
    attentions = [n for n in model.graph if n.op_type == "FusedAttention"]
    assert [(len(n.inputs), n.attributes["packed"].as_int()) for n in attentions] == [(2, 1)] * 2


def test_equal_layers_share_their_bodies(tmp_path: Path) -> None:
    model = import_model(build_small(tmp_path))
    run_pipeline(model, default_pipeline())
    fused = [n for n in model.graph if n.domain == FUSED_DOMAIN]
    assert len(model.functions) == len({n.op_identifier() for n in fused}) < len(fused) / 2


def test_level_0_fuses_nothing(tmp_path: Path) -> None:
    model = import_model(build_small(tmp_path))
    run_pipeline(model, default_pipeline(level=0))
    assert not any(n.domain == FUSED_DOMAIN for n in model.graph)
    assert histogram(model)["Gelu"] == 2
