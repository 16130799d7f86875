"""Small models of every kind on four virtual devices: the numbers of one device, and the exchanges between them."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tilewright as tw
from tilewright.artifact import Artifact
from tilewright.driver import compile
from tilewright.options import Options
from tilewright.runtime.session import load

from models import llama, zoo

pytest.importorskip("jaxlib")

ONE: tuple[tuple[int, ...], str] = ((), "")
AUTO, TENSOR, BATCH = ((2, 2), "auto"), ((4,), "tensor"), ((4,), "batch")

#: Model, mesh, how often all devices add what they have: two sums a layer of a transformer (attention, feed-forward),
#: of which one is left where two heads of keys serve four of queries and cannot be cut in four. The batch needs none.
QUICK = [("bert-base", AUTO, 4), ("gpt2", TENSOR, 4), ("resnet50", AUTO, 4)]
SLOW = [
    ("bert-base", TENSOR, 4),
    ("bert-base", BATCH, 0),
    ("gpt2", AUTO, 4),
    ("gpt2", BATCH, 0),
    ("resnet50", TENSOR, 4),
    ("resnet50", BATCH, 0),
    *[("mobilenetv2", *c) for c in ((AUTO, 4), (TENSOR, 4), (BATCH, 0))],
    *[("vit-b16", *c) for c in ((AUTO, 4), (TENSOR, 4), (BATCH, 0))],
    *[("llama-prefill", *c) for c in ((AUTO, 4), (TENSOR, 2), (BATCH, 0))],
    *[("llama-decode", *c) for c in ((AUTO, 4), (TENSOR, 2), (BATCH, 0))],
    *[("llama-decode-static", *c) for c in ((AUTO, 4), (TENSOR, 2), (BATCH, 0))],
]


def built(name: str, mesh: tuple[int, ...], shard: str, folder: Path, path: Path) -> Artifact:
    """A small model, every open size of it padded: the batch to 4, others to 32."""
    model = zoo.small()[name]
    source = folder / f"{name}.onnx"
    sizes = {dim.partition("=")[0] for shape in model.input_shapes.values() for dim in map(str, shape) if "=" in dim}
    options = Options(
        targets=("xla:cpu",),
        input_shapes=tuple((k, tuple(map(str, v))) for k, v in model.input_shapes.items()),
        buckets=tuple((size, (4,) if size == "batch" else (32,)) for size in sorted(sizes)),
        mesh=mesh,
        shard=shard,
    )
    made = compile(source if source.exists() else model.build(folder), options=options)
    made.save(path)
    return made


def exchanges(artifact: Artifact, mesh: tuple[int, ...]) -> Counter[str]:
    """Operations between devices of the one program of an artifact, as XLA's CPU compiler leaves them."""
    from tilewright.runtime.devices.xla import Client

    (module,) = (data for name, data in artifact.parts[0].members.items() if name.endswith(".vhlo"))
    text = Client("cpu", mesh).compile(module).hlo_modules()[0].to_string()
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    return Counter(re.findall(rf" ({names})(?:-start)?\(", text))


def compare(name: str, config: tuple[tuple[int, ...], str], sums: int, folder: Path, tmp_path: Path) -> None:
    model = zoo.small()[name]
    built(name, *ONE, folder, tmp_path / "one.tw")
    made = built(name, *config, folder, tmp_path / "many.tw")
    length = model.checks[0][1] if "image" in model.input_shapes else 20
    feed = model.feed(3, length)
    want = load(str(tmp_path / "one.tw"), device="xla-cpu").run(None, feed)
    got = load(str(tmp_path / "many.tw"), device="xla-cpu").run(None, feed)
    for mine, reference in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-5 * np.abs(reference).max())
    assert exchanges(made, config[0]) == ({"all-reduce": sums} if sums else {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize(("name", "config", "sums"), QUICK)
def test_numbers_and_exchanges(
    name: str, config: tuple[tuple[int, ...], str], sums: int, folder: Path, tmp_path: Path
) -> None:
    compare(name, config, sums, folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config", "sums"), SLOW)
def test_numbers_and_exchanges_of_all(
    name: str, config: tuple[tuple[int, ...], str], sums: int, folder: Path, tmp_path: Path
) -> None:
    compare(name, config, sums, folder, tmp_path)


def test_what_each_device_holds(folder: Path, tmp_path: Path) -> None:
    """Of BERT's layers a quarter; what comes after a sum, norms and lookups whole."""
    made = built("bert-base", *TENSOR, folder, tmp_path / "a.tw")
    mesh = made.report.targets[0].mesh
    assert mesh is not None and mesh.virtual
    weights = {w.name: w for w in mesh.weights}
    query = weights["encoder.layer.0.attention.self.query.weight"]
    assert (query.parts, query.bytes_per_device * 4) == ((1, 4), query.bytes)
    assert weights["encoder.layer.0.output.dense.weight"].parts == (4, 1)
    whole = weights["embeddings.word_embeddings.weight"]
    assert (whole.bytes_per_device, whole.reason) == (whole.bytes, "301 rows cannot be divided by 4")
    assert mesh.bytes_per_device == sum(w.bytes // 4 if w.is_cut else w.bytes for w in mesh.weights)
    assert mesh.bytes_per_device < 0.5 * sum(w.bytes for w in mesh.weights)


def test_a_vocabulary_is_cut_along_its_rows(folder: Path, tmp_path: Path) -> None:
    """Each device looks up the rows that it has, and the results are added; the logits come out cut."""
    config = dataclasses.replace(llama.SMALL, vocab_size=304)
    source = llama.save_prefill(tmp_path / "llama-prefill.onnx", config)
    feed = zoo.small()["llama-prefill"].feed(4, 16)
    results = []
    for mesh, shard in (ONE, AUTO):
        options = Options(targets=("xla:cpu",), input_shapes=(("input_ids", ("4", "16")),), mesh=mesh, shard=shard)
        made = compile(source, options=options)
        made.save(tmp_path / "a.tw")
        results.append(load(str(tmp_path / "a.tw"), device="xla-cpu").run(None, feed))
    for mine, reference in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-5 * np.abs(reference).max())
    facts = made.report.targets[0].mesh
    assert facts is not None
    parts = {w.name: w.parts for w in facts.weights}
    assert (parts["embed_tokens.weight"], parts["lm_head.weight"]) == ((2, 1), (1, 2))
    assert exchanges(made, (2, 2)) == {"all-reduce": 5}


@pytest.mark.slow
def test_entry_points_share_weights_on_a_mesh(folder: Path, tmp_path: Path) -> None:
    names = ("llama-prefill", "llama-decode")
    for name in names:
        zoo.small()[name].build(folder)
    results = []
    for mesh, shard in (ONE, AUTO):
        options = Options(
            targets=("xla:cpu",),
            input_shapes=(("input_ids", ("4", "1..16")), ("past_key_values.0.key", ("4", "2", "16", "16"))),
            mesh=mesh,
            shard=shard,
        )
        made = compile({name: folder / f"{name}.onnx" for name in names}, options=options)
        made.save(tmp_path / "a.tw")
        session = load(str(tmp_path / "a.tw"), device="xla-cpu")
        results.append([y for n in names for y in session.run(None, zoo.small()[n].feed(4, 16), entry=n)])
    for mine, reference in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-5 * np.abs(reference).max())
    facts = made.report.targets[0].mesh
    assert facts is not None
    assert len({w.name for w in facts.weights}) == len(facts.weights)  # both entry points cut them alike


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "method", "algorithm"), [("int8", "int8-weights", ""), ("int4", "", "rtn"), ("bf16", "", "")]
)
def test_narrow_weights_on_a_mesh(asked: str, method: str, algorithm: str, folder: Path) -> None:
    """Integers and their scales are cut alike; 4-bit weights lie in bytes that are cut along the first dimension."""
    model = zoo.small()["llama-decode"]
    source = model.build(folder)
    shapes = {k: [_said(d) for d in v] for k, v in model.input_shapes.items()}
    results = []
    for mesh, shard in (ONE, AUTO):
        made = tw.compile(
            source,
            targets=("xla:cpu",),
            input_shapes=shapes,
            mesh=mesh,
            shard=shard or None,
            precision=asked,
            method=method or None,
            settings={"algorithm": algorithm} if algorithm else None,
            allow_precision=("f32",),
            verify=False,
        )
        results.append(tw.load(made, device="xla-cpu").run(None, model.feed(4, 64)))
    for mine, reference in zip(results[1], results[0], strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(mine, reference, rtol=0, atol=(1e-2 if asked == "bf16" else 1e-5) * scale)
    facts = made.report.targets[0].mesh
    assert facts is not None
    cut = {w.name: w for w in facts.weights}
    query = next(w for name, w in cut.items() if name.startswith("layers.0.self_attn.q_proj.weight"))
    assert query.is_cut == (asked != "int4")
    assert ("lies in bytes" in query.reason) == (asked == "int4")


def _said(dim: int | str) -> int | str:
    name, _, _ = str(dim).partition("=")
    return dim if name == str(dim) else 4 if name == "batch" else 64
