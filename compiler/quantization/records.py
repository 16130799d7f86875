"""Measured times of kernels, in a file: written by a measurement, only read by a build.

JSON lines, one a kernel: ``{"target": "cpu:x86-64-v3", "kernel": "1a2b…", "sizes": [1, 128], "threads": 1, "seconds":
1.2e-05, "name": "matmul_3f2a"}``. A kernel is known by its tile IR (:func:`work_key`), sizes are those of its dimension
symbols in the kernel's own order. Of equal keys the last line counts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tilewright.errors import UsageError
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.tile import Kernel
from tilewright.package.atomic import atomic_file
from tilewright.tuning.identity import without_literals

Key = tuple[str, str, tuple[int, ...], int]

#: Bytes at most of a file of records; one line is some 150.
LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One kernel on one target at some sizes: the least seconds of a launch that were measured."""

    target: str
    kernel: str
    sizes: tuple[int, ...]
    threads: int
    seconds: float
    name: str = ""

    @property
    def key(self) -> Key:
        """What a build looks it up by."""
        return self.target, self.kernel, self.sizes, self.threads


@dataclass(frozen=True, slots=True)
class Records:
    """Measured times by key, and what identifies the file that they came from."""

    seconds: Mapping[Key, float] = field(default_factory=dict)
    source: str = ""
    sha256: str = ""


def work_key(kernel: Kernel) -> str:
    """What a kernel is known by: the fingerprint of its tile IR without its literals.

    Scales and zero points are literals, and change with the calibration data; the time does not.
    """

    return fingerprint(without_literals(kernel))


def read_records(path: Path) -> Records:
    """The records of a file. Raises :class:`UsageError` (``records-unreadable``), naming the line."""
    fix = "write the file anew with `tilewright quantize --measure-records`"
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise UsageError(
                "records-unreadable", where=str(path), cause="it is no file of records: too large", fix=fix
            )
        data = path.read_bytes()
    except OSError as error:
        cause = (error.strerror or "it cannot be read").lower()
        raise UsageError("records-unreadable", where=str(path), cause=cause, fix=fix) from None
    found: dict[Key, float] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = _record(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            cause = f"line {number} is no record of a kernel's time"
            raise UsageError("records-unreadable", where=str(path), cause=cause, fix=fix) from None
        found[record.key] = record.seconds
    return Records(found, path.name, hashlib.sha256(data).hexdigest())


def _record(data: Mapping[str, object]) -> Record:
    sizes, seconds = data["sizes"], data["seconds"]
    if not isinstance(sizes, list) or isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError
    if not math.isfinite(seconds) or seconds <= 0 or not all(type(s) is int for s in sizes):
        raise ValueError
    threads = data.get("threads", 1)
    if type(threads) is not int:
        raise TypeError
    name = str(data.get("name", ""))
    return Record(str(data["target"]), str(data["kernel"]), tuple(sizes), threads, float(seconds), name)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Add records to a file, which may be there already; equal keys are replaced. Returns how many there are then."""
    lines: dict[str, str] = {}
    if path.exists():
        read_records(path)  # refuses what is no file of records, before anything is written
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                lines[str(_record(json.loads(line)).key)] = line
    for record in records:
        lines[str(record.key)] = json.dumps(asdict(record), sort_keys=True)
    with atomic_file(path) as stream:
        stream.write("".join(f"{lines[key]}\n" for key in sorted(lines)).encode())
    return len(lines)
