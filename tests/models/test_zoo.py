"""Every model of the zoo: one artifact for all sizes, and a graph that stays legal and equal through every pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.accuracy import compare
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.pipeline import default_pipeline
from tilewright.runtime import load

from models import gpt2, llama, mobilenet, resnet, vit, zoo
from models.bert import BASE
from tests.passes.harness import check_each

SMALL = zoo.small()
NAMES = sorted(SMALL)
#: Largest error relative to the largest value of the reference.
TOLERANCE = 1e-4


def shapes_of(model: zoo.Model) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, tuple(map(str, sizes))) for name, sizes in model.input_shapes.items())


@pytest.mark.parametrize("name", NAMES)
def test_one_artifact_for_every_size(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = SMALL[name]
    path = model.build(tmp_path)
    options = Options(targets=("cpu:native",), input_shapes=shapes_of(model), states=tuple(model.in_place.items()))
    session = load(driver.compile(path, options=options).to_bytes())
    reference = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in reference.get_outputs()]
    assert [o.name for o in session.outputs] == names
    for batch, length in model.checks:
        feed = model.feed(batch, length)
        got, want = session.run(None, feed), reference.run(None, feed)
        for output, mine, theirs in zip(names, got, want, strict=True):
            assert (found := compare(output, mine, theirs, TOLERANCE)).ok, (batch, length, found)


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_keeps_the_graph_legal_and_its_numbers(name: str, tmp_path: Path) -> None:
    model = SMALL[name]
    graph = import_model(model.build(tmp_path), dict(shapes_of(model)))
    check_each(graph, default_pipeline(), model.feed(2, model.checks[0][1], seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_open_and_checked_at_three_batches_and_two_lengths(name: str) -> None:
    model = SMALL[name]
    batches, lengths = ({size[axis] for size in model.checks} for axis in (0, 1))
    assert len(batches) == 3
    assert len(lengths) == (1 if "image" in model.input_shapes else 2)
    assert len(model.checks) == len(batches) * len(lengths)
    opened = {str(s).partition("=")[0] for sizes in model.input_shapes.values() for s in sizes if "=" in str(s)}
    length = {"llama-decode": "past", "llama-decode-static": "capacity"}.get(name, "sequence")
    assert opened == {"batch", *([length] if len(lengths) > 1 else [])}


@pytest.mark.parametrize("name", NAMES)
def test_feeds_fit_the_inputs(name: str, tmp_path: Path) -> None:
    model = SMALL[name]
    graph = onnx.load(str(model.build(tmp_path)), load_external_data=False).graph
    feed = model.feed(3, model.checks[0][1])
    assert list(feed) == [i.name for i in graph.input]
    sizes = {"batch": 3, "sequence": 17, "past": 17, "past + 1": 18, "capacity": 17}
    for value in graph.input:
        kind = value.type.tensor_type
        want = [sizes.get(d.dim_param, d.dim_value) for d in kind.shape.dim]
        assert list(feed[value.name].shape) == want
        assert feed[value.name].dtype == onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    for given, taken in model.states:
        assert given in feed
        assert taken in [o.name for o in graph.output]


def test_same_bytes_every_time(tmp_path: Path) -> None:
    for model in SMALL.values():
        first, second = (model.build(tmp_path / folder) for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
    for path in (tmp_path / "a").glob("*.weights"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_llamas_share_a_file_of_weights(tmp_path: Path) -> None:
    files = []
    for name in (n for n in NAMES if n.startswith("llama-")):
        path = SMALL[name].build(tmp_path)
        files.append((tmp_path / "llama.weights").read_bytes())
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
        assert {e.value for t in tensors for e in t.external_data if e.key == "location"} == {"llama.weights"}
    assert len(files) == 3 and set(files) == {files[0]}


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("llama-")])
def test_peers_are_those_that_can_run_it(name: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = SMALL[name].build(tmp_path)
    if "openvino" in SMALL[name].peers:
        openvino.Core().read_model(path)
    else:
        with pytest.raises(Exception, match="No conversion rule"):
            openvino.Core().read_model(path)


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_of_order_1(name: str, tmp_path: Path) -> None:
    """An error relative to the largest output says something only where outputs are neither tiny nor one big value."""
    for array in run(SMALL[name], tmp_path, *SMALL[name].checks[-1]).values():
        assert 0.3 < array.std() < 5
        assert np.abs(array).max() < 8 * array.std()


def run(model: zoo.Model, folder: Path, batch: int, length: int) -> dict[str, np.ndarray]:
    path = model.build(folder)
    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, model.feed(batch, length)), strict=True))


def test_one_step_of_decoding_is_the_next_row_of_prefill(tmp_path: Path) -> None:
    """The cache of ``n`` tokens and one more token give what ``n + 1`` tokens give."""
    prefill, decode = (ReferenceEvaluator(str(SMALL[f"llama-{n}"].build(tmp_path))) for n in ("prefill", "decode"))
    ids = SMALL["llama-prefill"].feed(2, 10)["input_ids"]
    ones = np.ones_like(ids)
    whole = dict(zip(prefill.output_names, prefill.run(None, {"input_ids": ids, "attention_mask": ones}), strict=True))
    begun = prefill.run(None, {"input_ids": ids[:, :-1], "attention_mask": ones[:, :-1]})
    cache = {n.replace("present", "past_key_values"): v for n, v in zip(prefill.output_names, begun, strict=True)}
    del cache["logits"]
    step = decode.run(None, {"input_ids": ids[:, -1:], "attention_mask": ones, **cache})
    for name, got in zip(decode.output_names, step, strict=True):
        want = whole[name][:, -1:] if name == "logits" else whole[name]
        assert (found := compare(name, got, want, 1e-5)).ok, found


def test_prefill_and_decode_in_one_artifact(tmp_path: Path) -> None:
    """Two entry points of one file, run as they are used: the cache of the first goes into the second."""
    prefill, decode = SMALL["llama-prefill"], SMALL["llama-decode"]
    paths = {"prefill": prefill.build(tmp_path), "decode": decode.build(tmp_path)}
    shapes = dict(shapes_of(decode)) | {"input_ids": ("batch=1..32", "?")}  # of length 1 in one of them
    session = load(driver.compile(paths, options=Options(("cpu:native",), tuple(shapes.items()))).to_bytes())
    ids = prefill.feed(2, 12)["input_ids"]
    ones = np.ones_like(ids)
    logits, *cache = session.run(None, {"input_ids": ids[:, :8], "attention_mask": ones[:, :8]}, entry="prefill")
    for end in (9, 10):
        feed = {"input_ids": ids[:, end - 1 : end], "attention_mask": ones[:, :end]}
        feed |= {given: part for (given, _), part in zip(decode.states, cache, strict=True)}
        logits, *cache = session.run(None, feed, entry="decode")
        (want,) = ReferenceEvaluator(str(paths["prefill"])).run(
            ["logits"], {"input_ids": ids[:, :end], "attention_mask": ones[:, :end]}
        )
        assert (found := compare("logits", logits, want[:, -1:], TOLERANCE)).ok, (end, found)


@pytest.mark.parametrize("name", ["gpt2", "llama-prefill"])
def test_later_and_absent_tokens_are_not_seen(name: str, tmp_path: Path) -> None:
    model = ReferenceEvaluator(str(SMALL[name].build(tmp_path)))
    feed = SMALL[name].feed(2, 9)
    before = model.run(["logits"], feed)[0]
    feed["input_ids"][:, 5:] = (feed["input_ids"][:, 5:] + 1) % 301
    after = model.run(["logits"], feed)[0]
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 0.1


#: What our builders take from published configurations: the class, and each field there with our value.
PUBLISHED: list[tuple[str, Mapping[str, object]]] = [
    (
        "ResNetConfig",
        {
            "embedding_size": resnet.Config().embedding_size,
            "hidden_sizes": list(resnet.Config().hidden_sizes),
            "depths": list(resnet.Config().depths),
            "layer_type": "bottleneck",
            "downsample_in_bottleneck": False,  # v1.5: the 3×3 convolution has the stride
        },
    ),
    ("MobileNetV2Config", {"image_size": mobilenet.Config().image_size, "depth_multiplier": 1.0, "expand_ratio": 6.0}),
    ("BertConfig", {n: getattr(BASE, n) for n in BASE.__slots__}),
    (
        "ViTConfig",
        {n: getattr(vit.Config(), n) for n in vit.Config.__slots__ if n != "num_labels"},
    ),
    ("GPT2Config", {n: getattr(gpt2.Config(), n) for n in gpt2.Config.__slots__}),
    ("LlamaConfig", {n: getattr(llama.Config(), n) for n in ("vocab_size", "rms_norm_eps")}),
]


@pytest.mark.parametrize(("published", "fields"), PUBLISHED, ids=[name for name, _ in PUBLISHED])
def test_sizes_are_the_published_ones(published: str, fields: Mapping[str, object]) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, published)().to_dict()  # lists, whatever the attributes are
    assert {n: config[n] for n in fields} == dict(fields)


#: Parameters of the full models, in millions, as their authors count them: to the precision that is published.
PARAMETERS = {"resnet50": 25.6, "mobilenetv2": 3.5, "vit-b16": 86.6, "bert-base": 109.5, "gpt2": 124.4}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(zoo.zoo()))
def test_full_models_have_the_published_number_of_parameters(name: str, tmp_path: Path) -> None:
    path = zoo.zoo()[name].build(tmp_path)
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    trained = [t for t in tensors if t.external_data and t.data_type == onnx.TensorProto.FLOAT]
    count = sum(int(np.prod(t.dims)) for t in trained if "running" not in t.name)
    assert round(count / 1e6, 1) == PARAMETERS.get(name, 124.7)
