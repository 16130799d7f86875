"""Sessions on a GPU over the mock driver: operands in either memory, streams, runs that go on, lifetimes."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.runtime import dlpack
from tilewright.runtime.device_tensor import DeviceTensor
from tilewright.runtime.manifest import evaluate_size

from tests.cuda.mock.driver import Mock
from tests.runtime import programs

from .sessions import Foreign, artifact, load, vector

Array = np.ndarray[Any, np.dtype[Any]]


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
