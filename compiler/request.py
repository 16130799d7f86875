"""What a caller says of precision, data and fallback, checked and put as options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.errors import UsageError
from tilewright.options import FALLBACKS, Precision

if TYPE_CHECKING:
    from tilewright.quantization.request import Given, Metric

#: Calibration data (:data:`tilewright.calibration.Source`), or such data by entry point.
Calibrating = Any


def precision_of(
    asked: str | None,
    method: str | None,
    settings: Mapping[str, Any] | None,
    max_drop: float | None,
    metric: str | Metric,
    allowed: Sequence[str],
    excepted: Sequence[str],
) -> Precision | None:
    """The request as an option. Raises :class:`UsageError` for what says how to quantize without a precision."""
    if asked is None:
        if method or settings or max_drop is not None or allowed or excepted:
            cause, fix = "it is said how to quantize, and not to what", "give precision="
            raise UsageError("precision-missing", where="compile", cause=cause, fix=fix)
        return None
    named = metric if isinstance(metric, str) else "given"
    stated = tuple(sorted((settings or {}).items()))
    return Precision(asked, method or "", stated, max_drop, named, tuple(allowed), tuple(excepted))


def given_of(
    calibration: Calibrating | None,
    metric: str | Metric,
    records: str | os.PathLike[str] | None,
    entries: Sequence[str],
) -> Given:
    """The data of a request, by entry point; alone, calibration data is that of the first."""
    from tilewright.quantization.records import Records, read_records
    from tilewright.quantization.request import Given

    sources: Mapping[str, Any] = {}
    if calibration is not None:
        sources = calibration if isinstance(calibration, Mapping) else {entries[0]: calibration}
    for name in sources:
        if name not in entries:
            cause, fix = f"there is no entry point {name!r}", f"give data for {', '.join(entries)}"
            raise UsageError("unknown-entry-point", where="calibration", cause=cause, fix=fix)
    read = read_records(Path(records)) if records is not None else Records()
    return Given(sources, None if isinstance(metric, str) else metric, read)


def fallback_of(asked: str) -> str:
    """The word as it is. Raises :class:`UsageError` for one that is not of ``FALLBACKS``."""
    if asked not in FALLBACKS:
        fix = f"use one of {', '.join(FALLBACKS)}"
        raise UsageError("unknown-fallback", where="fallback", cause=f"there is no {asked!r}", fix=fix)
    return asked
