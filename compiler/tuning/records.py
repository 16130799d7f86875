"""Records of measured schedules: JSON lines, written by a measurement on a device and only read by a build.

A record says what was measured (:class:`~tilewright.tuning.identity.Identity`), on which device, with which tools, and
the schedule that was fastest, under canonical names. Of equal keys the last line counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilewright.errors import UsageError
from tilewright.kernel.record import schedule_from_json
from tilewright.tuning.identity import Identity

#: Bytes at most of a file of records; one line is some 800.
LIMIT_BYTES = 64 << 20
_FIX = "delete the line, or make the file anew with `python scripts/tune_cuda.py accept`"


@dataclass(frozen=True, slots=True)
class TunedRecord:
    """The fastest schedule of a kernel at some sizes on one kind of device.

    Attributes:
        target: spelling, ``cuda:sm_90``.
        identity: what was measured.
        schedule: a schedule's record (:func:`tilewright.kernel.record.schedule_to_json`) in canonical names.
        seconds: median of a launch. spread: from the first to the third quartile, as a share of the median.
        heuristic_seconds: median of the first candidate, what a build takes without a record; 0 where it failed.
        candidates: how many were timed.
        tools: versions, by tool, that made the code.
        device, driver: as the driver names them. date: of the measurement, ``2026-11-22``.
    """

    target: str
    identity: Identity
    schedule: str
    seconds: float
    spread: float
    heuristic_seconds: float
    candidates: int
    tools: tuple[tuple[str, str], ...]
    device: str
    driver: str
    date: str

    @property
    def key(self) -> tuple[str, str, tuple[int, ...], tuple[tuple[str, str], ...]]:
        """What there is one record of."""
        return self.target, self.identity.kernel, self.identity.bucket, self.tools

    def line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(asdict(self) | {"tools": dict(self.tools)}, sort_keys=True)


def read_records(path: Path) -> tuple[TunedRecord, ...]:
    """The records of a file, in its order, one of each key. Raises :class:`UsageError` (``tuned-unreadable``)."""
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise UsageError("tuned-unreadable", where=str(path), cause="it is too large for records", fix=_FIX)
        lines = path.read_bytes().splitlines()
    except OSError as error:
        cause = (error.strerror or "it cannot be read").lower()
        raise UsageError("tuned-unreadable", where=str(path), cause=cause, fix=_FIX) from None
    found: dict[object, TunedRecord] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = record_from(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError, UsageError) as error:
            cause = f"line {number} is no record of a measured schedule: {error}"
            raise UsageError("tuned-unreadable", where=str(path), cause=cause, fix=_FIX) from None
        found[record.key] = record
    return tuple(found.values())


def merged(records: Iterable[TunedRecord]) -> str:
    """The text of a file of these records: of equal keys the last, in the order of their kernels."""
    found = {record.key: record for record in records}
    order = sorted(found.values(), key=lambda r: (r.identity.kind, r.identity.kernel, r.identity.bucket, r.tools))
    return "".join(f"{record.line()}\n" for record in order)


def record_from(data: Mapping[str, Any]) -> TunedRecord:
    """A record from its JSON value. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    told = data["identity"]
    if not isinstance(told, dict) or not isinstance(data["tools"], dict):
        raise TypeError("named values expected")
    texts = [told[n] for n in ("kernel", "family", "kind", "dtypes", "layout", "epilogue")]
    texts += [data[n] for n in ("target", "schedule", "device", "driver", "date")]
    texts += [*data["tools"], *data["tools"].values()]
    if not all(isinstance(t, str) for t in texts):
        raise TypeError("text expected")
    schedule_from_json(data["schedule"])
    identity = Identity(
        told["kernel"],
        told["family"],
        _sizes(told["extents"]),
        _sizes(told["bucket"]),
        *(told[n] for n in ("kind", "dtypes", "layout", "epilogue")),
    )
    return TunedRecord(
        target=data["target"],
        identity=identity,
        schedule=data["schedule"],
        seconds=_number(data["seconds"], 1e-9),
        spread=_number(data["spread"], 0.0),
        heuristic_seconds=_number(data["heuristic_seconds"], 0.0),
        candidates=int(_number(data["candidates"], 1)),
        tools=tuple(sorted(data["tools"].items())),
        device=data["device"],
        driver=data["driver"],
        date=data["date"],
    )


def _number(value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise ValueError(f"{value!r} is no number of at least {least}")
    return float(value)


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        raise ValueError(f"{value!r} are no sizes")
    return tuple(value)
