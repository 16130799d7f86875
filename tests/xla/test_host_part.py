"""Nodes that the device cannot compute, in artifacts: run between its programs, told, refused where that is asked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tilewright as tw
from tilewright import runtime
from tilewright.runtime import device

from tests.runtime import test_c as run_model
from tests.runtime.rewrite import members, rewrite
from tests.runtime.test_c import zig
from tests.xla import models

pytest.importorskip("jaxlib")

Array = np.ndarray[Any, Any]
ROWS = {"x": ("1..5", models.WIDTH)}


def rows(n: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, models.WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def artifact() -> bytes:
    return tw.compile(models.with_host(), ("xla:cpu",), input_shapes=ROWS, verify=False).to_bytes()


@pytest.mark.parametrize("n", [1, 3, 5])
def test_sizes_that_only_the_host_part_finds(artifact: bytes, n: int) -> None:
    y, found = runtime.load(artifact, "xla-cpu", threads=1).run(None, {"x": rows(n)})
    want = np.maximum(rows(n) @ models.weight(), 0)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, np.nonzero(y))


def test_the_device_goes_on_with_what_the_host_part_made() -> None:
    """Device, host, device: what was on the device stays there, for both."""
    text = f"""g (float[N, {models.WIDTH}] x) => (float[N, {models.WIDTH}] y, float[N, {models.WIDTH}] again)
        {{ a = MatMul(x, w) u, i, j, c = Unique <sorted = 1> (a) s = ReduceMax <keepdims = 0> (u)
           b = Sub(a, s) y = MatMul(b, w) again = Relu(a) }}"""
    model = models.parsed(text, w=models.weight())
    compiled = tw.compile(model, ("xla:cpu",), input_shapes=ROWS, verify=False)
    (told,) = compiled.report.targets
    assert any(line.startswith("Unique") for line in told.fallback)
    session = runtime.load(compiled.to_bytes(), "xla-cpu", threads=1)
    for n in (2, 4):
        a = rows(n) @ models.weight()
        y, again = session.run(None, {"x": rows(n)})
        np.testing.assert_allclose(y, (a - a.max()) @ models.weight(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(again, np.maximum(a, 0), rtol=1e-5, atol=1e-5)
    steps = [name for name, _ in session.profile({"x": rows(2)})]
    assert [s.startswith("host part") for s in steps] == [False, True, False]
    assert session.memory({"x": rows(2)}).arena > 0


def test_memory_of_an_output_of_unknown_size(artifact: bytes) -> None:
    session = runtime.load(artifact, "xla-cpu")
    with pytest.raises(runtime.InputError, match="known only after the run"):
        session.run(None, {"x": rows(2)}, out={"found": np.zeros((2, 3), np.int64)})


def test_a_cpu_that_lacks_features_of_the_host_part(artifact: bytes) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        (target,) = manifest["targets"]
        target["host"]["requires"].append(["frobs", 0, 0, 0, 63])

    with pytest.raises(runtime.DeviceError, match=r"host part of xla:cpu needs frobs"):
        runtime.load(rewrite(artifact, {}, edit), "xla-cpu")


def test_a_host_part_of_another_family(artifact: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_family", lambda: "riscv64")
    with pytest.raises(runtime.DeviceError, match="host part of xla:cpu is for linux x86_64, not linux riscv64"):
        runtime.load(artifact, "xla-cpu")


def test_weights_of_the_host_part_are_checked(artifact: bytes) -> None:
    at = artifact.index(models.weight().tobytes()[:64])
    damaged = bytearray(artifact)
    damaged[at] ^= 1
    with pytest.raises(runtime.ArtifactError, match="weights"):
        runtime.load(bytes(damaged), "xla-cpu")


def test_no_loader_takes_the_host_part_for_the_model(artifact: bytes) -> None:
    """Readers choose the part whose ``family`` is the machine's: that of a host part is told apart."""
    manifest = json.loads(members(artifact)["manifest.json"])
    (target,) = manifest["targets"]
    assert "family" not in target and "requires" not in target
    assert target["host"]["family"] == "x86_64"
    with pytest.raises(runtime.DeviceError, match="it holds xla:cpu"):
        runtime.load(artifact)


def test_a_mixed_artifact_has_its_cpu_parts_first_and_weights_once() -> None:
    both = tw.compile(models.with_host(), ("xla:cpu", "cpu:x86-64-v3"), input_shapes=ROWS, verify=False).to_bytes()
    manifest = json.loads(members(both)["manifest.json"])
    assert [t["target"] for t in manifest["targets"]] == ["cpu:x86-64-v3", "xla:cpu"]
    names = [tensor[0] for tensor in manifest["weights"]["tensors"]]
    assert len(names) == len(set(names))
    want = runtime.load(both, "cpu").run(None, {"x": rows(4)})
    for one, other in zip(want, runtime.load(both, "xla-cpu").run(None, {"x": rows(4)}), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_c_loader_takes_the_cpu_part_of_a_mixed_artifact(tmp_path: Path) -> None:
    """The host part asks for more features than the CPU part has, which would make it the better one."""
    targets = ("xla:cpu", "cpu:x86-64-v2")
    tw.compile(models.with_host(), targets, input_shapes=ROWS, verify=False).save(tmp_path / "m.tw")
    zig([Path(run_model.__file__).parent / "run_model.c"], tmp_path / "program")
    rows(3).tofile(tmp_path / "in")
    arguments = [tmp_path / "program", tmp_path / "m.tw", tmp_path / "in", 3, models.WIDTH, tmp_path / "out"]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    want = runtime.load(tmp_path / "m.tw").run(None, {"x": rows(3)})
    assert (tmp_path / "out").read_bytes() == b"".join(array.tobytes() for array in want)


def test_entry_points_share_programs_weights_and_the_host_part() -> None:
    entries = {"all": models.with_host(), "short": models.product()}
    compiled = tw.compile(entries, ("xla:cpu",), input_shapes=ROWS, verify=False)
    manifest = json.loads(members(compiled.to_bytes())["manifest.json"])
    assert len([t for t in manifest["weights"]["tensors"] if t[2] == 4 * models.WIDTH**2]) == 1
    session = runtime.load(compiled.to_bytes(), "xla-cpu", entry="short")
    (y,) = session.run(None, {"x": rows(3)})
    np.testing.assert_array_equal(session.run(None, {"x": rows(3)}, entry="all")[0], y)


def test_the_same_compile_gives_the_same_bytes() -> None:
    def once() -> bytes:
        return tw.compile(models.with_host(), ("xla:cpu", "cpu:x86-64-v3"), input_shapes=ROWS, verify=False).to_bytes()

    assert once() == once()
