"""Whether numbers fit a narrower type of floats: the largest of weights or of calibration data beside its range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tilewright.ir.types import DType
from tilewright.passes.quantize.base import Array, Calibration, Runner


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Of a tensor: its largest finite ``|x|``, and whether something in it is infinite."""

    largest: float = 0.0
    infinite: bool = False

    @staticmethod
    def of(array: Array) -> Magnitudes:
        """Those of one tensor. What is not a number fits every type."""
        values = np.abs(np.asarray(array, np.float32))
        finite = np.isfinite(values)
        return Magnitudes(float(np.max(values, initial=0.0, where=finite)), bool(np.isinf(values).any()))

    def with_(self, other: Magnitudes) -> Magnitudes:
        """Of both tensors."""
        return Magnitudes(max(self.largest, other.largest), self.infinite or other.infinite)


def magnitudes_of(
    model: ir.Model, names: Sequence[str], calibration: Calibration, runner: Runner
) -> dict[str, Magnitudes]:
    """Those of the named values over all samples."""
    seen = dict.fromkeys(names, Magnitudes())
    for found in runner(model, calibration.feeds, names):
        for name in names:
            seen[name] = seen[name].with_(Magnitudes.of(found[name]))
    return seen


def misfit(value: ir.Value, magnitudes: Magnitudes, kind: DType) -> str:
    """Why a tensor does not fit ``kind``; empty where it does. Infinities stay what they are in any type."""
    info = ml_dtypes.finfo(kind.numpy)  # type: ignore[no-untyped-call]
    if magnitudes.largest > float(info.max):
        return f"{value.name} reaches {magnitudes.largest:.3g}, {kind} ends at {float(info.max):.3g}"
    if 0 < magnitudes.largest < float(info.tiny):
        least = f"the least normal {kind} is {float(info.tiny):.3g}"
        return f"{value.name} is {magnitudes.largest:.3g} at most, {least}"
    return ""
