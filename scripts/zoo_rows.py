"""What rows about models of the small zoo have in common: model in a precision, inputs, and the measure of error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tilewright as tw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)

Array = np.ndarray[Any, Any]
#: Methods that take ranges from samples.
_CALIBRATED = frozenset(["int8", "int4", "smoothquant"])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model of the zoo: its file in f32, its file in the precision asked for, and inputs of two sizes."""

    model: zoo.Model
    original: Path
    path: Path
    feeds: list[dict[str, Array]]


def prepared(name: str, precision: str, target: str, folder: Path) -> Prepared:
    """A model of the small zoo in ``precision`` (``fp32``: as it is), written into ``folder``."""
    model = zoo.small()[name]
    original = path = model.build(folder)
    feeds = [model.make_feed(batch, length, seed) for seed, (batch, length) in enumerate(model.checks[:2])]
    if precision != "fp32":
        data = feeds if precision in _CALIBRATED else None
        quantized = tw.quantize(path, method=precision, calibration=data, targets=(target,))
        path = folder / "quantized.onnx"
        quantized.save(path)
    return Prepared(model, original, path, feeds)


def largest_error(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Largest difference of any output from the reference's, relative to the largest value of that output."""
    worst = 0.0
    for name, value in wanted.items():
        a, b = got[name].astype(np.float64), value.astype(np.float64)
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return worst if np.isfinite(worst) else float("inf")


def problem(error: BaseException) -> str:
    """What became of a row that could not be made, in one cell."""
    lines = str(error).strip().splitlines() or [""]
    told = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return f"**{type(error).__name__}: {told}**".replace("|", "/")
