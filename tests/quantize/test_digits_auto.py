"""``auto`` on networks trained on handwritten digits: what it loses, beside ONNX Runtime's static quantizer.

All three seeds: 98.57, 98.57, 98.71 % in float and quantized alike; 42.5, 42.0, 42.2 dB beside 16.8, 17.3, 25.8 dB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from tilewright import engines

from .digits import SEEDS, digits, of_onnxruntime, snr

for module in ("torch", "sklearn", "onnxruntime"):
    pytest.importorskip(module)


@pytest.mark.parametrize("seed", [SEEDS[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SEEDS[1:])])
def test_auto_loses_little(seed: int, tmp_path: Path) -> None:
    data = digits(seed)
    (tmp_path / "f32.onnx").write_bytes(data.model)
    made = tw.quantize(
        onnx.load_from_string(data.model),
        ("cpu:x86-64-v4+vnni",),
        method="auto",
        calibration=data.feeds(),
        max_drop=0.0005,
    )
    made.save(tmp_path / "q.onnx")
    feeds = [{"image": data.images}]
    want, got = (
        engines.run_apart("onnxruntime.plain", tmp_path / name, feeds).outputs[0]["logits"]
        for name in ("f32.onnx", "q.onnx")
    )
    (group,) = made.facts.groups
    quantized = [layer.name for layer in group.layers if "int8" in layer.got]
    assert len(quantized) >= len(group.layers) / 2, group.layers
    assert group.drop is not None
    assert group.drop <= 0.0005
    assert data.accuracy(got) >= data.accuracy(want) - 0.3
    assert snr(got, want) >= snr(of_onnxruntime(data, tmp_path), want)
    assert np.isfinite(got).all()
