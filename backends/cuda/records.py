"""Schedules that were measured on devices: ``tuned/<arch>.jsonl``, read when a kernel is scheduled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tilewright.backends.cuda import toolchain
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target
from tilewright.tuning.choice import ordered
from tilewright.tuning.records import TunedRecord, read_records

#: Where records are; each file has those of one architecture.
FOLDER = Path(__file__).parent / "tuned"


def by_records(kernel: Kernel, target: Target, candidates: Iterable[Schedule]) -> Iterator[Schedule]:
    """``candidates``, with the one that a record of this architecture and of the installed tools names first."""
    records = records_of(target.arch)
    if not records or not toolchain.is_installed():
        return iter(candidates)
    return ordered(kernel, candidates, records, tools())


def tools() -> dict[str, str]:
    """What decides the machine code of a schedule, by name and version."""
    return {"triton": toolchain.triton_version(), "ptxas": toolchain.ptxas_version()}


@cache
def records_of(arch: str) -> tuple[TunedRecord, ...]:
    """The records of ``sm_90``; none where nothing was measured on one."""
    path = FOLDER / f"{arch}.jsonl"
    return read_records(path) if path.exists() else ()
