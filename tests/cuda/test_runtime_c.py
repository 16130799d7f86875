"""GPUs from C over the mock driver: ``tilewright.h``, exported programs and libraries, and fuzzing under sanitizers."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tilewright.package.export import export
from tilewright.package.native import NATIVE, SOURCES
from tilewright.package.writer import Part
from tilewright.plan.encode import encode_plan

from tests.cuda.mock import plans
from tests.cuda.mock.driver import KERNELS, NAMES, Mock, modules
from tests.runtime import programs
from tests.runtime.test_c import GCC, X, gcc, run_rows, zig

HERE = Path(__file__).parent
MOCK = HERE / "mock"


def gpu_part(arch: int, *, ptx: bool = False) -> Part:
    """The hand-made plan of the runtime's tests for one architecture of the mock."""
    code = modules(KERNELS, arch, ptx=ptx)
    folder = f"cuda/sm_{arch}"
    plan, members = replace(programs.plan(), kernels=NAMES), {"modules.bin": code}
    return Part(f"cuda:sm_{arch}", folder, plan, members, programs.FAMILY, apart=True)


def artifact(tmp_path: Path, *arches: int, cpu: bool = True, ptx: bool = False) -> Path:
    parts = [gpu_part(a, ptx=ptx) for a in arches] + ([programs.part(programs.plan())] if cpu else [])
    path = tmp_path / "model.tw"
    path.write_bytes(programs.artifact(parts=parts))
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("program") / "program"
    zig([programs.__file__.replace("programs.py", "run_model.c")], out, "-lpthread", "-ldl")
    return out


def outputs() -> bytes:
    y = programs.reference(X)
    return y.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("arches", "device", "code", "text"),
    [
        ((90,), "cuda", 0, ""),
        ((90,), "cuda:0", 0, ""),
        ((80, 90), "auto", 0, ""),
        ((80,), "auto", 0, ""),  # nothing for this GPU: the processor's part
        ((80,), "cpu", 0, ""),
        ((80,), "cuda", 8, "no code for this GPU: Mock GPU 0 has compute capability 9.0; the file holds cuda:sm_80"),
        ((90,), "cuda:3", 8, "there is no GPU 3: the driver shows 1"),
        ((), "cuda", 8, "holds nothing for NVIDIA GPUs"),
        ((90,), "cuda:x", 2, "there is no device 'cuda:x'"),
        ((90,), "tpu", 2, "there is no device 'tpu'"),
    ],
)
def test_a_c_program_names_a_device(
    mock: Mock, program: Path, tmp_path: Path, arches: tuple[int, ...], device: str, code: int, text: str
) -> None:
    path = artifact(tmp_path, *arches)
    found, got, error = run_rows(program, path, tmp_path, programs.K, "2", device, mock.path.decode())
    assert (found, text in error) == (code, True), error
    if code == 0:
        y = np.frombuffer(got, np.float32)[: len(X) * programs.WIDTH].reshape(len(X), -1)
        np.testing.assert_allclose(y, programs.reference(X), rtol=1e-5, atol=1e-5)


def test_without_a_driver(mock: Mock, program: Path, tmp_path: Path) -> None:
    both, alone = artifact(tmp_path, 90), tmp_path / "alone"
    alone.mkdir()
    missing = ("2", "auto", "libcuda-that-is-nowhere.so.1")
    assert run_rows(program, both, tmp_path, programs.K, *missing)[0] == 0
    code, _, text = run_rows(program, artifact(alone, 90, cpu=False), tmp_path, programs.K, *missing)
    assert code == 8 and "no NVIDIA driver: tried to open libcuda-that-is-nowhere.so.1" in text
    code, _, text = run_rows(program, both, tmp_path, programs.K, "2", "cuda", "libcuda-that-is-nowhere.so.1")
    assert code == 8 and "no NVIDIA driver" in text


def test_an_exported_program_runs_on_a_gpu(mock: Mock, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    export(artifact(tmp_path, 80, cpu=False, ptx=True), "exe", out, programs.toolchain())
    np.save(tmp_path / "x.npy", X)
    base = [str(out), "--input", f"x={tmp_path}/x.npy", "--output-dir", str(tmp_path), "--driver", mock.path.decode()]
    refused = subprocess.run([*base, "--device", "cuda"], capture_output=True, text=True, check=False)
    assert refused.returncode == 8 and "Allow the driver to compile its PTX" in refused.stderr
    subprocess.run([*base, "--allow-jit", "--device", "cuda"], capture_output=True, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), programs.reference(X), rtol=1e-5, atol=1e-5)
    for wrong in (["--device"], ["--device", "moon"]):
        assert subprocess.run([*base, "--allow-jit", *wrong], capture_output=True, check=False).returncode == 2


# -- hostile bytes under sanitizers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime and the mock, both with sanitizers; the mock is a library of its own, opened like the driver."""
    if GCC is None:
        pytest.skip("SKIPPED: no gcc on the PATH for sanitizers")
    folder = tmp_path_factory.mktemp("fuzz")
    checks = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-D_GNU_SOURCE",
        "-DBUDGET=20000u",
        "-O0",
        "-Wno-pedantic",
    ]
    mock = [MOCK / f"{name}.c" for name in ("mock", "kernels", "cubin")]
    gcc(mock, folder / "libmock.so", *checks, "-shared", "-fPIC", "-lpthread")
    sources = [MOCK / "fuzz.c", *(NATIVE / name for name in SOURCES)]
    gcc(sources, folder / "fuzz", *checks, "-lm", "-lpthread", "-ldl")
    return folder / "fuzz"


FUZZED = {"plan": programs.plan, "host": plans.host_step, "counters": plans.counters, "nonzero": plans.nonzero}


def fuzz(fuzzer: Path, tmp_path: Path, case: str, mode: str, count: int) -> dict[str, int]:
    plan = replace(FUZZED[case](), kernels=NAMES)
    (tmp_path / "plan.bin").write_bytes(encode_plan(plan))
    (tmp_path / "modules.bin").write_bytes(modules())
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=4096",
    }
    command = [str(fuzzer), mode, str(tmp_path / "plan.bin"), str(tmp_path / "modules.bin")]
    command += [str(fuzzer.parent / "libmock.so"), str(count), "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    words = done.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.parametrize("mode", ["plan", "modules"])
@pytest.mark.parametrize("case", FUZZED)
def test_mutations_under_sanitizers(fuzzer: Path, tmp_path: Path, case: str, mode: str) -> None:
    found = fuzz(fuzzer, tmp_path, case, mode, 150)
    assert found["intact"] >= 1 and found["refused"] > 20, found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plan", "modules"])
@pytest.mark.parametrize("case", FUZZED)
def test_many_mutations_under_sanitizers(fuzzer: Path, tmp_path: Path, case: str, mode: str) -> None:
    assert fuzz(fuzzer, tmp_path, case, mode, 2000)["refused"] > 400


@pytest.mark.slow
@pytest.mark.skipif(GCC is None, reason="SKIPPED: no gcc on the PATH for sanitizers")
def test_runs_side_by_side_under_a_race_detector(tmp_path: Path) -> None:
    checks = ["-fsanitize=thread", "-D_GNU_SOURCE", "-Wno-pedantic"]
    gcc([MOCK / f"{n}.c" for n in ("mock", "kernels", "cubin")], tmp_path / "mock.so", *checks, "-shared", "-fPIC")
    gcc([MOCK / "race.c", *(NATIVE / n for n in SOURCES)], tmp_path / "race", *checks, "-lpthread", "-ldl")
    (tmp_path / "plan.bin").write_bytes(encode_plan(replace(programs.plan(), kernels=NAMES)))
    (tmp_path / "modules.bin").write_bytes(modules())
    command = [str(tmp_path / n) for n in ("race", "plan.bin", "modules.bin", "mock.so")]
    done = subprocess.run([*command, "150"], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("SKIPPED: the race detector does not run on this kernel")
    assert (done.returncode, done.stdout) == (0, "wrong 0\n"), done.stderr[-3000:]
