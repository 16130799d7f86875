"""The backend as the driver sees it: targets, support, libraries, determinism, other compilers."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.backend import LIBRARY, CpuBackend
from tilewright.codegen.cstyle import C_TYPES
from tilewright.codegen.toolchain import Toolchain, default_toolchain
from tilewright.errors import InternalError, UsageError
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Scheduled
from tilewright.target import Target

from tests.cpu.harness import FUNCTION, LEVELS, TARGETS, bind, compile_kernel
from tests.kernel import trial_kernels

TRIALS = (
    trial_kernels.matmul_bias_gelu(k=40, n=48),
    trial_kernels.conv3x3_residual_relu(15, 14, 24, 40),
    trial_kernels.row_softmax(),
    trial_kernels.flash_attention(depth=32, mask="causal"),
)
INTEL = "processor : 0\nflags : fpu sse4_2 {}\n"


def _scheduled(target: Target) -> list[Scheduled]:
    return [apply(k, next(iter(CpuBackend().schedules(k, target)))) for k in TRIALS]


def _build(target: Target, tools: Toolchain) -> bytes:
    backend = CpuBackend(tools)
    return backend.build(backend.emit(_scheduled(target), target), target).members[LIBRARY]


@pytest.mark.parametrize("spelling", list(machine.targets()))
def test_every_target_compiles_here_with_equal_bytes_from_two_caches(spelling: str, tmp_path: Path) -> None:
    target = machine.targets()[spelling]
    first, second = (_build(target, default_toolchain(cache_folder=tmp_path / n)) for n in ("a", "b/c"))
    assert first == second
    assert int.from_bytes(first[18:20], "little") == (183 if "aarch64" in spelling else 62)  # ELF e_machine
    assert str(tmp_path).encode() not in first and str(Path.home()).encode() not in first


def test_table_is_in_the_order_given() -> None:
    target = TARGETS[LEVELS[-1]]
    source = CpuBackend().emit(_scheduled(target), target)
    table = source.files["table.c"]
    places = [table.index(f"    {source.symbols[k.name]},") for k in TRIALS]
    assert places == sorted(places) and f"tw_kernel_count_v1 = {len(TRIALS)};" in table


def test_kernels_of_one_name_get_their_own_symbols() -> None:
    target = TARGETS[LEVELS[-1]]
    (scheduled, *_) = _scheduled(target)
    files = CpuBackend().emit([scheduled, scheduled], target).files
    assert len(files) == 3


def test_library_needs_nothing_but_memory_functions(tmp_path: Path) -> None:
    path = tmp_path / "k.so"
    path.write_bytes(_build(TARGETS[LEVELS[-1]], default_toolchain()))
    assert b"libm.so" not in path.read_bytes() and b"libc.so" not in path.read_bytes()
    library = ctypes.CDLL(str(path))
    table = (ctypes.c_void_p * len(TRIALS)).in_dll(library, "tw_kernels_v1")
    assert all(FUNCTION(f) for f in table)


def test_a_routine_that_is_not_there_is_refused() -> None:
    target = machine.targets()["cpu:x86-64-v3"]
    support = CpuBackend().supports(Routine("sort_by_magic", (DType.F32, DType.F32)), target)
    assert not support.ok and "sort_by_magic" in support.reason
    assert CpuBackend().supports(Routine("nonzero_count", (DType.F32, DType.I64)), target).ok


def test_every_element_type_has_a_c_type() -> None:
    assert set(C_TYPES) == set(DType)


def test_broken_c_leaves_a_bundle(tmp_path: Path) -> None:
    target = machine.targets()["cpu:x86-64-v3"]
    backend = CpuBackend(default_toolchain(cache_folder=tmp_path))
    source = backend.emit(_scheduled(target)[:1], target)
    name = next(iter(source.files))
    broken = type(source)({**source.files, name: source.files[name].replace("int64_t", "int65_t")}, source.symbols)
    with pytest.raises(InternalError) as error:
        backend.build(broken, target)
    assert error.value.bundle is not None
    bundle = Path(error.value.bundle)
    assert {name, "vec.h", "mma.h", "command.sh", "stderr.txt", "versions.json"} <= {p.name for p in bundle.iterdir()}
    shutil.rmtree(bundle)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_another_compiler_gives_the_numbers(tmp_path: Path) -> None:
    target = machine.targets()["cpu:x86-64-v3"]
    tools = default_toolchain("gcc", cache_folder=tmp_path)
    backend = CpuBackend(tools)
    kernel = TRIALS[0]
    compiled = compile_kernel(kernel, target.spelling)
    path = tmp_path / "k.so"
    path.write_bytes(backend.build(backend.emit([compiled.scheduled], target), target).members[LIBRARY])
    library = ctypes.CDLL(str(path))
    function = FUNCTION((ctypes.c_void_p * 1).in_dll(library, "tw_kernels_v1")[0])
    rng = np.random.default_rng(0)
    tensors = {
        "A": rng.standard_normal((13, 40), np.float32),
        "B": rng.standard_normal((40, 48), np.float32),
        "bias": rng.standard_normal(48, np.float32),
    }
    other = bind(type(compiled)(compiled.scheduled, compiled.level, function, library), tensors, {"M": 13})
    other.run()
    np.testing.assert_allclose(other.outputs()["C"], compiled(tensors, {"M": 13})["C"], rtol=1e-5, atol=1e-5)


# -- targets -------------------------------------------------------------------------------------------------------


def test_portable_set_and_unknown_spellings() -> None:
    assert tuple(t.spelling for t in machine.resolve("cpu")) == machine.PORTABLE
    with pytest.raises(UsageError) as error:
        machine.resolve("cpu:z80")
    assert error.value.code == "unknown-target" and "x86-64-v3" in error.value.fix


def _flags(*spellings: str) -> str:
    names = {n for s in spellings for n in machine.needed_features(machine.targets()[s])}
    return INTEL.format(" ".join(sorted(names)))


@pytest.mark.parametrize(
    "cpuinfo, arch, expected",
    [
        (INTEL.format(""), "x86_64", []),
        (_flags("cpu:x86-64-v2"), "x86_64", ["x86-64-v2"]),
        (_flags("cpu:x86-64-v3"), "x86_64", ["x86-64-v2", "x86-64-v3"]),
        (_flags("cpu:x86-64-v4"), "x86_64", ["x86-64-v2", "x86-64-v3", "x86-64-v4"]),
        (_flags("cpu:x86-64-v4+vnni"), "x86_64", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4+vnni"]),
        ("processor : 0\nFeatures : fp asimd evtstrm\n", "aarch64", ["aarch64"]),
        (_flags("cpu:x86-64-v4"), "aarch64", []),
    ],
)
def test_which_targets_a_machine_can_run(cpuinfo: str, arch: str, expected: list[str]) -> None:
    assert [t.arch for t in machine.runnable(cpuinfo, arch)] == expected


@pytest.mark.parametrize("spelling", list(machine.targets()))
def test_target_data_is_complete(spelling: str) -> None:
    target = machine.targets()[spelling]
    table = machine.codegen(target)
    accumulators = table["tile_rows"] * table["tile_columns"] // machine.lanes(target)
    assert accumulators + table["tile_columns"] // machine.lanes(target) + 1 <= table["registers"]
    assert table["panel"] % table["tile_columns"] == 0
    assert {"l1", "l2", "l3", "dram"} <= target.memory.keys() and {"f32", "i8"} <= target.peak.keys()


def test_cache_serves_a_second_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = machine.targets()["cpu:x86-64-v3"]
    tools = default_toolchain(cache_folder=tmp_path)
    first = _build(target, tools)
    monkeypatch.setattr(Toolchain, "_run", lambda self, words, files: pytest.fail(f"{words[:2]} was called"))
    assert _build(target, default_toolchain(cache_folder=tmp_path)) == first
