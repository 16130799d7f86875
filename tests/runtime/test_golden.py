"""An artifact of format version 1, kept as it was written: every later version must load and run it."""

from pathlib import Path

import numpy as np
import pytest
from tilewright import runtime

from tests.runtime import programs

GOLDEN = Path(__file__).parent / "golden" / "format-1.tw"

pytestmark = pytest.mark.skipif(programs.FAMILY != "x86_64", reason="SKIPPED: the golden artifact is for x86-64")


def test_the_golden_artifact_is_whole_and_small() -> None:
    artifact = runtime.open_artifact(GOLDEN)
    artifact.verify()
    assert len(artifact.data) < 200_000
    assert artifact.manifest.provenance == {"test": True}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_golden_artifact_runs(threads: int) -> None:
    session = runtime.load(GOLDEN, threads=threads)
    x = np.random.default_rng(0).standard_normal((13, programs.K)).astype(np.float32)
    np.testing.assert_allclose(session(x=x)["y"], programs.reference(x), rtol=1e-5, atol=1e-5)
    steps = {"x": np.arange(5, dtype=np.float32), "steps": np.array([3])}
    assert session.run(None, steps, entry="loop")[0].tolist() == [0, 4, 8, 12, 16]
    found = session.run(None, {"x": np.array([0, 1, 0, 2], np.float32)}, entry="nonzero")
    assert found[0].tolist() == [1, 2]
    state = {"cache": np.ones(2, np.float32), "x": np.arange(2, dtype=np.float32)}
    assert session.run(["new_cache"], state, entry="state")[0].tolist() == [2, 3]
