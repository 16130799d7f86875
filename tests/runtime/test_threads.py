"""Threads: the same bytes for every number of them, runs side by side, forks, limits."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.runtime.device import load_plan

from tests.runtime import programs

Array = np.ndarray[Any, Any]


def inputs(n: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(n).standard_normal((n, programs.K)).astype(np.float32)}


@pytest.mark.parametrize("n", [1, 3, 64])
def test_every_number_of_threads_gives_the_same_bytes(n: int) -> None:
    results = [
        [y.tobytes() for y in runtime.load(programs.artifact(), threads=t).run(None, inputs(n))] for t in range(1, 5)
    ]
    assert all(r == results[0] for r in results)


def test_runs_side_by_side() -> None:
    session = runtime.load(programs.artifact(), threads=3)
    sizes = [1, 7, 30, 64, 12, 55, 3, 64]
    wanted = [session.run(None, inputs(n)) for n in sizes]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(200):
            got = session.run(None, inputs(sizes[i]))
            if any(a.tobytes() != b.tobytes() for a, b in zip(got, wanted[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sizes))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_more_shapes_than_are_remembered() -> None:
    session = runtime.load(programs.artifact(), threads=2)
    first = {n: session(**inputs(n))["y"] for n in range(1, 65)}
    for n in (1, 33, 64, 2):
        np.testing.assert_array_equal(session(**inputs(n))["y"], first[n])


def fork_and_run(session: runtime.Session, wanted: bytes) -> int:
    """Exit code of a child that runs, from two threads, and forks once more."""
    child = os.fork()
    if child == 0:
        try:
            got: list[bytes] = []
            both = [threading.Thread(target=lambda: got.append(session(**inputs(40))["y"].tobytes())) for _ in range(2)]
            for t in both:
                t.start()
            for t in both:
                t.join()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if session(**inputs(40))["y"].tobytes() == wanted else 1)
            _, status = os.waitpid(grandchild, 0)
            os._exit(0 if got == [wanted] * 2 and status == 0 else 1)
        except BaseException:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_running_after_a_fork() -> None:
    session = runtime.load(programs.artifact(), threads=3)
    wanted = session(**inputs(40))["y"].tobytes()
    assert fork_and_run(session, wanted) == 0
    assert session(**inputs(40))["y"].tobytes() == wanted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forking_while_other_threads_run() -> None:
    session = runtime.load(programs.artifact(), threads=3)
    wanted = session(**inputs(40))["y"].tobytes()
    stop = threading.Event()

    def work() -> None:
        n = 1
        while not stop.is_set():
            session(**inputs(n))
            n = n % 64 + 1

    busy = [threading.Thread(target=work) for _ in range(2)]
    for t in busy:
        t.start()
    try:
        assert [fork_and_run(session, wanted) for _ in range(5)] == [0] * 5
    finally:
        stop.set()
        for t in busy:
            t.join()


def test_threads_end_with_the_session() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = count()
    for _ in range(20):
        runtime.load(programs.artifact(), threads=4)(**inputs(64))
    assert count() <= before + 3


def test_the_callers_floating_point_mode_changes_nothing() -> None:
    torch = pytest.importorskip("torch")
    session = runtime.load(programs.artifact(), threads=1)
    tiny = np.full(4, 1e-39, np.float32)  # a subnormal number
    wanted = session.run(None, {"x": tiny, "steps": np.array([1])}, entry="loop")[0].tobytes()
    torch.set_flush_denormal(True)
    try:
        got = session.run(None, {"x": tiny, "steps": np.array([1])}, entry="loop")[0].tobytes()
        assert float(torch.tensor(1e-39) * 2) == 0  # the caller's mode is its own again
    finally:
        torch.set_flush_denormal(False)
    assert got == wanted


# -- how many ---------------------------------------------------------------------------------------------------------


def quota(root: Path) -> float:
    table = load_plan(runtime.open_artifact(programs.artifact()), "auto", 1).table
    return float(table.cpu_quota(os.fsencode(root)))


TREES: dict[str, tuple[dict[str, str], float]] = {
    "no files": ({}, 0),
    "unlimited": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 0),
    "v2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "v2 parent": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/cpu.max": "800000 100000\n",
        },
        2,
    ),
    "v1": (
        {
            "proc/self/cgroup": "5:cpuset:/x\n4:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "v1 unlimited": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        0,
    ),
    "garbage": ({"proc/self/cgroup": "x\n::\n0::/\n", "sys/fs/cgroup/cpu.max": "many 0\n"}, 0),
}


@pytest.mark.parametrize(("files", "wanted"), TREES.values(), ids=TREES)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], wanted: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota(tmp_path) == wanted


def test_default_follows_the_affinity_mask(tmp_path: Path) -> None:
    path = tmp_path / "model.tw"
    path.write_bytes(programs.artifact())
    code = (
        "import os, sys, tilewright.runtime as r; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"sys.exit(r.load({str(path)!r}).threads)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


def test_bad_number_of_threads() -> None:
    with pytest.raises(runtime.InputError):
        runtime.load(programs.artifact(), threads=0)
