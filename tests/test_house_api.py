"""``import tilewright as tw``: what can be compiled, and that it computes what it came from."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw

from models import minilm

NATIVE = ("cpu:native",)


def feeds(batch: int, sequence: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "input_ids": random.integers(0, 500, (batch, sequence)),
        "attention_mask": np.ones((batch, sequence), np.int64),
        "token_type_ids": np.zeros((batch, sequence), np.int64),
    }


def test_names() -> None:
    assert set(tw.__all__) <= set(dir(tw))
    assert all(getattr(tw, name) is not None for name in tw.__all__)
    with pytest.raises(AttributeError, match="anything"):
        _ = tw.anything


def test_path_and_proto_give_the_same_code(tmp_path: Path) -> None:
    path = minilm.build_small(tmp_path)
    stages: list[str] = []
    first = tw.compile(path, NATIVE, verify=False, progress=lambda stage, detail: stages.append(stage))
    second = tw.compile(onnx.load(str(path)), NATIVE)
    assert stages == ["import", "optimize", "lower", "build", "package"]
    outputs = [tw.load(a).run(None, feeds(2, 5))[0] for a in (first, second)]
    np.testing.assert_array_equal(*outputs)


def test_saved_and_loaded(tmp_path: Path) -> None:
    artifact = tw.compile(minilm.build_small(tmp_path), NATIVE, verify=False)
    artifact.save(tmp_path / "m.tw")
    session = tw.load(str(tmp_path / "m.tw"), device="cpu", threads=1)
    assert [i.name for i in session.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert session.inputs[0].shape == ("batch", "sequence")
    assert session(**feeds(3, 4))["sentence_embedding"].shape == (3, 64)
    checked = tw.verify(tmp_path / "m.tw", tmp_path / "small.onnx", sizes={"input_ids": (4, 19)})
    assert checked.ok
    with pytest.raises(tw.InputError, match="input_ids"):
        session.run(None, {})


def test_sizes_can_be_bound(tmp_path: Path) -> None:
    shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, "2..8"))
    artifact = tw.compile(minilm.build_small(tmp_path), NATIVE, input_shapes=shapes)
    session = tw.load(artifact)
    assert session.inputs[0].shape == (1, "sequence")
    assert session.run(None, feeds(1, 8))[0].shape == (1, 64)
    with pytest.raises(tw.InputError):
        session.run(None, feeds(1, 9))


def test_a_failed_verification_raises(tmp_path: Path) -> None:
    with pytest.raises(tw.AccuracyError, match="sentence_embedding off by"):
        tw.compile(minilm.build_small(tmp_path), NATIVE, tolerance=1e-12)


def test_bench(tmp_path: Path) -> None:
    result = tw.bench(tw.compile(minilm.build_small(tmp_path), NATIVE, verify=False), seconds=0.1, threads=1)
    assert result.load.latency["p50"] <= result.load.latency["p99"]


@pytest.fixture
def module():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = (torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.LayerNorm(32), torch.nn.Linear(32, 8))
    return torch.nn.Sequential(*layers).eval()


def test_torch_module(module) -> None:
    import torch

    x = torch.randn(5, 16)
    artifact = tw.compile(module, NATIVE, example_args=(x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    session = tw.load(artifact)
    (got,) = session.run(None, {session.inputs[0].name: np.ones((3, 16), np.float32)})
    with torch.no_grad():
        want = module(torch.ones(3, 16)).numpy()
    assert np.abs(got - want).max() < 1e-5


def test_exported_program(module) -> None:
    import torch

    program = torch.export.export(module, (torch.randn(4, 16),))
    session = tw.load(tw.compile(program, NATIVE))
    assert session.inputs[0].shape == (4, 16)


def test_torch_module_without_examples_is_refused(module) -> None:
    with pytest.raises(tw.UsageError, match="torch-arguments"):
        tw.compile(module, NATIVE)


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(tw.UsageError, match="not-an-artifact"):
        tw.load(object())  # type: ignore[arg-type]
