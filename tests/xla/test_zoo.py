"""The small zoo on XLA's CPU compiler beside ONNX Runtime, which runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jaxlib")
pytest.importorskip("onnxruntime")

from tilewright.accuracy import compare

from models.zoo import Model, Size, small
from tests.xla.run import Array, compiled

#: One program each, of the sizes that an artifact is asked to serve at most in the checks: all others are padded.
BUCKETS = {"batch": (8,), "sequence": (64,), "past": (64,), "capacity": (64,)}
ZOO = small()

_CHILD = """
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [o.name for o in session.get_outputs()]
for path in sys.argv[2:]:
    feeds = np.load(path)
    np.savez(path.replace("feeds", "wanted"), **dict(zip(names, session.run(None, {k: feeds[k] for k in feeds.files}))))
"""


def by_onnxruntime(model: Path, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """The outputs of a model for each of ``feeds``."""
    paths = []
    for n, feed in enumerate(feeds):
        paths.append(model.parent / f"feeds{n}.npz")
        np.savez(paths[-1], **feed)
    subprocess.run([sys.executable, "-c", _CHILD, str(model), *map(str, paths)], check=True)
    return [dict(np.load(str(p).replace("feeds", "wanted"))) for p in paths]


def check(model: Model, folder: Path, sizes: Sequence[Size]) -> None:
    """Compile it once for :data:`BUCKETS` and compare all outputs at each size."""
    path = model.build(folder)
    feeds = [model.feed(batch, length) for batch, length in sizes]
    program = compiled(path, model.input_shapes, BUCKETS)
    for feed, wanted in zip(feeds, by_onnxruntime(path, feeds), strict=True):
        found = program.run(feed)
        for name, want in wanted.items():
            compared = compare(name, found[name], want, 1e-4)
            assert compared.ok, f"{model.name} at {[v.shape for v in feed.values()]}, {name}: {compared.distance}"


@pytest.mark.parametrize("name", ZOO)
def test_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    model = ZOO[name]
    check(model, tmp_path, model.checks)
