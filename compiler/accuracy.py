"""How far two tensors are apart, and how far they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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

#: Beyond these, squares leave the range of float64 and are summed in the longest float there is.
_SQUARABLE = (1e-100, 1e100)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor beside its reference, over one sample or many.

    Attributes:
        name: of the tensor.
        cosine: of the angle between the two as vectors (1 for integers that are all equal).
        snr: signal-to-noise ratio in dB, ``10 log10(Σ want² / Σ (got - want)²)``; infinite where nothing differs.
        max_error: largest ``|got - want|``.
        relative: ``max_error`` over the largest ``|want|`` (over 1, where all are 0).
        top1: share of rows (last axis) whose largest element is the same; ``None`` for fewer than 2 columns.
        top5: share of rows where the reference's largest element is among the 5 largest; ``None`` for fewer than 6.
        tolerance: what ``relative`` may be.
        minimum: what ``cosine`` has to be, in place of the tolerance; ``None`` where that decides.
        problem: what makes them incomparable: shape, type or non-finite values at different places.
    """

    name: str
    cosine: float
    max_error: float
    relative: float
    top1: float | None
    tolerance: float
    problem: str = ""
    snr: float = -math.inf
    top5: float | None = None
    minimum: float | None = None

    @property
    def ok(self) -> bool:
        """Within what is allowed."""
        return not self.problem and self.used <= 1

    @property
    def used(self) -> float:
        """How much of what is allowed is used up, 1 being all of it; infinite for what cannot be compared."""
        if self.problem:
            return math.inf
        if self.minimum is not None:
            return _share(1 - self.cosine, 1 - self.minimum)
        return _share(self.relative, self.tolerance)

    @property
    def distance(self) -> str:
        """How far it is off, and how far it may be, for a reader."""
        if self.minimum is not None:
            return f"has cosine {self.cosine:.6f} (at least {self.minimum:g})"
        return f"off by {self.relative:.2e} (may be {self.tolerance:.0e})"

    @property
    def limit(self) -> str:
        """What is allowed, for a reader."""
        return f"max relative {self.tolerance:.0e}" if self.minimum is None else f"cosine at least {self.minimum:g}"


def _share(used: float, allowed: float) -> float:
    if allowed > 0:
        return used / allowed
    return 0.0 if used <= 0 else math.inf


@dataclass(slots=True)
class Agreement:
    """What the samples of one tensor come to beside its reference. They are streamed: none is kept.

    Attributes:
        name: of the tensor.
        tolerance: replaces that of :data:`TOLERANCE` for the reference's dtype.
        minimum: of the cosine; decides in place of the tolerance.
    """

    name: str
    tolerance: float | None = None
    minimum: float | None = None
    _limit: float = 0.0
    _error: float = 0.0
    _scale: float = 0.0
    _sums: Any = field(default_factory=lambda: np.zeros(4))  # Σ got², Σ want², Σ got·want, Σ (got - want)²
    _rows: list[int] = field(default_factory=lambda: [0, 0, 0, 0])  # rows and hits of 1, rows and hits of 5
    _problem: str = ""

    def add(self, got: Array, want: Array) -> None:
        """One more sample. What makes it incomparable is kept as :attr:`Comparison.problem`, the first one."""
        got, want = np.asarray(got), np.asarray(want)
        if got.dtype.isbuiltin != 1 and want.dtype == f"u{got.dtype.itemsize}":
            want = want.view(got.dtype)  # an engine that hands out the bits of types that NumPy lacks
        self._limit = _tolerance(want.dtype) if self.tolerance is None else self.tolerance
        if got.shape != want.shape or got.dtype != want.dtype:
            self._problem = self._problem or f"{got.dtype}{list(got.shape)} beside {want.dtype}{list(want.shape)}"
            return
        if want.dtype == object or want.dtype.kind in "SU":
            a, b = (got == want).astype(np.float64), np.ones(want.shape)
            self._limit = 0.0
        else:
            a, b = got.astype(np.float64), want.astype(np.float64)
        finite = np.isfinite(b)
        if not finite.all() or not np.isfinite(a).all():
            if not np.array_equal(np.where(finite, 0, b), np.where(np.isfinite(a), 0, a), equal_nan=True):
                lost, there = int((~np.isfinite(a)).sum()), int((~finite).sum())
                self._problem = self._problem or f"{lost} values not finite, {there} in the reference"
                return
            a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        self._count(a, b)

    def _count(self, a: Array, b: Array) -> None:
        """Add what two finite arrays of one shape come to."""
        self._scale = max(self._scale, float(np.abs(b).max(initial=0.0)))
        with np.errstate(over="ignore"):
            difference = a - b  # beyond the largest float64 for opposite huge values: infinitely far apart
            self._error = max(self._error, float(np.abs(difference).max(initial=0.0)))
            vectors = [v.ravel() for v in (a, b, difference)]
            peak = max(float(np.abs(v).max(initial=0.0)) for v in vectors[:2])
            if peak and not _SQUARABLE[0] < peak < _SQUARABLE[1]:
                vectors = [v.astype(np.longdouble) for v in vectors]
            x, y, d = vectors
            self._sums = self._sums + np.array([x @ x, y @ y, x @ y, d @ d])
        for i, k in enumerate((1, 5)):
            if a.ndim and a.shape[-1] > k and a.size:
                self._rows[2 * i] += a.size // a.shape[-1]
                self._rows[2 * i + 1] += _hits(a, b, k)

    @property
    def result(self) -> Comparison:
        """The comparison over all samples so far; with none of them, of nothing with nothing."""
        top1, top5 = (self._rows[i + 1] / self._rows[i] if self._rows[i] else None for i in (0, 2))
        cosine, snr = self._ratios()
        error, relative = self._error, self._error / (self._scale or 1.0)
        if self._problem:
            cosine, snr, error, relative, top1, top5 = 0.0, -math.inf, math.inf, math.inf, None, None
        limits = (self._limit, self._problem)
        return Comparison(self.name, cosine, error, relative, top1, *limits, snr, top5, self.minimum)

    def _ratios(self) -> tuple[float, float]:
        got, want, both, noise = self._sums
        if not noise:
            return 1.0, math.inf
        if not want or not got:
            return 0.0, -math.inf if not want else 0.0  # of power that is not there; all of the signal is lost
        ratio = want / noise
        return float(both / (np.sqrt(got) * np.sqrt(want))), float(10 * np.log10(ratio)) if ratio else -math.inf


def compare(
    name: str, got: Array, want: Array, tolerance: float | None = None, minimum: float | None = None
) -> Comparison:
    """Compare a tensor with its reference; for several samples of it, see :class:`Agreement`.

    ``tolerance`` replaces the table's for the reference's dtype; ``minimum`` (of the cosine) decides in place of it.
    """
    agreement = Agreement(name, tolerance, minimum)
    agreement.add(got, want)
    return agreement.result


def _tolerance(dtype: np.dtype[Any]) -> float:
    spelled = _SPELLED.get(dtype.name)
    return TOLERANCE[spelled] if spelled else 0.0


def _hits(a: Array, b: Array, k: int) -> int:
    """Rows where the largest of ``b`` is among the ``k`` largest of ``a``; of equal elements the first counts."""
    best = b.argmax(-1)[..., None]
    if k == 1:
        return int((a.argmax(-1)[..., None] == best).sum())
    mine = np.take_along_axis(a, best, -1)
    before = np.arange(a.shape[-1]) < best
    ahead = (a > mine) | ((a == mine) & before)
    return int((ahead.sum(-1) < k).sum())
