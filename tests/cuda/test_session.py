"""Sessions on a GPU over the mock driver: choice of the part, errors, what they tell, damaged artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.benchmark import bench
from tilewright.cli.bench import lines
from tilewright.errors import UsageError
from tilewright.runtime.command import main
from tilewright.runtime.devices import cuda
from tilewright.runtime.devices.driver import found

from tests.cuda.mock import plans
from tests.cuda.mock.driver import Mock
from tests.runtime import programs
from tests.runtime.rewrite import rewrite

from .sessions import artifact, load, vector

Array = np.ndarray[Any, np.dtype[Any]]


# -- which part, on which GPU ----------------------------------------------------------------------------------------

#: compute capability, held architectures (a minus: PTX beside them), device, allow_jit → target or error code.
CHOICES: list[tuple[tuple[int, int], tuple[int, ...], str, bool, str]] = [
    ((9, 0), (80, 90), "cuda", False, "cuda:sm_90"),
    ((9, 0), (80, 90), "auto", False, "cuda:sm_90"),
    ((9, 0), (80, 90), "cpu", False, "cpu:baseline"),
    ((9, 0), (80, 90), "cuda:0", False, "cuda:sm_90"),
    ((9, 0), (80, 90), "cuda:sm_90", False, "cuda:sm_90"),
    ((8, 9), (80, 86, 90), "cuda", False, "cuda:sm_86"),
    ((8, 0), (80, 86), "cuda", False, "cuda:sm_80"),
    ((8, 9), (86,), "cuda-sm_86", False, "cuda:sm_86"),
    ((9, 0), (80,), "cuda", False, "gpu-code-missing"),
    ((9, 0), (80,), "auto", False, "cpu:baseline"),
    ((9, 0), (80, 86), "cuda", True, "cuda:sm_86"),
    ((7, 5), (80,), "cuda", True, "gpu-code-missing"),
    ((12, 0), (100,), "cuda", False, "gpu-code-missing"),
    ((9, 0), (80, 90), "cuda:sm_80", False, "gpu-code-missing"),
    ((9, 0), (90,), "cuda:sm_80", False, "device-missing"),
    ((9, 0), (90,), "cuda:1", False, "gpu-unknown"),
    ((9, 0), (90,), "cuda:", False, "device-missing"),
]


@pytest.mark.parametrize(("capability", "archs", "device", "jit", "expected"), CHOICES)
def test_choice(
    gpu: Mock, capability: tuple[int, int], archs: tuple[int, ...], device: str, jit: bool, expected: str
) -> None:
    gpu.set(major=capability[0], minor=capability[1])
    data = artifact(archs=archs, cpu=True, ptx=jit)
    try:
        with runtime.load(data, device, 1, allow_jit=jit) as session:
            found = session.target
            np.testing.assert_array_equal(session(x=vector())["y"], 4 * vector())
            assert session.device == ("cpu" if found.startswith("cpu") else "cuda:0")
            assert bool(session.note) == (device == "auto" and found.startswith("cpu"))
            assert (session.jit_seconds > 0) == (jit and capability == (9, 0))
    except runtime.DeviceError as error:
        found = error.code
        assert error.exit_code == 8
    assert found == expected


def test_no_code_for_the_gpu_says_what_there_is_and_what_to_do(gpu: Mock) -> None:
    with pytest.raises(runtime.DeviceError) as caught:
        runtime.load(artifact(archs=(80,), ptx=True), "cuda")
    text = str(caught.value)
    assert "it holds cuda:sm_80" in text and "Mock GPU 0, compute capability 9.0" in text
    assert "-t cuda:sm_90" in text and "--allow-jit" in text


def test_the_second_gpu(gpu: Mock) -> None:
    gpu.set(devices=2)
    with runtime.load(artifact(), "cuda:1", 1) as session:
        assert session.device == "cuda:1"


NONE = {
    "no driver": (lambda mock, patch: patch.setattr(cuda, "LIBRARY", "libnone.so.9"), "libnone.so.9"),
    "no GPU": (lambda mock, patch: mock.set(devices=0), "GPU"),
    "an old driver": (lambda mock, patch: mock.set(driver=11000), "11"),
}


@pytest.mark.parametrize(("spoil", "told"), NONE.values(), ids=NONE)
def test_a_missing_gpu_is_never_another_device_in_silence(
    gpu: Mock, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None], told: str
) -> None:
    spoil(gpu, monkeypatch)
    with pytest.raises(runtime.DeviceError, match=told) as caught:
        runtime.load(artifact(cpu=True), "cuda")
    assert (caught.value.code, caught.value.exit_code) == ("gpu-missing", 8)
    with runtime.load(artifact(cpu=True), threads=1) as session:
        assert session.target == "cpu:baseline" and "no GPU: " in session.note
    with pytest.raises(runtime.DeviceError, match=told):
        runtime.load(artifact())


def test_a_driver_that_is_too_old_for_the_code(gpu: Mock) -> None:
    gpu.set(driver=11080)
    with pytest.raises(runtime.DeviceError, match=r"is for CUDA 11\.8; .* needs CUDA 12\.0") as caught:
        runtime.load(artifact(cpu=True), "cuda")
    assert caught.value.code == "driver-too-old"
    with runtime.load(artifact(cpu=True), threads=1) as session:
        assert session.target == "cpu:baseline" and "CUDA 11.8" in session.note


def test_no_memory_says_what_was_asked_for(gpu: Mock) -> None:
    gpu.set(memory=1 << 20)
    session = load()
    with pytest.raises(runtime.ResourceError, match="bytes") as caught:
        session(x=vector(1 << 22))
    assert caught.value.exit_code == 7
    np.testing.assert_array_equal(session(x=vector())["y"], 4 * vector())


# -- what a session tells --------------------------------------------------------------------------------------------


def test_profile_and_memory(gpu: Mock) -> None:
    with load(plans.host_step()) as session:
        told = session.profile({"x": vector()})
        assert [name for name, _ in told] == ["add", "relu", "add"]
        use = session.memory({"x": vector()})
        assert use.arena >= use.live_maximum > 0 and use.total == 1 << 30 and 0 < use.free <= use.total
        assert use.kept > 0


def test_an_index_outside_its_tensor_is_refused(gpu: Mock) -> None:
    with load(plans.select()) as session:
        table = vector(8)
        assert session(table=table, index=np.array([3]))["y"] == table[3]
        with pytest.raises(runtime.InputError, match="index"):
            session(table=table, index=np.array([8]))


def test_a_closed_session(gpu: Mock) -> None:
    session = load()
    session.close()
    with pytest.raises(runtime.InputError, match="closed"):
        session(x=vector())


def test_a_failing_driver_is_told(gpu: Mock) -> None:
    session = load()
    gpu.fail("cuLaunchKernel", code=700)
    with pytest.raises(runtime.DeviceError, match="ILLEGAL_ADDRESS") as caught:
        session(x=vector())
    assert caught.value.exit_code == 8


def test_the_command(gpu: Mock, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tw"
    path.write_bytes(artifact(archs=(80,), ptx=True, cpu=True))
    np.save(tmp_path / "x.npy", vector())
    given = ["--input", f"x=@{tmp_path / 'x.npy'}", "--output-dir", str(tmp_path)]
    assert main(["run", str(path), *given, "--device", "cuda"]) == 8
    assert main(["run", str(path), *given, "--device", "cuda", "--allow-jit"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 4 * vector())
    told = capsys.readouterr().err
    assert "cuda:sm_80 on GPU 0 (Mock GPU 0, compute capability 9.0)" in told and "by the NVIDIA driver" in told
    assert main(["run", str(path), *given]) == 0
    assert "cpu:baseline" in (told := capsys.readouterr().err) and "no GPU: " in told


def test_the_doctor_lists_gpus(gpu: Mock) -> None:
    gpu.set(devices=2)
    state, told = found(gpu.path.decode())
    assert state == "ok" and told.startswith("driver for CUDA 13.0; GPU 0 Mock GPU 0, compute capability 9.0, 1.1 GB")
    assert "GPU 1 Mock GPU 1" in told
    gpu.set(devices=0)
    assert found(gpu.path.decode()) == ("missing", "driver for CUDA 13.0, which shows no GPU")
    gpu.fail("cuInit", code=999)
    assert found(gpu.path.decode())[0] == "broken"
    assert found("libnone.so.9")[0] == "missing"


def test_bench_tells_the_device_from_the_whole(gpu: Mock, tmp_path: Path) -> None:
    path = tmp_path / "model.tw"
    path.write_bytes(artifact(programs.plan()))
    for entry, feed in {"main": {"x": _rows(4)}, "state": {"cache": vector(400), "x": vector(400, 1)}}.items():
        result = bench(path, feed, entry=entry, seconds=0.05, device="cuda")
        assert result.place == "cuda:sm_90 on GPU 0 (Mock GPU 0, compute capability 9.0)"
        assert result.device_latency["p50"] > 0
        told = dict(lines(result))
        assert told["latency"].endswith("host to host, transfers included") and told["on"] == result.place
    with pytest.raises(UsageError, match="processor"):
        bench(path, feed, entry="state", seconds=0.05, device="cuda", roofline=True)


def _rows(n: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, programs.K)).astype(np.float32)


# -- damaged parts ---------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    return rewrite(artifact(plans.host_step()), {}, lambda manifest: change(manifest["targets"][0]))


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(target: dict[str, Any]) -> None:
        for name in names:
            del target["members"][name]

    return change


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no plan": (without("plan.bin"), "has no plan.bin"),
    "no executor": (without("runtime.so"), "has no runtime.so"),
    "no kernels of the host": (without("kernels.so"), "kernel"),
    "another architecture": (lambda t: t.update(target="cuda:sm_80"), "it is for sm_90, the part is called cuda:sm_80"),
    "no architecture": (lambda t: t.update(target="cuda:new"), "the part is called cuda:new"),
    "a plan as modules": (lambda t: t["members"].update({"modules.bin": t["members"]["plan.bin"]}), "modules"),
    "modules as the plan": (lambda t: t["members"].update({"plan.bin": t["members"]["modules.bin"]}), "plan"),
    "a member that is not there": (lambda t: t["members"].update({"modules.bin": "none"}), "missing"),
}


@pytest.mark.parametrize(("change", "told"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_parts(gpu: Mock, change: Callable[[dict[str, Any]], None], told: str) -> None:
    with pytest.raises(runtime.ArtifactError, match=told) as caught:
        runtime.load(edited(change), "cuda")
    assert caught.value.exit_code == 9


NEVER = ["warp-drive", 5 if programs.FAMILY == "x86_64" else 6, 0, 0, 63]


@pytest.mark.parametrize(
    "host",
    [{}, {"family": "pdp11", "requires": []}, {"family": programs.FAMILY, "requires": [NEVER]}],
    ids=["none", "another family", "a newer one"],
)
def test_a_host_part_for_another_machine(gpu: Mock, host: dict[str, Any]) -> None:
    with pytest.raises(runtime.DeviceError) as caught:
        runtime.load(edited(lambda target: target.update(host=host)), "cuda")
    assert caught.value.exit_code == 8


def test_odd_provenance_is_no_reason_to_fail(gpu: Mock) -> None:
    for tools in ({"ptxas": 7}, {"ptxas": "new"}, [], {"ptxas": "9" * 40 + ".1"}):
        data = rewrite(artifact(), {}, lambda m, tools=tools: m["provenance"].update(tools=tools))  # type: ignore[misc]
        with runtime.load(data, "cuda", 1) as session:
            assert json.dumps(session.runs())
