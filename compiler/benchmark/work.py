"""How much a run has to do at least: the operations of its kernels, and the constants to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.benchmark.records import describe, sizes_of

#: Types whose products are those of 8-bit integers.
_INTEGERS = ("i8", "u8")


@dataclass(frozen=True, slots=True)
class Work:
    """One run. ``operations``: plain ones of all kernels, two a multiply-add, and one for each call of a function, but
    for those of kernels that multiply 8-bit integers, which are ``integers``; ``weight_bytes``: the constants that are
    touched, each once in a launch. A lower bound: what passes between kernels is left out."""

    operations: float
    weight_bytes: float
    integers: float = 0.0


def count_work(artifact: Path, shapes: Mapping[str, Sequence[int]], entry: str | None = None) -> Work:
    """Count a run of an entry point at concrete input shapes, without running it.

    Raises :class:`UsageError` where the artifact does not say what its kernels do.
    """
    record = describe(artifact, sizes_of(artifact, shapes, entry), entry=entry)
    integers = sum(k.flops for k in record.kernels if k.dtype in _INTEGERS)
    operations = record.flops - integers + sum(k.calls for k in record.kernels)
    return Work(float(operations), float(record.constants), float(integers))
