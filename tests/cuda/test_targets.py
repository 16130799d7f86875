"""Target files: complete, consistent with each other, every number with its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tilewright.backends import cuda
from tilewright.backends.cuda.backend import CudaBackend

FILES = sorted((Path(cuda.__file__).parent / "targets").glob("*.toml"))


def test_the_architectures_are_there(backend: CudaBackend) -> None:
    assert set(backend.targets()) == {f"cuda:sm_{n}" for n in (80, 86, 89, 90, 100, 120)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_limits_are_consistent(file: Path, backend: CudaBackend) -> None:
    target = backend.targets()[f"cuda:{file.stem}"]
    x = target.extra
    assert x["shared_per_block_default"] < x["shared_per_block"] < x["shared_per_sm"]
    assert x["threads_per_block"] <= x["threads_per_sm"]
    assert x["registers_per_thread"] * x["threads_per_block"] > x["registers_per_block"]
    assert target.memory["shared"].size == target.units * x["shared_per_sm"]
    # A matrix unit's f16 rate is a power of two of multiply-adds a clock and multiprocessor, at some boost clock.
    per_clock = target.peak["f16"] / (2 * target.units * x["clock_hz"])
    assert any(0.8 < per_clock / n < 1.05 for n in (256, 512, 1024, 2048, 4096)), per_clock
    assert target.peak["f32"] == pytest.approx(2 * _f32_lanes(file.stem) * target.units * x["clock_hz"], rel=0.02)


def _f32_lanes(arch: str) -> int:
    """Multiply-adds of f32 a clock and multiprocessor (CUDA C++ Programming Guide, Arithmetic Instructions)."""
    return 64 if arch == "sm_80" else 128


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_number_has_a_source(file: Path) -> None:
    """On its own line, or in the comment above its block."""
    commented = False
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("["):
            commented = commented and line.startswith("[")
        elif line.startswith("#"):
            commented = True
        elif re.search(r"=\s*\d", line):
            assert commented or "#" in line or line.startswith("size"), line
