"""Compiled models on a GPU through their artifacts, beside the processor. Skipped, and never passed, without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tilewright as tw
from tilewright.accuracy import compare
from tilewright.benchmark import bench
from tilewright.feeds import samples
from tilewright.runtime.device_tensor import DeviceTensor

from models import zoo

from .driver import Driver, NoDevice
from .parts import gru_artifact, saved

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("triton")]


@pytest.fixture(scope="module")
def arch() -> Iterator[str]:
    try:
        yield Driver().arch
    except NoDevice as reason:
        pytest.skip(f"no NVIDIA GPU: {reason}")


@pytest.mark.parametrize("name", list(zoo.small()))
def test_small_models(name: str, arch: str, tmp_path: Path) -> None:
    """The same outputs as the processor's kernels, on the first run, the one that records a graph, and its replay."""
    model = zoo.small()[name]
    artifact = tw.compile(
        model.build(tmp_path),
        targets=(f"cuda:{arch}", "cpu"),
        verify=False,
        input_shapes=model.input_shapes,
        states=model.in_place,
    )
    path = saved(artifact, tmp_path)
    with tw.load(path, "cpu") as cpu, tw.load(path, "cuda") as gpu:
        assert gpu.target == f"cuda:{arch}"
        for feed in samples(path):
            for _ in range(3):
                for info, mine, theirs in zip(gpu.outputs, gpu.run(None, feed), cpu.run(None, feed), strict=True):
                    found = compare(info.name, mine, theirs)
                    assert found.ok, found


def test_tensors_stay_on_the_device(arch: str, tmp_path: Path) -> None:
    path = saved(gru_artifact((f"cuda:{arch}", "cpu")), tmp_path)
    x = np.random.default_rng(0).standard_normal((5, 1, 16)).astype(np.float32)
    with tw.load(path, "cpu") as cpu, tw.load(path, "cuda") as gpu:
        (wanted,) = cpu.run(None, {"x": x})
        (y,) = gpu.run(None, {"x": x}, outputs="device")
        assert isinstance(y, DeviceTensor)
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-5, atol=1e-5)
        pending = gpu.run_async({"x": x}, timed=True)
        np.testing.assert_allclose(pending.wait()[0], wanted, rtol=1e-5, atol=1e-5)
        assert pending.seconds is not None and pending.seconds > 0


def test_torch_shares_memory(arch: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this build of torch has no CUDA")
    path = saved(gru_artifact((f"cuda:{arch}", "cpu")), tmp_path)
    x = torch.randn(5, 1, 16, device="cuda")
    with tw.load(path, "cpu") as cpu, tw.load(path, "cuda") as gpu:
        (wanted,) = cpu.run(None, {"x": x.cpu()})
        y = torch.empty(5, 1, 1, 4, device="cuda")
        for stream in (None, torch.cuda.Stream()):
            y.zero_()
            gpu.run(None, {"x": x}, out={"y": y}, stream=stream)
            np.testing.assert_allclose(y.cpu().numpy(), wanted, rtol=1e-5, atol=1e-5)
        (mine,) = gpu.run(None, {"x": x}, outputs="device")
        theirs = torch.from_dlpack(mine)
        assert theirs.data_ptr() == mine.pointer
        del mine
        np.testing.assert_allclose(theirs.cpu().numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_bench(arch: str, tmp_path: Path) -> None:
    path = saved(gru_artifact((f"cuda:{arch}", "cpu")), tmp_path)
    (feed,) = samples(path, count=1)
    result = bench(path, feed, seconds=0.5, device="cuda")
    assert 0 < result.device_latency["p50"] < result.load.latency["p50"]
