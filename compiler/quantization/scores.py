"""How much worse the outputs of a quantized model are, over samples: cosine, signal to noise, top-1, a drop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright import accuracy
from tilewright.errors import UsageError
from tilewright.quantization.request import Metric

Array = NDArray[Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Score:
    """Outputs beside those of the float model, over some samples.

    Attributes:
        drop: how much worse, in the terms of the metric; 0 is as good as float.
        cosine: mean over samples and float outputs of the cosine of the angle between the two.
        snr: signal over noise of all outputs together, in decibels; infinite where they are equal.
        top1: share of rows (last axis) whose largest element is the same; ``None`` where outputs have no rows.
        samples: how many were judged.
    """

    drop: float
    cosine: float
    snr: float
    top1: float | None
    samples: int


def score(want: Sequence[Outputs], got: Iterable[Outputs], metric: str, given: Metric | None = None) -> Score:
    """Compare outputs sample by sample; ``metric`` is ``cosine``, ``top1`` or ``given``.

    Outputs that are not finite where those of the float model are make a drop of infinity. Raises
    :class:`UsageError` where a metric cannot be computed.
    """
    kept: list[Outputs] = []
    cosines: list[float] = []
    agreements: list[float] = []
    signal = noise = 0.0
    for theirs, mine in zip(want, got, strict=True):
        for name, reference in theirs.items():
            c = accuracy.compare(name, np.asarray(mine[name]), reference, math.inf)
            cosines.append(c.cosine)
            if c.top1 is not None:
                agreements.append(c.top1)
            wide = reference.astype(np.float64)
            off = np.where(np.isfinite(wide), wide - np.asarray(mine[name]).astype(np.float64), 0.0)
            signal += float(np.square(np.where(np.isfinite(wide), wide, 0.0)).sum())
            noise += math.inf if c.problem else float(np.square(off).sum())
        if given is not None:
            kept.append(mine)
    cosine = float(np.mean(cosines)) if cosines else 1.0
    top1 = float(np.mean(agreements)) if agreements else None
    drop = _drop(metric, given, cosine, top1, want, kept)
    if not math.isfinite(noise):
        drop = math.inf
    return Score(drop, cosine, decibels(signal, noise), top1, len(want))


def _drop(
    metric: str, given: Metric | None, cosine: float, top1: float | None, want: Sequence[Outputs], got: list[Outputs]
) -> float:
    if given is not None:
        return _measured(given, want) - _measured(given, got)
    if metric == "top1":
        if top1 is None:
            cause, fix = "no output has rows with a largest element", "use the metric cosine, or one of your own"
            raise UsageError("metric-unusable", where="metric top1", cause=cause, fix=fix)
        return 1.0 - top1
    return max(0.0, 1.0 - cosine)


def _measured(given: Metric, outputs: Sequence[Outputs]) -> float:
    value = float(given(outputs))
    if not math.isfinite(value):
        cause, fix = f"it gave {value}", "give a function of a list of outputs that returns a finite number"
        raise UsageError("metric-unusable", where="the given metric", cause=cause, fix=fix)
    return value


def decibels(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``, powers given."""
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10.0 * math.log10(signal / noise)
