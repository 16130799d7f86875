"""Which schedule a build takes: that of a record of the same kernel, of a near one, or the heuristic's first.

Records only choose among the candidates of a backend, so that none can bring a schedule that its rules refuse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tilewright.kernel.canonical import Renaming, canonical_names, rename_schedule
from tilewright.kernel.record import schedule_from_json, schedule_to_json
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel
from tilewright.tuning.identity import identity_of
from tilewright.tuning.records import TunedRecord

#: The entry of :attr:`Schedule.extra` that says where a schedule comes from; a schedule without is the heuristic's.
CHOICE = "choice"
HEURISTIC = "heuristic"
#: How the texts of the other two begin.
TUNED, NEAREST = "tuned", "nearest record"
#: How far a near record may be: the sum over all axes of the base-2 logarithm of the ratio of their extents.
NEAR = 4.0


@dataclass(frozen=True, slots=True)
class Found:
    """A record for a kernel, and whether it is of the same kernel in the same bucket."""

    record: TunedRecord
    exact: bool

    @property
    def told(self) -> str:
        """For reports: ``tuned (2026-11-22, NVIDIA H200)``."""
        where = f"({self.record.date}, {self.record.device})"
        return f"{TUNED if self.exact else NEAREST} {where}"


def choice_of(schedule: Schedule) -> str:
    """Where a schedule comes from: ``tuned (date, device)``, ``nearest record (date, device)`` or ``heuristic``."""
    return str(schedule.option(CHOICE, HEURISTIC))


def ordered(
    kernel: Kernel, candidates: Iterable[Schedule], records: Sequence[TunedRecord], tools: Mapping[str, str]
) -> Iterator[Schedule]:
    """``candidates``, with the one that a record names first and marked. Records made with other tools do not count."""
    usable = [r for r in records if dict(r.tools) == dict(tools)]
    found = nearest(kernel, usable) if usable else None
    if found is None:
        yield from candidates
        return
    every = list(candidates)
    names = canonical_names(kernel)
    wanted = rename_schedule(schedule_from_json(found.record.schedule), _inverse(names))
    first = next((s for s in every if _same(s, wanted, found.exact)), None)
    if first is not None:
        yield replace(first, extra=(*first.extra, (CHOICE, found.told)))
    yield from (s for s in every if s is not first)


def nearest(kernel: Kernel, records: Sequence[TunedRecord]) -> Found | None:
    """The record of this kernel and bucket; else the nearest bucket of it; else the nearest of its family."""
    own = identity_of(kernel)
    same = [r for r in records if r.identity.kernel == own.kernel]
    for record in same:
        if record.identity.bucket == own.bucket:
            return Found(record, exact=True)
    if same:
        return Found(min(same, key=lambda r: distance(r.identity.extents, own.extents)), exact=False)
    near = [
        (distance(r.identity.extents, own.extents), n)
        for n, r in enumerate(records)
        if r.identity.family == own.family and r.identity.kind == own.kind
    ]
    if near and min(near)[0] <= NEAR:
        return Found(records[min(near)[1]], exact=False)
    return None


def distance(a: Sequence[int], b: Sequence[int]) -> float:
    """How far two lists of extents are from each other; infinite where they do not have equally many."""
    if len(a) != len(b):
        return math.inf
    return sum(abs(math.log2(max(x, 1) / max(y, 1))) for x, y in zip(a, b, strict=True))


def _same(candidate: Schedule, wanted: Schedule, exact: bool) -> bool:
    """Whether two schedules are one; of another kernel of the family, but for what follows from its sizes."""
    if exact:
        return schedule_to_json(candidate) == schedule_to_json(wanted)
    return _free(candidate) == _free(wanted)


def _free(schedule: Schedule) -> Schedule:
    """Without what depends on the sizes alone: padded lanes of whole axes, shapes of packed constants."""
    extra = tuple(sorted((n, v) for n, v in schedule.extra if not n.startswith("whole:")))
    return replace(schedule, extra=extra, packs=tuple(replace(p, shape=(), source=()) for p in schedule.packs))


def _inverse(names: Renaming) -> Renaming:
    return Renaming(*({new: old for old, new in m.items()} for m in (names.symbols, names.params, names.tiles)))
