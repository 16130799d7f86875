"""Sessions on a GPU over the mock driver: choice of the part, operands in either memory, streams, lifetimes, errors."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.package.writer import Part, artifact_bytes
from tilewright.plan.plan import Plan
from tilewright.runtime import dlpack
from tilewright.runtime.command import main
from tilewright.runtime.device_tensor import DeviceTensor
from tilewright.runtime.devices import cuda
from tilewright.runtime.gpu_session import GpuSession
from tilewright.runtime.manifest import evaluate_size

from tests.cuda.mock import plans
from tests.cuda.mock.driver import NAMES, Mock, modules
from tests.runtime import programs
from tests.runtime.rewrite import rewrite

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def gpu(mock: Mock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """The mock as the driver of sessions; what they hold is collected before the mock looks for what is left."""
    monkeypatch.setattr(cuda, "LIBRARY", mock.path.decode())
    yield mock
    gc.collect()


def part(plan: Plan, arch: int = 90, *, ptx: bool = False) -> Part:
    members = {"modules.bin": modules(arch=arch, ptx=ptx)}
    if plan.host_kernels:
        members["kernels.so"] = programs.kernels_library()
    target, folder = f"cuda:sm_{arch}", f"cuda/sm_{arch}"
    return Part(target, folder, replace(plan, kernels=NAMES), members, programs.FAMILY, ())


def artifact(plan: Plan | None = None, archs: tuple[int, ...] = (90,), cpu: bool = False, ptx: bool = False) -> bytes:
    plan = plan or plans.twice()
    parts = [part(plan, arch, ptx=ptx) for arch in archs]
    parts += [programs.part(replace(plan, kernels=programs.KERNELS))] if cpu else []
    weights = programs.weights() if plan.constants else {}
    runtimes = {programs.FAMILY: programs.runtime_library()}
    return artifact_bytes(parts, weights, runtimes, {"tools": {"ptxas": "12.9.86"}})


def load(plan: Plan | None = None, **settings: Any) -> GpuSession:
    session = runtime.load(artifact(plan), "cuda", 1, **settings)
    assert isinstance(session, GpuSession)
    return session


def vector(n: int = 64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


class Foreign:
    """A tensor of another library in the mock's memory."""

    def __init__(
        self, mock: Mock, array: Array, dtype: str = "f32", device: tuple[int, int] = (2, 0), *, old: bool = False
    ):
        with mock.context():
            self.pointer = mock.to_device(array)
        self.mock, self.shape, self.dtype, self.device, self.old = mock, array.shape, dtype, device, old
        self.streams: list[int | None] = []
        self.held = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None, **more: Any) -> object:
        if self.old and more:
            raise TypeError("unexpected keyword argument")
        self.streams.append(stream)
        self.held += 1
        return dlpack.give(self.pointer, self.shape, self.dtype, self.device, _Hold(self), "max_version" in more)

    def numpy(self) -> Array:
        with self.mock.context():
            return self.mock.from_device(self.pointer, np.empty(self.shape, np.float32))

    def free(self) -> None:
        with self.mock.context():
            self.mock.free(self.pointer)


class _Hold:
    def __init__(self, tensor: Foreign):
        self.tensor = tensor

    def __del__(self) -> None:
        self.tensor.held -= 1


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
    with pytest.raises(runtime.DeviceError, match="12"):
        runtime.load(artifact(cpu=True), "cuda")


def test_no_memory_says_what_was_asked_for(gpu: Mock) -> None:
    gpu.set(memory=1 << 20)
    session = load()
    with pytest.raises(runtime.ResourceError, match="bytes") as caught:
        session(x=vector(1 << 22))
    assert caught.value.exit_code == 7
    np.testing.assert_array_equal(session(x=vector())["y"], 4 * vector())


# -- operands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [e.name for e in programs.plan().entries])
def test_numbers_of_every_entry_point(gpu: Mock, entry: str) -> None:
    """Those of the processor, for whole plans: loops, sizes that a run tells, states, calls."""
    inputs = {i.name: _made(i) for i in load(programs.plan(), entry=entry).inputs}
    with runtime.load(programs.artifact(), "cpu", 1, entry=entry) as cpu:
        wanted = cpu.run(None, {n: a.copy() for n, a in inputs.items()})
    with load(programs.plan(), entry=entry) as session:
        for outputs in ("host", "device"):
            found = session.run(None, {n: a.copy() for n, a in inputs.items()}, outputs=outputs)
            for got, want in zip(found, wanted, strict=True):
                np.testing.assert_allclose(got.numpy() if outputs == "device" else got, want, rtol=1e-6)
            del found, got


def _made(info: runtime.TensorInfo) -> Array:
    shape = [evaluate_size(n, {"N": 6}) for n in info.shape]
    if info.dtype == "i64":
        return np.full(shape, 2, np.int64)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 5


def test_outputs_stay_on_the_device_and_go_back_in(gpu: Mock) -> None:
    session = load()
    (y,) = session.run(None, {"x": vector()}, outputs="device")
    assert isinstance(y, DeviceTensor) and (y.shape, y.dtype, y.device) == ((64,), "f32", 0)
    gpu.log()
    (z,) = session.run(None, {"x": y}, outputs="device")
    assert not [line for line in gpu.log() if line.startswith(("h2d", "d2h", "d2d"))]
    np.testing.assert_array_equal(z.numpy(), 16 * vector())
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(y)
    # Memory outlives the session, and the plan outlives its memory.
    session.close()
    del session
    gc.collect()
    np.testing.assert_array_equal(y.numpy(), 4 * vector())


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_other_libraries_are_used_where_they_lie(gpu: Mock, old: bool) -> None:
    session = load()
    x, y = Foreign(gpu, vector(), old=old), Foreign(gpu, np.zeros(64, np.float32), old=old)
    gpu.log()
    for _ in range(3):
        assert session.run(None, {"x": x}, out={"y": y}) == [y]
    assert not [line for line in gpu.log() if line.startswith(("h2d", "d2h", "d2d"))]
    np.testing.assert_array_equal(y.numpy(), 4 * vector())
    assert x.streams == [1, 1, 1] == y.streams  # ordered behind their library's work in the default stream
    assert (x.held, y.held) == (0, 0)  # given back after each run
    x.free()
    y.free()


def test_a_given_stream_is_told_to_the_other_library(gpu: Mock) -> None:
    from tests.cuda.test_runtime_async import make_stream

    with gpu.context():
        stream = make_stream(gpu)
    session, x = load(), Foreign(gpu, vector())

    class Torch:
        cuda_stream = stream.value

    class CuPy:
        ptr = stream.value

    for given in (stream.value, Torch(), CuPy()):
        (y,) = session.run(None, {"x": x}, stream=given)
        np.testing.assert_array_equal(y, 4 * vector())
    assert x.streams == [stream.value] * 3
    x.free()
    with gpu.context():
        gpu.lib.cuStreamDestroy_v2(stream)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another type": ({"dtype": "i32"}, "it is i32, the model has x: f32"),
    "another GPU": ({"device": (2, 1)}, "it lies on GPU 1, the model is on GPU 0"),
    "another kind of device": ({"device": (10, 0)}, "another kind"),
}


@pytest.mark.parametrize(("facts", "told"), REFUSED.values(), ids=REFUSED)
def test_tensors_that_cannot_be_taken(gpu: Mock, facts: dict[str, Any], told: str) -> None:
    session, x = load(), Foreign(gpu, vector(), **facts)
    with pytest.raises(runtime.InputError, match=told):
        session.run(None, {"x": x})
    assert x.held == 0
    x.free()


def test_a_tensor_on_the_gpu_is_no_input_of_the_processor(gpu: Mock) -> None:
    x = Foreign(gpu, vector())
    with runtime.load(artifact(cpu=True), "cpu", 1) as session:
        with pytest.raises(runtime.InputError, match="it lies on GPU 0, and the model runs on the processor"):
            session.run(None, {"x": x})
        with pytest.raises(runtime.InputError, match="not an array"):
            session.run(None, {"x": vector()}, out={"y": x})
        for settings in ({"outputs": "device"}, {"stream": 7}):
            with pytest.raises(runtime.InputError, match="on a GPU only"):
                session.run(None, {"x": vector()}, **settings)
    x.free()


def test_memory_that_does_not_fit(gpu: Mock) -> None:
    session = load()
    short = Foreign(gpu, np.zeros(32, np.float32))
    with pytest.raises(runtime.InputError, match=r"it has shape \[32\], the model gives \[64\]"):
        session.run(None, {"x": vector()}, out={"y": short})
    (x,) = session.run(None, {"x": vector()}, outputs="device")
    with pytest.raises(runtime.InputError, match="overlaps input 'x'"):
        session.run(None, {"x": x}, out={"y": x})
    short.free()


def test_a_state_stays_on_the_device(gpu: Mock) -> None:
    """A decode loop: the cache goes in and out as one tensor."""
    session, cache, x = load(programs.plan()), vector(400), vector(400, 1)
    held, _ = session.run(None, {"cache": cache, "x": x}, entry="state", outputs="device")
    wanted = 2 * cache + x
    gpu.log()
    for _ in range(3):
        result = session.run(["twice"], {"cache": held, "x": x}, entry="state", out={"new_cache": held})
        wanted = 2 * wanted + x
        np.testing.assert_array_equal(held.numpy(), wanted)
    assert [line for line in gpu.log() if line.startswith(("d2d", "h2d"))] == ["h2d 1600"] * 3
    del result


# -- runs that go on -------------------------------------------------------------------------------------------------


def test_a_run_goes_on(gpu: Mock) -> None:
    session = load()
    pending = session.run_async({"x": vector()}, timed=True)
    assert not pending.done and pending.event and pending.seconds is None
    (y,) = pending.wait()
    np.testing.assert_array_equal(y, 4 * vector())
    assert pending.done and pending.event is None and pending.seconds is not None
    assert pending.wait()[0] is y


def test_runs_follow_each_other_through_their_tensors(gpu: Mock) -> None:
    """Each has a stream of its own; the next waits on the device, not here."""
    session, tensor = load(), vector()
    runs = []
    given: Any = tensor
    for _ in range(4):
        runs.append(session.run_async({"x": given}, outputs="device"))
        (given,) = runs[-1].outputs
    assert not any(run.done for run in runs)
    np.testing.assert_array_equal(given.numpy(), 4**4 * tensor)
    del runs, given


def test_what_is_written_waits_for_who_reads_it(gpu: Mock) -> None:
    session, x = load(), vector()
    (held,) = session.run(None, {"x": x}, outputs="device")
    first = session.run_async({"x": held})
    second = session.run_async({"x": x + 1}, out={"y": held})
    np.testing.assert_array_equal(second.wait()[0].numpy(), 4 * (x + 1))
    np.testing.assert_array_equal(first.wait()[0], 16 * x)


def test_a_dropped_run_is_over_before_its_inputs_go(gpu: Mock) -> None:
    session, x = load(), Foreign(gpu, vector())
    session.run_async({"x": x})
    gc.collect()
    assert x.held == 0 and session.runs()["direct"] == 1
    pending = session.run_async({"x": x})
    assert x.held == 1
    del pending
    gc.collect()
    assert x.held == 0
    x.free()


def test_an_output_is_given_to_another_library(gpu: Mock) -> None:
    """Its stream waits for the run; the memory goes back with the last who has it."""
    from tests.cuda.test_runtime_async import make_stream

    session = load()
    with gpu.context():
        stream = make_stream(gpu)
    pending = session.run_async({"x": vector()}, outputs="device")
    (y,) = pending.outputs
    assert y.__dlpack_device__() == (2, 0)
    taken = dlpack.borrow(_Asking(y, stream.value), stream.value)
    assert (taken.shape, taken.dtype, taken.device, taken.pointer) == ((64,), "f32", (2, 0), y.pointer)
    with gpu.context():
        gpu.lib.cuStreamSynchronize(stream)
        np.testing.assert_array_equal(gpu.from_device(taken.pointer, vector()), 4 * vector())
        gpu.lib.cuStreamDestroy_v2(stream)
    del pending, y, session
    gc.collect()
    with gpu.context():
        np.testing.assert_array_equal(gpu.from_device(taken.pointer, vector()), 4 * vector())
    for settings in ({"copy": True}, {"dl_device": (1, 0)}, {"stream": 0}):
        with pytest.raises(BufferError):
            taken.owner and _again(taken).__dlpack__(**settings)


class _Asking:
    """A consumer of before version 1 asks without a version."""

    def __init__(self, tensor: DeviceTensor, stream: int):
        self.tensor = tensor

    def __dlpack__(self, *, stream: int) -> object:
        return self.tensor.__dlpack__(stream=stream)


def _again(taken: dlpack.Borrowed) -> DeviceTensor:
    from tilewright.runtime.flight import LentMemory

    return DeviceTensor("f32", taken.shape, 0, taken.pointer, LentMemory(0, taken.owner))


def test_many_threads(gpu: Mock) -> None:
    session, wrong = load(), []

    def work(seed: int) -> None:
        for i in range(8):
            x = vector(64 + 16 * (i % 3), seed)
            (y,) = session.run(None, {"x": x}, outputs=("host", "device")[i % 2])
            if not np.array_equal(y if i % 2 == 0 else y.numpy(), 4 * x):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


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
