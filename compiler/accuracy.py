"""How far two tensors are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Largest error relative to the largest reference value, by the precision that computes. Two correct float32
#: implementations of an encoder differ by a few 1e-6 (another order of summation, another ``exp``); 1e-4 leaves room
#: for depth. 16-bit types: their unit roundoff (2^-11, 2^-8) times about 10. Narrower floats: one
#: unit in the last place of the largest. Integers are exact.
TOLERANCE = {
    "f64": 1e-9, "f32": 1e-4, "f16": 5e-3, "bf16": 4e-2, "f8e4m3": 0.125, "f8e4m3fnuz": 0.125, "f8e5m2": 0.25,
    "f8e5m2fnuz": 0.25, "f4e2m1": 0.5, "f8e8m0": 0.5,
}  # fmt: skip

#: The types' names in NumPy and ml_dtypes.
_SPELLED = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "f8e4m3",
    "float8_e4m3fnuz": "f8e4m3fnuz", "float8_e5m2": "f8e5m2", "float8_e5m2fnuz": "f8e5m2fnuz",
    "float4_e2m1fn": "f4e2m1", "float8_e8m0fnu": "f8e8m0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output beside its reference.

    Attributes:
        name: of the output.
        cosine: of the angle between the two as vectors (1 for integers that are all equal).
        max_error: largest ``|got - want|``.
        relative: ``max_error`` over the largest ``|want|`` (over 1, where all are 0).
        top1: share of rows (last axis) whose largest element is the same; ``None`` for fewer than 2 columns.
        tolerance: what ``relative`` may be.
        problem: what makes them incomparable: shape, type or non-finite values at different places.
    """

    name: str
    cosine: float
    max_error: float
    relative: float
    top1: float | None
    tolerance: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Within tolerance."""
        return not self.problem and self.relative <= self.tolerance


def compare(name: str, got: Array, want: Array, tolerance: float | None = None) -> Comparison:
    """Compare an output with its reference. ``tolerance`` replaces the table's for the reference's dtype."""
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype.isbuiltin != 1 and want.dtype == f"u{got.dtype.itemsize}":
        want = want.view(got.dtype)  # an engine that hands out the bits of types that NumPy lacks
    limit = _tolerance(want.dtype) if tolerance is None else tolerance
    if got.shape != want.shape or got.dtype != want.dtype:
        problem = f"{got.dtype}{list(got.shape)} beside {want.dtype}{list(want.shape)}"
        return Comparison(name, 0.0, float("inf"), float("inf"), None, limit, problem)
    if want.dtype == object or want.dtype.kind in "SU":
        same = float(np.mean(got == want)) if want.size else 1.0
        return Comparison(name, same, 1.0 - same, 1.0 - same, None, 0.0)
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.where(finite, 0, b), np.where(np.isfinite(a), 0, a), equal_nan=True):
        problem = f"{int((~np.isfinite(a)).sum())} values not finite, {int((~finite).sum())} in the reference"
        return Comparison(name, 0.0, float("inf"), float("inf"), None, limit, problem)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    error = float(np.abs(a - b).max(initial=0.0))
    scale = float(np.abs(b).max(initial=0.0))
    return Comparison(name, _cosine(a, b), error, error / (scale or 1.0), _top1(a, b), limit)


def _tolerance(dtype: np.dtype[Any]) -> float:
    spelled = _SPELLED.get(dtype.name)
    return TOLERANCE[spelled] if spelled else 0.0


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a.ravel()) * np.linalg.norm(b.ravel()))
    return float(a.ravel() @ b.ravel()) / norms if norms else float(np.array_equal(a, b))


def _top1(a: Array, b: Array) -> float | None:
    if a.ndim == 0 or a.shape[-1] < 2 or not a.size:
        return None
    return float(np.mean(a.argmax(-1) == b.argmax(-1)))
