"""The work of kernels as JSON values: what an artifact keeps of it, to be looked into without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilewright.cost.work import Work, work_of
from tilewright.ir.parse import parse
from tilewright.kernel.routine import Routine
from tilewright.kernel.tile import Kernel

#: Where a kernel's code comes from: scheduled tile IR, or a hand-written kernel of a backend, which is then named.
TILE_IR = "tile-ir"


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """A kernel of an artifact: its work over ``symbols``, which a launch gives values in this order."""

    symbols: tuple[str, ...]
    work: Work
    source: str = TILE_IR


def record_of(kernel: Kernel | Routine) -> dict[str, Any]:
    """The JSON value of a kernel's work: expressions as text, nothing that is zero. That of a routine is not known."""
    if isinstance(kernel, Routine):
        return {"kind": "routine", "source": f"routine {kernel.name}", "symbols": []}
    work = work_of(kernel)
    sizes = {n: str(getattr(work, n)) for n in ("flops", "read", "written", "constants") if getattr(work, n) != 0}
    record: dict[str, Any] = {"kind": work.kind, "source": TILE_IR, "symbols": [n for n, _ in kernel.facts], **sizes}
    if work.dtype:
        record["dtype"] = work.dtype
    if work.functions:
        record["functions"] = {name: str(count) for name, count in work.functions}
    if work.conversion:
        record["conversion"] = True
    return record


def read_record(record: Mapping[str, Any]) -> KernelRecord:
    """What :func:`record_of` wrote. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    functions = tuple((str(name), parse(str(count))) for name, count in record.get("functions", {}).items())
    flops, read, written, constants = (
        parse(str(record.get(n, "0"))) for n in ("flops", "read", "written", "constants")
    )
    work = Work(
        kind=str(record["kind"]),
        dtype=str(record.get("dtype", "")),
        flops=flops,
        functions=functions,
        read=read,
        written=written,
        constants=constants,
        conversion=bool(record.get("conversion", False)),
    )
    return KernelRecord(tuple(map(str, record["symbols"])), work, str(record["source"]))
