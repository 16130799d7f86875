"""Artifacts that travel without their weights (scripts/weightless.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tilewright import runtime

from scripts import weightless
from tests.runtime import programs


def made(folder: Path) -> tuple[Path, Path]:
    """An artifact, and what comes back for it."""
    before, between, after = (folder / name for name in ("before.tw", "empty", "after.tw"))
    before.write_bytes(programs.artifact())
    weightless.empty(before, between)
    weightless.fill(between, after)
    return before, after


def test_what_is_small_stays_to_the_byte(tmp_path: Path) -> None:
    before, after = made(tmp_path)
    assert after.read_bytes() == before.read_bytes()


def test_weights_become_noise_like_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightless, "KEPT_BYTES", 1)
    before, after = made(tmp_path)
    assert after.read_bytes() != before.read_bytes()
    assert after.stat().st_size == before.stat().st_size
    x = np.random.default_rng(0).standard_normal((5, programs.K)).astype(np.float32)
    one, two = (runtime.load(p, threads=1).run(None, {"x": x}, entry="main")[0] for p in (before, after))
    assert one.shape == two.shape
    assert not np.array_equal(one, two)
    assert 0.5 < two.std() / one.std() < 2
    assert made(tmp_path)[1].read_bytes() == after.read_bytes()
