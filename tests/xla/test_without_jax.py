"""Programs are compiled and run where jaxlib is and jax is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("jaxlib")

_CODE = """
import sys
sys.modules["jax"] = None
import numpy as np, onnx, tilewright
text = 'g (int64[3] i, float[4,2] x) => (float[3,2] y) { t = Gather(x, i) y = Add(t, t) }'
model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]> ' + text)
artifact = tilewright.compile(model, targets=("xla:cpu",), verify=False)
session = tilewright.load(artifact, device="xla-cpu", allow_jit=True, cache=False)
x = np.arange(8, dtype=np.float32).reshape(4, 2)
(y,) = session.run(None, {"i": np.array([0, -1, 2]), "x": x})
assert np.array_equal(y, 2 * x[[0, -1, 2]]), y
"""


def test_jax_is_not_needed() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
