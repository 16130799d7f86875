"""A small encoder from file to results: dynamic sizes, thread counts, concurrency, bad inputs, equal bytes."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from platform import machine
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.backends.cpu.machine import runnable
from tilewright.codegen import cache
from tilewright.codegen.toolchain import default_toolchain
from tilewright.options import Options
from tilewright.package.native import NATIVE
from tilewright.runtime import load
from tilewright.runtime.errors import RunError

from models import minilm

Arrays = dict[str, np.ndarray[Any, Any]]
SIZES = [(1, 1), (1, 8), (3, 5), (2, 33), (5, 16), (1, 128)]


def feeds(batch: int, sequence: int, vocabulary: int = 500) -> Arrays:
    rng = np.random.default_rng([batch, sequence])
    mask = np.ones((batch, sequence), np.int64)
    mask[-1, (sequence + 1) // 2 :] = 0
    return {
        "input_ids": rng.integers(0, vocabulary, (batch, sequence)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, sequence)),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.build_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def artifact(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("artifact") / "small.tw"
    driver.compile(model, options=Options(targets=("cpu",))).save(path)
    yield path


@pytest.mark.parametrize("target", [t.spelling for t in runnable()])
@pytest.mark.parametrize("level", [0, 2])
def test_every_level_gives_the_reference_numbers(model: Path, target: str, level: int) -> None:
    session = load(driver.compile(model, options=Options(targets=(target,), level=level)).to_bytes())
    reference = ReferenceEvaluator(str(model))
    for batch, sequence in SIZES:
        x = feeds(batch, sequence)
        (want,) = reference.run(None, x)
        (got,) = session.run(None, x)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), (batch, sequence)


def test_thread_counts_give_the_same_bytes(artifact: Path) -> None:
    x = feeds(3, 37)
    results = [load(artifact, threads=n).run(None, x)[0].tobytes() for n in (1, 2, 3, 4)]
    assert len(set(results)) == 1


def test_concurrent_runs_of_one_session(artifact: Path) -> None:
    session = load(artifact, threads=2)
    work = [feeds(1 + i % 3, 4 + i) for i in range(12)]
    want = [session.run(None, x)[0] for x in work]
    got: list[Any] = [None] * len(work)

    def run(start: int) -> None:
        for i in range(start, len(work), 4):
            got[i] = session.run(None, work[i])[0]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_index_outside_its_table_is_refused(artifact: Path) -> None:
    session = load(artifact)
    x = feeds(1, 8)
    x["input_ids"][0, 3] = 500
    with pytest.raises(RunError, match="outside the tensor"):
        session.run(None, x)
    x["input_ids"][0, 3] = -1  # counts from the end, as ONNX says
    session.run(None, x)


def test_same_bytes_in_another_folder_with_another_cache(
    model: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = minilm.build_small(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache.default_cache_folder().is_relative_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    again = driver.compile(copy, options=Options(targets=("cpu",)))
    assert again.to_bytes() == artifact.read_bytes()


def test_a_short_c_program_gives_the_same_bytes(artifact: Path, tmp_path: Path) -> None:
    """The whole of what a C user writes for an encoder, compiled by the pinned compiler."""
    source = Path(__file__).parent / "run_encoder.c"
    assert len(source.read_text().splitlines()) < 60
    compiler = default_toolchain().command
    include = [f"-I{NATIVE}", "-target", "x86_64-linux-gnu.2.17" if machine() == "x86_64" else "aarch64-linux-gnu.2.17"]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(tmp_path / kind) for kind in ("LOCAL", "GLOBAL")}
    command = [
        *compiler,
        str(source),
        "-o",
        "program",
        "-O1",
        "-std=c11",
        "-D_GNU_SOURCE",
        *include,
        "-lpthread",
        "-ldl",
    ]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, **caches}, capture_output=True)
    x = feeds(3, 21)
    names = ("input_ids", "attention_mask", "token_type_ids")
    (tmp_path / "in.bin").write_bytes(b"".join(x[n].tobytes() for n in names))
    subprocess.run([tmp_path / "program", artifact, "in.bin", "3", "21", "out.bin"], check=True, cwd=tmp_path)
    assert (tmp_path / "out.bin").read_bytes() == load(artifact).run(None, x)[0].tobytes()
