"""Which weights are cut over devices, found by structure: of small models of every kind, and where a cut ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from tilewright.backends.xla.cuts import Cuts, cuts_of
from tilewright.entries import import_entries
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.place import Region, place

from models import zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("cuts")


def region_of(name: str, folder: Path) -> Region:
    model = zoo.small()[name]
    path = folder / f"{name}.onnx"
    shapes = tuple((k, tuple(map(str, v))) for k, v in model.input_shapes.items())
    options = Options(targets=("xla:cpu",), input_shapes=shapes)
    graph = import_entries({"main": str(path if path.exists() else model.build(folder))}, options)["main"]
    return canonical(graph)


def canonical(graph: ir.Model) -> Region:
    run_pipeline(graph, canonicalization())
    (region,) = place(graph, lambda node: False)
    return region


def named(cuts: Cuts) -> dict[str, int]:
    return {str(value.name): dim for value, dim in cuts.weights.items()}


def test_bert_is_cut_along_heads_and_features(folder: Path) -> None:
    cuts = cuts_of(region_of("bert-base", folder), 4)
    found = named(cuts)
    for layer in range(2):
        own = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            assert found[f"{own}.attention.self.{part}.weight"] == 1
            assert found[f"{own}.attention.self.{part}.bias"] == 0
        assert found[f"{own}.attention.output.dense.weight"] == 0
        assert found[f"{own}.intermediate.dense.weight"] == 1
        assert found[f"{own}.intermediate.dense.bias"] == 0
        assert found[f"{own}.output.dense.weight"] == 0
        assert f"{own}.output.dense.bias" not in found  # added after the sum
    assert len(cuts.whole) == 4  # two sums a layer
    assert {str(v.name): why for v, why in cuts.kept.items()} == {
        "embeddings.word_embeddings.weight": "301 rows cannot be divided by 4"
    }


@pytest.mark.parametrize(("count", "attention"), [(2, True), (4, False)])
def test_llama_keeps_groups_of_heads_together(folder: Path, count: int, attention: bool) -> None:
    """Two heads of keys and values serve four of queries: they can be cut in two parts, not in four."""
    region = region_of("llama-decode", folder)
    cuts = cuts_of(region, count)
    found = named(cuts)
    for layer in range(2):
        own = f"layers.{layer}"
        for part in ("q", "k", "v", "o"):
            assert (f"{own}.self_attn.{part}_proj.weight" in found) == attention
        assert [found[f"{own}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")] == [1, 1, 0]
    caches = {str(v.name): cuts.values.get(v) for v in (*region.inputs, *region.outputs) if "key" in str(v.name)}
    assert set(caches.values()) == ({1} if attention else {None})


def test_resnet_alternates_channels(folder: Path) -> None:
    found = named(cuts_of(region_of("resnet50", folder), 2))
    assert found["conv1.weight_bn"] == 0
    assert found["layer1.0.conv1.weight_bn"] == 1
    assert found["layer1.0.conv2.weight_bn"] == 0
    assert found["layer1.0.conv3.weight_bn"] == 1


def test_depthwise_convolutions_carry_a_cut(folder: Path) -> None:
    found = named(cuts_of(region_of("mobilenetv2", folder), 4))
    own = "features.2.conv"
    assert [found[f"{own}.{n}.weight_bn"] for n in ("0.0", "1.0", "2")] == [0, 0, 1]


def graph(nodes: list[tuple[str, str, str]], weights: dict[str, tuple[int, ...]], outputs: dict[str, int]) -> ir.Model:
    """A model of ``(operator, inputs, output)``; ``x`` is ``[N, 64]``."""
    import numpy as np
    from onnx import numpy_helper

    rng = np.random.default_rng(0)
    made = helper.make_graph(
        [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in outputs.items()],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    return import_entries(
        {"main": helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)}, Options()
    )["main"]


def test_a_residual_keeps_the_stream_whole() -> None:
    nodes = [("MatMul", "x w", "a"), ("Relu", "a", "r"), ("Add", "r x", "y")]
    cuts = cuts_of(canonical(graph(nodes, {"w": (64, 64)}, {"y": 64})), 2)
    assert not cuts.weights
    assert list(cuts.kept.values()) == ["its result is added to a stream that stays whole"]


def test_two_products_share_one_sum() -> None:
    nodes = [("MatMul", "x w", "a"), ("Relu", "a", "r"), ("MatMul", "r v", "y")]
    cuts = cuts_of(canonical(graph(nodes, {"w": (64, 96), "v": (96, 64)}, {"y": 64})), 4)
    assert named(cuts) == {"w": 1, "v": 0}
    assert [str(v.name) for v in cuts.whole] == ["y"]


def test_a_weight_that_is_read_in_two_ways_stays_whole() -> None:
    nodes = [("MatMul", "x w", "a"), ("Relu", "a", "r"), ("MatMul", "r w", "y")]
    cuts = cuts_of(canonical(graph(nodes, {"w": (64, 64)}, {"y": 64})), 2)
    assert not cuts.weights


def test_what_cannot_be_divided_stays_whole() -> None:
    nodes = [("MatMul", "x w", "y")]
    cuts = cuts_of(canonical(graph(nodes, {"w": (64, 30)}, {"y": 30})), 4)
    assert not cuts.weights
    assert list(cuts.kept.values()) == ["30 features cannot be divided by 4"]


def test_logits_come_out_cut() -> None:
    region = canonical(graph([("MatMul", "x w", "y")], {"w": (64, 32)}, {"y": 32}))
    cuts = cuts_of(region, 4)
    assert named(cuts) == {"w": 1}
    assert cuts.values[region.outputs[0]] == 1
