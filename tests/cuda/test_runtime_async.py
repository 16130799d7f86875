"""The runtime over the mock driver: device pointers, streams, events and runs that are not waited for."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_uint64, c_void_p
from typing import Any

import numpy as np
import pytest

from tests.cuda.mock import plans
from tests.cuda.mock.driver import DEVICE_OUTPUTS, ON_STREAM, TIMED, Failed, Mock, MockPlan, device_tensor
from tests.cuda.test_runtime_run import host_kernels, rows, sparse, vector
from tests.runtime import programs

Array = np.ndarray[Any, Any]


def copies(mock: Mock) -> list[str]:
    return [x for x in mock.log() if x.startswith(("h2d", "d2h", "d2d", "alloc", "pin"))]


def test_device_pointers_are_used_as_they_are(mock: Mock) -> None:
    x, y = vector(64), np.zeros(64, np.float32)
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        given, result = mock.to_device(x), mock.to_device(y)
        for i in range(4):
            mock.log()
            with plan.start("main", [device_tensor(given, x)], [device_tensor(result, y)]) as pending:
                pending.wait()
            if i:
                assert copies(mock) == []
            np.testing.assert_array_equal(mock.from_device(result, y), 4 * x)
        assert plan.use().replayed == 2
        mock.free(given)
        mock.free(result)


def test_other_addresses_are_another_graph(mock: Mock) -> None:
    arrays = [vector(64, i) for i in range(3)]
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        given = [mock.to_device(x) for x in arrays]
        for i in (0, 1, 0, 1, 2, 0, 1, 2, 2):
            np.testing.assert_array_equal(plan.run("main", [device_tensor(given[i], arrays[i])])[0], 4 * arrays[i])
        assert (plan.use().captured, plan.use().replayed) == (3, 3)
        for address in given:
            mock.free(address)


def test_tensors_that_kernels_are_not_compiled_for_are_copied_first(mock: Mock) -> None:
    x, y = vector(64), np.zeros(64, np.float32)
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        given, result = mock.to_device(x, extra=4), mock.to_device(y, extra=8)
        mock.log()
        for _ in range(3):
            with plan.start("main", [device_tensor(given, x)], [device_tensor(result, y)]) as pending:
                pending.wait()
            np.testing.assert_array_equal(mock.from_device(result, y), 4 * x)
        assert copies(mock).count("d2d 256") == 6
        mock.free(given - 4)
        mock.free(result - 8)


def test_a_state_on_the_device_is_changed_in_place(mock: Mock) -> None:
    cache, x = vector(400), vector(400, 1)
    with MockPlan(mock, programs.plan()) as plan, mock.context():
        held = device_tensor(mock.to_device(cache), cache)
        for _ in range(4):
            mock.log()
            twice = plan.run("state", [held, x], [held])[1]
            cache = 2 * cache + x
            np.testing.assert_array_equal(mock.from_device(held.data, cache), cache)
            np.testing.assert_array_equal(twice, 2 * cache)
        other = device_tensor(mock.to_device(np.zeros_like(cache)), cache)
        plan.run("state", [held, x], [other])
        np.testing.assert_array_equal(mock.from_device(other.data, cache), 2 * cache + x)
        np.testing.assert_array_equal(mock.from_device(held.data, cache), cache)
        mock.free(held.data)
        mock.free(other.data)


def test_a_state_on_the_host(mock: Mock) -> None:
    cache, x = vector(400), vector(400, 1)
    wanted = cache.copy()
    with MockPlan(mock, programs.plan()) as plan:
        for _ in range(4):
            plan.run("state", [cache, x], [cache])
            wanted = 2 * wanted + x
            np.testing.assert_array_equal(cache, wanted)
        new = plan.run("state", [cache, x])[0]
        np.testing.assert_array_equal(new, 2 * wanted + x)
        np.testing.assert_array_equal(cache, wanted)


@pytest.mark.parametrize("space", ["device", "host"])
def test_outputs_in_device_memory(mock: Mock, space: str) -> None:
    x = sparse(50)
    cases = [(plans.twice(), 4 * x), (plans.nonzero(space), x[x != 0]), (plans.host_only(), np.maximum(x, 0))]
    for data, wanted in cases:
        with MockPlan(mock, data, host=host_kernels() if data.host_kernels else (0, 0)) as plan, mock.context():
            for _ in range(3):
                pending = plan.start("main", [x], flags=DEVICE_OUTPUTS)
                pending.wait()
                found = pending.outputs[0]
                assert tuple(found.dim[:1]) == wanted.shape
                np.testing.assert_array_equal(mock.from_device(found.data, wanted), wanted)
                plan.table.pending_free(pending.handle)
                plan.table.release_device(plan.handle, found.data)


def test_a_run_goes_on_until_somebody_waits(mock: Mock) -> None:
    x = vector(64)
    with MockPlan(mock, plans.twice()) as plan:
        plan.run("main", [x])
        mock.log()
        with plan.start("main", [x]) as pending:
            assert pending.done() == 0
            x[:] = 0  # pageable memory was read before the call returned
            assert not [line for line in mock.log() if line.startswith("launch")]
            pending.wait()
            assert pending.done() == 1
            np.testing.assert_array_equal(pending.arrays()[0], 4 * vector(64))


def test_runs_that_are_given_up_still_finish_in_order(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        result = mock.to_device(np.zeros(64, np.float32))
        for i in range(6):
            x = vector(64, i)
            with plan.start("main", [x], [device_tensor(result, x)]):
                pass
        with plan.start("main", [vector(64, 9)], [device_tensor(result, vector(64))]) as pending:
            pending.wait()
        np.testing.assert_array_equal(mock.from_device(result, vector(64)), 4 * vector(64, 9))
        mock.free(result)


def test_two_pending_runs_have_memory_of_their_own(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan:
        x, y = vector(64), vector(64, 1)
        with plan.start("main", [x]) as first, plan.start("main", [y]) as second:
            np.testing.assert_array_equal(second.arrays()[0], 4 * y)
            np.testing.assert_array_equal(first.arrays()[0], 4 * x)
        assert plan.use().contexts == 2


def make_stream(mock: Mock) -> c_void_p:
    stream = c_void_p()
    assert mock.lib.cuStreamCreate(ctypes.byref(stream), 1) == 0
    return stream


@pytest.mark.parametrize("kind", ["default", "own"])
def test_a_stream_of_the_program_orders_the_run(mock: Mock, kind: str) -> None:
    """The input is written by work that is in the stream, and read back by work behind the run."""
    x, y = vector(64), np.zeros(64, np.float32)
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        stream = make_stream(mock) if kind == "own" else c_void_p()
        given, result = mock.to_device(y), mock.to_device(y)
        pinned = c_void_p()
        assert mock.lib.cuMemHostAlloc(ctypes.byref(pinned), ctypes.c_size_t(x.nbytes), 3) == 0
        for i in range(4):
            ctypes.memmove(pinned, vector(64, i).ctypes.data, x.nbytes)
            size = ctypes.c_size_t(x.nbytes)
            mock.lib.cuMemcpyHtoDAsync_v2(c_uint64(given), pinned, size, stream)
            options = {"flags": ON_STREAM | TIMED, "stream": stream}
            with plan.start("main", [device_tensor(given, x)], [device_tensor(result, y)], **options):
                pass
            mock.lib.cuMemcpyDtoHAsync_v2(c_void_p(y.ctypes.data), c_uint64(result), size, stream)
            np.testing.assert_array_equal(y, 4 * vector(64, i))
        assert plan.use().replayed == 2
        mock.lib.cuMemFreeHost(pinned)
        if kind == "own":
            assert mock.lib.cuStreamDestroy_v2(stream) == 0
        mock.free(given)
        mock.free(result)


def test_a_stream_that_the_program_captures_is_refused(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        stream, graph = make_stream(mock), c_void_p()
        plan.run("main", [vector(8)], flags=ON_STREAM, stream=stream)
        assert mock.lib.cuStreamBeginCapture_v2(stream, 1) == 0
        with pytest.raises(Failed, match="is being captured into a graph: run the model outside") as caught:
            plan.run("main", [vector(8)], flags=ON_STREAM, stream=stream)
        assert caught.value.code == 2
        assert mock.lib.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0  # the capture is not spoilt
        mock.lib.cuGraphDestroy(graph)
        mock.lib.cuStreamDestroy_v2(stream)


def test_events_order_runs_of_different_streams(mock: Mock) -> None:
    x = vector(64)
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        middle, result = mock.to_device(x), mock.to_device(x)
        between, last = device_tensor(middle, x), device_tensor(result, x)
        with plan.start("main", [x], [between]) as first:
            event = plan.table.pending_event(first.handle)
            with plan.start("main", [between], [last], after=event) as second:
                second.wait()
                assert first.done() == 1
        np.testing.assert_array_equal(mock.from_device(result, x), 16 * x)
        mock.free(middle)
        mock.free(result)


def test_memory_of_another_gpu_is_refused(mock: Mock) -> None:
    x = vector(8)
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        given = mock.to_device(x)
        mock.set(ordinal=1)
        with pytest.raises(Failed, match="'x' lies on GPU 1, the model is on GPU 0") as caught:
            plan.run("main", [device_tensor(given, x)])
        assert caught.value.code == 2
        mock.free(given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_and_harms_nothing(mock: Mock) -> None:
    x = vector(64)
    with MockPlan(mock, plans.twice()) as plan:
        plan.run("main", [x])
        child = os.fork()
        if child == 0:
            try:
                plan.run("main", [x])
            except Failed as error:
                mock.log()
                plan.close()
                os._exit(0 if "forked" in str(error) and error.code == 8 and mock.log() == [] else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(plan.run("main", [x])[0], 4 * x)


def test_a_plan_on_the_cpu_is_pending_and_done(mock: Mock) -> None:
    from tilewright.runtime.library import Error, Tensor, kernel_table, load_library

    from tests.cuda.mock.driver import as_tensor, table

    t, handle, error = table(), c_void_p(), Error()
    from tests.runtime.rewrite import members

    data = members(programs.artifact())["cpu/baseline/plan.bin"]
    kernels, count = kernel_table(load_library(programs.kernels_library(), "mock-host-kernels", "test"), "test")
    from tilewright.runtime.library import Weight, Weights

    room = np.zeros(6144 + 64, np.uint8)
    start = room.ctypes.data + -room.ctypes.data % 64
    weights = Weights(start, 6144, (Weight * 1)(Weight(b"w", 0, 6144)), 1)
    buffer = ctypes.create_string_buffer(data, len(data))
    assert (
        t.create(
            ctypes.byref(handle),
            ctypes.addressof(buffer),
            len(data),
            ctypes.byref(weights),
            kernels,
            count,
            1,
            ctypes.byref(error),
        )
        == 0
    )
    x = (Tensor * 1)(as_tensor(rows(2)))
    out, pending = (Tensor * 2)(), c_void_p()
    assert t.run_async(handle, 0, x, 1, out, 2, None, ctypes.byref(pending), ctypes.byref(error)) == 0
    assert (t.done(pending, None), t.wait(pending, None), t.pending_event(pending), t.pending_seconds(pending)) == (
        1,
        0,
        None,
        -1,
    )
    t.pending_free(pending)
    for tensor in out:
        t.release(tensor.data)
    t.destroy(handle)


def test_the_contexts_of_the_caller_stay_as_they_are(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan, mock.context():
        depth = mock.lib.mock_depth()
        plan.run("main", [vector(5)])
        with pytest.raises(Failed):
            plan.run("main", [vector(0)])
        assert mock.lib.mock_depth() == depth


def test_the_mock_sees_what_it_is_for(mock: Mock) -> None:
    """It would be worth nothing if it never found a rule broken."""
    x = vector(64)
    with mock.context():
        given = mock.to_device(x)
        size = ctypes.c_size_t(x.nbytes + 1)
        mock.lib.cuMemcpyDtoHAsync_v2(c_void_p(np.zeros(100, np.float32).ctypes.data), c_uint64(given), size, None)
        assert "d2h of 257 bytes reaches past its memory" in mock.rules()
        stream = make_stream(mock)
        assert mock.lib.cuStreamBeginCapture_v2(stream, 1) == 0
        assert mock.lib.cuStreamSynchronize(None) == 900
        assert "cuStreamSynchronize while a graph is captured" in mock.rules()
        assert mock.lib.cuStreamEndCapture(stream, ctypes.byref(c_void_p())) == 901
    assert mock.lib.cuCtxSynchronize() == 201
    assert mock.live() > 0
    mock.lib.mock_reset()


def test_runs_on_the_device_alone_follow_each_other_without_the_host(mock: Mock) -> None:
    """Steps of a loop whose tensors stay on the device: nothing is waited for until the end, and memory is reused."""
    state, x = vector(64), np.ones(64, np.float32)
    with MockPlan(mock, programs.plan()) as plan, mock.context():
        held, step = device_tensor(mock.to_device(state), state), device_tensor(mock.to_device(x), x)
        twice = device_tensor(mock.to_device(x), x)
        plan.run("state", [held, step], [held, twice])
        mock.log()
        for _ in range(5):
            with plan.start("state", [held, step], [held, twice]):
                pass
        assert not [line for line in mock.log() if line.startswith("launch")]  # the host is five steps ahead
        assert plan.use().contexts == 1
        wanted = state
        for _ in range(7):
            wanted = 2 * wanted + x
        plan.run("state", [held, step], [held, twice])
        np.testing.assert_array_equal(mock.from_device(held.data, wanted), wanted)
        for tensor in (held, step, twice):
            mock.free(tensor.data)


def test_a_fault_that_nobody_waited_for_is_told_by_the_next_run(mock: Mock) -> None:
    table, good, bad = vector(10), np.array([3]), np.array([10])
    with MockPlan(mock, plans.select()) as plan, mock.context():
        held = [device_tensor(mock.to_device(a), a) for a in (table, good, bad)]
        out = device_tensor(mock.to_device(table[:1]), table[:1])
        plan.run("main", [held[0], held[1]], [out])
        with plan.start("main", [held[0], held[2]], [out]):
            pass
        with pytest.raises(Failed, match="an index in the inputs"):
            plan.run("main", [held[0], held[1]], [out])
        plan.run("main", [held[0], held[1]], [out])
        for tensor in (*held, out):
            mock.free(tensor.data)
