"""Writing: the same bytes every time, whole files or none, clear errors."""

import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.codegen.toolchain import default_toolchain
from tilewright.errors import InternalError, ResourceError, UsageError
from tilewright.ir.types import DType
from tilewright.package import atomic
from tilewright.package.atomic import atomic_file
from tilewright.package.checksum import segment_sums
from tilewright.package.native import build_runtime
from tilewright.package.writer import compose_artifact, cpu_requirements, write_artifact
from tilewright.plan.plan import Constant, Plan
from tilewright.runtime.device import load_plan

from tests.runtime import programs

X = np.ones((2, programs.K), np.float32)


def write(path: Path) -> None:
    parts = [programs.part(programs.plan())]
    write_artifact(path, parts, programs.weights(), {programs.FAMILY: programs.runtime_library()}, {"test": True})


def test_same_bytes_in_other_folders_and_caches(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "model.tw")
    assert (tmp_path / "a/model.tw").read_bytes() == (tmp_path / "b/model.tw").read_bytes() == programs.artifact()
    fresh = build_runtime(default_toolchain(cache_folder=tmp_path / "cache"), programs.TRIPLE)
    assert fresh == programs.runtime_library()
    assert len(fresh) < 120_000


@pytest.mark.parametrize("triple", ["x86_64-linux-gnu.2.17", "aarch64-linux-gnu.2.17"])
def test_the_executor_is_built_for_every_family(triple: str) -> None:
    data = build_runtime(programs.toolchain(), triple)
    machine = int.from_bytes(data[18:20], "little")
    assert (data[:4], machine) == (b"\x7fELF", {"x86_64": 62, "aarch64": 183}[triple.partition("-")[0]])
    assert len(data) < 120_000


def test_zip64(tmp_path: Path) -> None:
    stream = io.BytesIO()
    families = {programs.FAMILY: programs.runtime_library()}
    parts = [programs.part(programs.plan())]
    compose_artifact(stream, parts, programs.weights(), families, {}, force_zip64=True)
    np.testing.assert_allclose(runtime.load(stream.getvalue())(x=X)["y"], programs.reference(X), rtol=1e-5, atol=1e-5)
    for place in range(0, len(stream.getvalue()), 997):
        mutated = bytearray(stream.getvalue())
        mutated[-1 - place] ^= 4
        with pytest.raises(runtime.ArtifactError):
            runtime.load(mutated)


def test_constants_made_on_demand_and_shared() -> None:
    parts = [programs.part(programs.plan()), programs.part(programs.plan(), "cpu:other")]
    calls: list[int] = []

    def contents() -> Any:
        calls.append(1)
        return programs.weights()["w"]

    stream = io.BytesIO()
    size = compose_artifact(stream, parts, {"w": contents}, {programs.FAMILY: programs.runtime_library()}, {})
    assert (len(calls), size.weights, size.total) == (1, programs.K * programs.WIDTH * 4, len(stream.getvalue()))
    runtime.load(stream.getvalue())


@pytest.mark.parametrize("sizes", [[1], [4096], [4095, 1, 1], [64, 100_000, 3], [0, 5], [9 * 2**20, 7]])
def test_checksums_of_constants_of_any_size(sizes: list[int]) -> None:
    """What NumPy sums, the executor's instructions find right; one flipped bit is found in its segment."""
    names = [f"c{i}" for i in range(len(sizes))]
    arrays = {
        n: np.random.default_rng(i).integers(0, 256, s, np.uint8)
        for i, (n, s) in enumerate(zip(names, sizes, strict=True))
    }
    constants = tuple(Constant(n, DType.U8, (s,)) for n, s in zip(names, sizes, strict=True))
    plan = Plan((programs.loop_entry(),), constants, programs.KERNELS)
    stream = io.BytesIO()
    families = {programs.FAMILY: programs.runtime_library()}
    compose_artifact(stream, [programs.part(plan)], arrays, families, {})
    artifact = runtime.open_artifact(stream.getvalue())
    runtime.load(stream.getvalue())
    total = artifact.members["weights"]
    for place in {0, total.size // 2, total.size - 1}:
        damaged = bytearray(stream.getvalue())
        damaged[total.offset + place] ^= 16
        with pytest.raises(runtime.ArtifactError, match=f"from {place // 4096 * 4096} on"):
            runtime.load(damaged)


def test_crc32c_known_value() -> None:
    """RFC 3720, appendix B.4: 32 bytes of zeros, of ones, ascending; and "123456789"."""
    known = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}
    for data, value in known.items():
        assert int.from_bytes(segment_sums(data), "little") == value


def test_feature_rows_of_a_target() -> None:
    facts = {
        "codegen": {"xcr0": 0x6},
        "cpuid": [{"name": "avx2", "leaf": 7, "subleaf": 0, "register": "ebx", "bit": 5}],
        "hwcap": [{"name": "asimd", "bit": 1}],
    }
    rows = (("avx2", 1, 7, 0, 5), ("xcr0[1]", 4, 0, 0, 1), ("xcr0[2]", 4, 0, 0, 2), ("asimd", 5, 0, 0, 1))
    assert cpu_requirements(facts) == rows


@pytest.mark.skipif(programs.FAMILY != "x86_64", reason="SKIPPED: /proc/cpuinfo of x86")
def test_feature_bits_agree_with_the_system() -> None:
    table = load_plan(runtime.open_artifact(programs.artifact()), "auto", 1).table
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    known = {
        "avx2": (1, 7, 0, 5),
        "fma": (2, 1, 0, 12),
        "sse4_2": (2, 1, 0, 20),
        "avx512f": (1, 7, 0, 16),
        "bmi2": (1, 7, 0, 8),
    }
    assert {n: bool(table.cpu_has(*bit)) for n, bit in known.items()} == {n: n in flags for n in known}
    assert table.cpu_has(4, 0, 0, 1) == ("avx" in flags)


def test_parts_that_do_not_fit_together() -> None:
    other = Plan(programs.plan().entries[:1], programs.plan().constants, programs.KERNELS)
    with pytest.raises(InternalError, match="different signatures"):
        programs.artifact(parts=[programs.part(programs.plan()), programs.part(other, "cpu:other")])
    with pytest.raises(InternalError, match="bytes, its plan says"):
        stream = io.BytesIO()
        families = {programs.FAMILY: b""}
        compose_artifact(stream, [programs.part(programs.plan())], {"w": np.zeros(3, np.float32)}, families, {})


# -- whole files or none ----------------------------------------------------------------------------------------------

NAMED = pytest.mark.parametrize("named", [False, True], ids=["unnamed file", "named file"])


@pytest.fixture
def way(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of writing: file systems without unnamed files take the second."""
    if named:
        monkeypatch.setattr(atomic, "_unnamed_file", lambda path: None)


@NAMED
@pytest.mark.usefixtures("way")
def test_replacing_and_failing(tmp_path: Path) -> None:
    path = tmp_path / "model.tw"
    write(path)
    write(path)
    before = path.read_bytes()
    for error in (RuntimeError(), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)), atomic_file(path) as stream:
            stream.write(b"half")
            raise error
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.tw"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@NAMED
@pytest.mark.usefixtures("way")
def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "model.tw"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ResourceError, match="no room") as caught:
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.code, caught.value.exit_code) == ("disk-full", 7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("mount") is None, reason="SKIPPED: no mount on the PATH")
def test_a_full_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("SKIPPED: no right to mount a small file system")
    try:
        with pytest.raises(ResourceError, match="no room"):
            write(folder / "model.tw")
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As root nothing is read only: what the system would say is put in its place."""

    def refuse(*args: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(ResourceError, match="refuses") as caught:
        write(tmp_path / "model.tw")
    assert caught.value.exit_code == 7


def test_no_such_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "model.tw", tmp_path):
        with pytest.raises(UsageError):
            write(path)


SLOW_WRITER = """\
import sys, time
from pathlib import Path
from tilewright.package import atomic
if {named}: atomic._unnamed_file = lambda path: None
with atomic.atomic_file(Path(sys.argv[1])) as stream:
    stream.write(b"x" * 100000); stream.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("named", [False, True])
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, named: bool, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SLOW_WRITER.format(named=named), str(tmp_path / "model.tw")]
    # A test runner in the background ignores SIGINT, and children inherit that.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        assert process.wait(30) != 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_where_unnamed_files_are(tmp_path: Path) -> None:
    if atomic._unnamed_file(tmp_path / "probe") is None:
        pytest.skip("SKIPPED: this file system has no unnamed files")
    command = [sys.executable, "-c", SLOW_WRITER.format(named=False), str(tmp_path / "model.tw")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """Whoever opens the file at any time finds a whole artifact."""
    path = tmp_path / "model.tw"
    write(path)
    end = time.monotonic() + 2
    failures: list[BaseException] = []

    def again() -> None:
        try:
            while time.monotonic() < end:
                write(path)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=again) for _ in range(2)]
    for t in writers:
        t.start()
    while time.monotonic() < end:
        runtime.open_artifact(path).verify()
    for t in writers:
        t.join()
    assert not failures
    assert [p.name for p in tmp_path.iterdir()] == ["model.tw"]
