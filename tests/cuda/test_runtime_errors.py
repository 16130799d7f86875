"""The runtime over the mock driver: what can be missing, too old, too small or failing, and hostile bytes."""

from __future__ import annotations

import ctypes
import re
import struct
from ctypes import c_int32
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tilewright.package.native import NATIVE
from tilewright.runtime.library import Error

from tests.cuda.mock import driver, plans
from tests.cuda.mock.driver import ALLOW_JIT, KERNELS, Device, Failed, Mock, MockKernel, MockPlan, modules, table
from tests.cuda.test_runtime_run import host_kernels, vector
from tests.runtime import programs


def refusal(mock: Mock, data: bytes | None = None, **options: object) -> Failed:
    with pytest.raises(Failed) as caught, MockPlan(mock, plans.twice(), data, **options):
        pass
    return caught.value


# -- the driver and the GPU --------------------------------------------------------------------------------------------


def test_no_driver_says_what_was_tried(mock: Mock) -> None:
    error = refusal(mock, library=b"libcuda-that-is-nowhere.so.1")
    assert error.code == 8
    assert re.search(r"no NVIDIA driver: tried to open libcuda-that-is-nowhere\.so\.1 \(.*No such file", str(error))


def test_a_library_that_is_no_driver(mock: Mock) -> None:
    error = refusal(mock, library=b"libm.so.6")
    assert error.code == 8 and "has no cuInit: it is older than CUDA 11.4" in str(error)


SETTINGS = {
    "too old": ({"driver": 11020}, {}, r"supports CUDA 11\.2, this code needs 11\.4: install a newer driver"),
    "too old for the code": (
        {"driver": 12020},
        {"driver_needed": 12080},
        r"supports CUDA 12\.2, this code needs 12\.8",
    ),
    "no gpu": ({"devices": 0}, {}, "sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
    "no such gpu": ({"devices": 2}, {"device": 2}, "there is no GPU 2: the driver shows 2, numbered from 0"),
    "negative": ({}, {"device": -1}, "there is no GPU -1"),
    "an older gpu": (
        {"major": 8, "minor": 0},
        {},
        r"no code for this GPU: Mock GPU 0 has compute capability 8\.0; the file holds machine code for sm_90\. Comp",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_this_machine_lacks(mock: Mock, case: str) -> None:
    settings, options, pattern = SETTINGS[case]
    mock.set(**settings)
    error = refusal(mock, **options)
    assert error.code == 8 and re.search(str(pattern), str(error)), error


def test_the_second_gpu(mock: Mock) -> None:
    mock.set(devices=2, ordinal=1)
    with MockPlan(mock, plans.twice(), device=1) as plan:
        use = plan.use()
        assert (use.device.name, use.device.index, use.device.driver) == (b"Mock GPU 1", 1, 13000)
        assert (use.device.major, use.device.minor, use.device.processors) == (9, 0, 132)
        assert use.device.free_bytes < use.device.total_bytes == 1 << 30
        np.testing.assert_array_equal(plan.run("main", [vector(4)])[0], 4 * vector(4))


def test_gpus_are_counted_and_described(mock: Mock) -> None:
    t, count, error, about = table(), c_int32(), Error(), Device()
    mock.set(devices=3, major=8, minor=9)
    assert t.device_count(mock.path, ctypes.byref(count), ctypes.byref(error)) == 0
    assert count.value == 3
    assert t.device_describe(mock.path, 2, ctypes.byref(about), ctypes.byref(error)) == 0
    assert (about.name, about.major, about.minor, about.free_bytes) == (b"Mock GPU 2", 8, 9, -1)
    assert t.device_describe(mock.path, 3, ctypes.byref(about), ctypes.byref(error)) == 8
    assert t.device_count(b"libcuda-that-is-nowhere.so.1", ctypes.byref(count), ctypes.byref(error)) == 8
    assert count.value == 0


@pytest.mark.parametrize(
    ("arch", "runs_on", "not_on"),
    [
        (80, [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (10, 0)]),
        (86, [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        (90, [(9, 0)], [(8, 9), (10, 0), (12, 0)]),
        (100, [(10, 0)], [(10, 3), (12, 0)]),
        (120, [(12, 0)], [(12, 1), (10, 0)]),
    ],
)
def test_which_code_runs_where(arch: int, runs_on: list[tuple[int, int]], not_on: list[tuple[int, int]]) -> None:
    assert all(table().device_runs(arch, *c) for c in runs_on)
    assert not any(table().device_runs(arch, *c) for c in not_on)


def test_ptx_is_compiled_only_where_that_is_allowed(mock: Mock) -> None:
    mock.set(major=12)
    code = modules(arch=80, ptx=True)
    error = refusal(mock, code)
    assert (
        error.code == 8
        and "machine code for sm_80 and PTX. Allow the driver to compile the PTX (--allow-jit)" in str(error)
    )
    with MockPlan(mock, plans.twice(), code, flags=ALLOW_JIT) as plan:
        use = plan.use()
        assert (use.kernels, use.jit_kernels) == (1, 1) and 0 < use.jit_seconds <= use.load_seconds
        np.testing.assert_array_equal(plan.run("main", [vector(4)])[0], 4 * vector(4))
    mock.set(major=7, minor=5)  # PTX runs on later GPUs alone
    assert "Compile the model for this GPU" in str(refusal(mock, code, flags=ALLOW_JIT))


def test_machine_code_is_preferred_to_ptx(mock: Mock) -> None:
    with MockPlan(mock, plans.twice(), modules(ptx=True), flags=ALLOW_JIT) as plan:
        assert plan.use().jit_kernels == 0
    assert "load add" in mock.log()


# -- kernels against the GPU -------------------------------------------------------------------------------------------


def with_add(**facts: object) -> bytes:
    return modules((replace(KERNELS[0], **facts), *KERNELS[1:]))


KERNEL_FACTS = {
    "parameters": ({"parameters": KERNELS[0].parameters[:-1]}, 9, "takes other parameters than modules.bin says"),
    "a wider size": ({"parameters": KERNELS[2].parameters[:1] * 3 + ((driver.DIM64, 0),) * 3}, 9, "other parameters"),
    "shared": ({"shared": 300000}, 8, "needs 300000 bytes of shared memory, Mock GPU 0 has 232448 a block"),
    "threads": ({"threads": 4096}, 9, "asks for 4096 threads"),
    "entry": ({"entry": "sub"}, 8, "cuModuleGetFunction failed"),
    "a third buffer": (
        {"parameters": ((driver.BUFFER, 3), *KERNELS[0].parameters[1:])},
        9,
        "3 buffers and 1 sizes, it takes 4 and 1",
    ),
    "a second size": (
        {"parameters": (*KERNELS[0].parameters[:3], (driver.DIM32, 1), *KERNELS[0].parameters[4:])},
        9,
        "takes 3 and 2",
    ),
    "kind": ({"parameters": ((7, 0), *KERNELS[0].parameters[1:])}, 9, "parameters of kernel 'add' are malformed"),
    "counters": ({"counters": 64}, 9, "parameters of kernel 'add' are malformed"),
}


@pytest.mark.parametrize("case", KERNEL_FACTS)
def test_kernels_that_do_not_fit(mock: Mock, case: str) -> None:
    facts, code, text = KERNEL_FACTS[case]
    error = refusal(mock, with_add(**facts))
    assert error.code == code and text in str(error), error


def test_a_kernel_of_fewer_threads_than_it_is_launched_with(mock: Mock) -> None:
    kernels = list(KERNELS)
    kernels[driver.SPLIT512] = MockKernel("split512", KERNELS[driver.SPLIT512].parameters, threads=1024, counters=512)
    with (
        pytest.raises(Failed, match="needs 1024 threads a block, Mock GPU 0 runs it with at most 512"),
        MockPlan(mock, plans.counters(), modules(kernels)),
    ):
        pass


def test_only_kernels_that_are_launched_are_loaded(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan:
        assert plan.use().kernels == 1
        assert [x for x in mock.log() if x.startswith("load")] == ["load add"]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_out_of_memory_says_how_much_was_asked(mock: Mock) -> None:
    mock.set(memory=1 << 20)
    with MockPlan(mock, plans.twice()) as plan:
        with pytest.raises(
            Failed, match=r"not enough memory on Mock GPU 0: the inputs and outputs asked for \d+ bytes"
        ) as caught:
            plan.run("main", [vector(1 << 18)])
        assert caught.value.code == 7
        assert re.search(r"are free of 1048576\. Use smaller inputs", str(caught.value))
        np.testing.assert_array_equal(plan.run("main", [vector(100)])[0], 4 * vector(100))


def test_page_locked_memory_that_is_not_there(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan:
        mock.fail("cuMemHostAlloc", after=1, code=2)
        with pytest.raises(
            Failed, match=r"not enough page-locked memory on the host: staging asked for \d+ bytes"
        ) as caught:
            plan.run("main", [vector(100)])
        assert caught.value.code == 7
        np.testing.assert_array_equal(plan.run("main", [vector(100)])[0], 4 * vector(100))


def test_weights_that_do_not_fit(mock: Mock) -> None:
    mock.set(memory=4096)
    with pytest.raises(Failed, match="the weights asked for 6144 bytes, 4096 are free of 4096") as caught:
        MockPlan(mock, programs.plan())
    assert caught.value.code == 7


def test_a_graph_that_finds_no_memory_is_done_without(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan:
        plan.run("main", [vector(9)])
        mock.fail("cuGraphInstantiateWithFlags", code=2)
        np.testing.assert_array_equal(plan.run("main", [vector(9)])[0], 4 * vector(9))
        assert (plan.use().direct, plan.use().captured) == (2, 0)
        np.testing.assert_array_equal(plan.run("main", [vector(9)])[0], 4 * vector(9))
        assert plan.use().captured == 1


# -- failing calls -----------------------------------------------------------------------------------------------------

_DECLARED = re.findall(r"X\((cu\w+),", (NATIVE / "cuda_driver.h").read_text())
#: Calls whose failure nothing can be done about, or that only tell of failures.
_TOLERATED = {
    *("cuGetErrorName", "cuGetErrorString", "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2", "cuModuleUnload"),
    *(
        "cuMemFree_v2",
        "cuMemFreeHost",
        "cuStreamDestroy_v2",
        "cuEventDestroy_v2",
        "cuGraphExecDestroy",
        "cuGraphDestroy",
    ),
    *("cuMemGetInfo_v2", "cuCtxSynchronize"),
}


@pytest.mark.parametrize("name", [n for n in _DECLARED if n not in _TOLERATED])
def test_every_failing_call_is_named(mock: Mock, name: str) -> None:
    """Each call fails once, in turn: the error has its name, nothing is lost, and the next run is right."""
    x, refused = vector(70), 0
    kernels = list(KERNELS)
    kernels[driver.SPLIT64] = replace(kernels[driver.SPLIT64], shared=60000)
    code = modules(kernels)
    for after in range(60):
        mock.lib.mock_reset()
        mock.fail(name, after)
        try:
            with MockPlan(mock, plans.counters(), code) as plan:
                for step in range(5):
                    try:
                        options = {"flags": driver.TIMED} if step == 3 else {}
                        with plan.start("main", [x], **options) as pending:
                            pending.done()
                            np.testing.assert_array_equal(pending.arrays()[0], x)
                    except Failed as error:
                        refused += 1
                        assert error.code == 8 and name.removesuffix("_v2").removesuffix("WithFlags") in str(error), (
                            error
                        )
                np.testing.assert_array_equal(plan.run("main", [x])[0], x)
        except Failed as error:
            refused += 1
            assert error.code in (8, 9), error
        assert mock.rules() == "", (name, after)
        assert mock.live() == 0 or name == "cuCtxPushCurrent_v2", (
            name,
            after,
        )  # without a context, nothing can be freed
        if not mock.lib.mock_failed():
            break
    assert refused or name in ("cuMemcpyDtoDAsync_v2", "cuStreamWaitEvent", "cuStreamIsCapturing"), (
        f"{name} never failed"
    )


# -- hostile bytes -----------------------------------------------------------------------------------------------------


def patched(at: int, value: int, size: int = 4) -> bytes:
    data = bytearray(modules())
    data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


HOSTILE = {
    "empty": b"",
    "short": modules()[:20],
    "cut": modules()[:-1],
    "magic": patched(0, 7),
    "version": patched(4, 2),
    "kernels": patched(12, 2**31),
    "words": patched(16, 2**32 - 1),
    "strings": patched(20, 2**32 - 1),
    "blobs": patched(24, 2**63, 8),
    "a name": patched(32, 5000),
    "code at": patched(32 + 4 * 6, 2**31),
    "code bytes": patched(32 + 4 * 8, 2**31),
    "ptx high": patched(32 + 4 * 13, 2**31),
    "parameters": patched(32 + 4 * 14, 2**32 - 1),
    "threads": patched(36, 0),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_modules(mock: Mock, case: str) -> None:
    assert refusal(mock, HOSTILE[case]).code == 9


@pytest.mark.parametrize("at", [4, 18, 40, 58, 60])
def test_code_whose_tables_reach_past_its_end(mock: Mock, at: int) -> None:
    data = bytearray(modules())
    start = data.index(b"\x7fELF")
    data[start + at : start + at + 2] = b"\xff\x7f"
    assert "the code of kernel 'add' is damaged" in str(refusal(mock, bytes(data)))


def test_a_plan_of_other_kernels(mock: Mock) -> None:
    assert "the plan names 10 kernels, its binary holds 9" in str(refusal(mock, modules(KERNELS[:-1])))
    with pytest.raises(Failed, match="names 6 kernels of the host, its binary holds 0"):
        MockPlan(mock, plans.host_step())
    with pytest.raises(Failed, match="names 6 kernels of the host, its binary holds 5"):
        MockPlan(mock, plans.host_step(), host=(host_kernels()[0], 5))


# -- constants against a public header ---------------------------------------------------------------------------------


def test_functions_are_those_of_the_public_header() -> None:
    """Each name is a function there, in a version that is not newer than the plain name stands for now."""
    text = header()
    for name in _DECLARED:
        plain, _, version = name.partition("_v")
        newest = re.search(rf"#define {plain}\s+(?:__CUDA_API_PTSZ\()?{plain}_v(\d)", text)
        assert re.search(rf"(?:CUresult CUDAAPI|#define \w+) +{plain}(?:_v\d)?\b", text), name
        if newest is None:
            assert version == "", f"{name}: there is no such version"
        else:
            assert int(version or 1) <= int(newest[1]), name


def header() -> str:
    import importlib.util

    spec = importlib.util.find_spec("triton")
    places = [Path("/usr/local/cuda/include/cuda.h")]
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "backends/nvidia/include/cuda.h")
    for place in places:
        if place.is_file():
            return place.read_text()
    pytest.skip("no public cuda.h on this machine")


def test_numbers_are_those_of_the_public_header() -> None:
    text = header()
    ours = re.findall(r"^ *(?:enum \{ )?((?:CUDA|CU)_[A-Z_0-9]+) = (\d+)", (NATIVE / "cuda_driver.h").read_text(), re.M)
    ours += re.findall(r", (CU_[A-Z_0-9]+) = (\d+)", (NATIVE / "cuda_driver.h").read_text())
    assert len(ours) > 30
    values = {"CU_MEMHOSTALLOC_PORTABLE": 1, "CU_MEMHOSTALLOC_DEVICEMAP": 2}  # macros there
    for name, value in ours:
        found = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", text)
        if found is None and name in values:
            found = re.search(rf"#define {name}\s+(0x[0-9a-fA-F]+)", text)
        if found is None and name == "CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES":
            continue  # numbered by its place there
        if found is None and name == "CU_JIT_ERROR_LOG_BUFFER":
            continue
        assert found is not None, name
        assert int(found[1], 0) == int(value), name


def test_modules_bin_is_read_as_it_is_written() -> None:
    """The layout that the tests write is that of the compiler's side."""
    from tilewright.backends.cuda import modules as written

    assert struct.unpack_from("<2I", modules()) == (written.MAGIC, written.VERSION)
    assert len(written.FIELDS) == 15
    kinds = (written.BUFFER, written.DIM32, written.DIM64, written.GLOBAL_SCRATCH, written.PROFILE_SCRATCH)
    assert (*kinds, written.WORKSPACE, written.FAULT) == tuple(range(7))
