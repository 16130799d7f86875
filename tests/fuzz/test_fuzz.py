"""A few random models, and every minimal model that failed once. ``python scripts/fuzz.py`` runs thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import minimal, quantized
from tests.fuzz.judge import BAD, difference, judge, pattern
from tests.fuzz.worker import answer, made

pytest.importorskip("onnxruntime")

CASES = sorted(minimal.FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=[p.stem for p in CASES])
def test_a_model_that_failed_once(path: Path) -> None:
    verdict = judge(*minimal.read(path))
    assert verdict.status == "ok", f"{verdict.status}: {verdict.reason}"


@pytest.mark.parametrize("seed", [*range(5), *range(quantized.FIRST, quantized.FIRST + 3)])
def test_random_models(seed: int) -> None:
    told = answer(seed, lambda stage: None)
    assert told["status"] not in (*BAD, "empty"), told


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(5000, 5100), *range(quantized.FIRST + 3, quantized.FIRST + 100)])
def test_many_random_models(seed: int) -> None:
    told = answer(seed, lambda stage: None)
    assert told["status"] not in BAD, told


def test_a_seed_is_a_model() -> None:
    first, second = made(11), made(11)
    assert first is not None and second is not None
    assert first[0].SerializeToString() == second[0].SerializeToString()
    for a, b in zip(first[1], second[1], strict=True):
        assert all(np.array_equal(a[n], b[n]) for n in a)


def test_shrinking_leaves_the_node_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = next(m for m in map(made, range(100)) if m is not None and len(m[0].graph.node) > 4)
    wanted = model[0].graph.node[2].op_type
    small, runs = minimal.shrink(*model, lambda m, f: any(n.op_type == wanted for n in m.graph.node))
    assert [n.op_type for n in small.graph.node] == [wanted]
    monkeypatch.setattr(minimal, "FOLDER", tmp_path)
    again, fed = minimal.read(minimal.keep(small, runs, "case", "nothing"))
    assert [n.op_type for n in again.graph.node] == [wanted]
    assert all(np.array_equal(fed[0][n], a) for n, a in runs[0].items())


def test_a_difference_is_seen() -> None:
    want = {"y": np.array([1.0, 2.0], np.float32)}
    assert not difference(want, want)
    assert "relative error" in difference({"y": np.array([1.0, 2.01], np.float32)}, want)
    assert pattern("Resize: scales (node 'Resize_v12')") == pattern("Resize: scales (node 'Resize_v3')")
