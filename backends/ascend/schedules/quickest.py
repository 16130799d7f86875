"""Schedules in the order of what a launch is estimated to take, those that do not fit last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.schedules.estimate import estimated_cycles
from tilewright.errors import UnsupportedError
from tilewright.ir.ranges import bounds
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Candidates one after the other that are worse than the best so far: tiles only get smaller from there on.
_WORSE = 3
#: Elements of the tile that tells how many bytes an element takes, and how much less that may become by sharing.
_SAMPLE = 4096
_SHARED = 2


def quickest_first(kernel: Kernel, candidates: Iterable[Schedule], target: Target) -> Iterator[Schedule]:
    """``candidates``, which come by falling size of tiles: what fits by rising estimate, then the others.

    Where a rule of placing refuses the kernel itself, the order stays, for the caller to meet the refusal.
    """
    left = list(candidates)
    sample = next((s for s in left if _elements(kernel, s) <= _SAMPLE), None)
    most = math.inf
    drafts: dict[Schedule, Placed | None] = {}
    try:
        if sample is not None:
            drafts[sample] = _draft(kernel, sample, target)
            if (draft := drafts[sample]) is not None:
                room = target.memory["ub"].size / max(1, _used(draft))
                most = _SHARED * room * _elements(kernel, sample)
        small = [s for s in left if _elements(kernel, s) <= most]
        ordered = _ordered(kernel, small, drafts, target)
    except (UnsupportedError, ValueError):
        yield from left
        return
    yield from ordered
    yield from (s for s in left if s not in set(ordered))


def _ordered(
    kernel: Kernel, candidates: Iterable[Schedule], drafts: dict[Schedule, Placed | None], target: Target
) -> list[Schedule]:
    """Those that fit, by rising estimate, as far as it pays to look; ``drafts`` are placed already."""
    found: list[tuple[float, int, Schedule]] = []
    worse = 0
    for n, schedule in enumerate(candidates):
        draft = drafts[schedule] if schedule in drafts else _draft(kernel, schedule, target)
        if draft is None:
            continue
        cycles = estimated_cycles(draft)
        worse = worse + 1 if found and cycles > min(found)[0] else 0
        found.append((cycles, n, schedule))
        if worse == _WORSE:
            break
    return [schedule for _, _, schedule in sorted(found, key=lambda f: f[:2])]


def _draft(kernel: Kernel, schedule: Schedule, target: Target) -> Placed | None:
    """The kernel placed, without synchronisation; ``None`` where it does not fit."""
    from tilewright.backends.ascend.placing.place import place_unsynchronized

    try:
        return place_unsynchronized(apply(kernel, schedule), target)
    except ScheduleError:
        return None


def _used(draft: Placed) -> int:
    return sum(b.slots * b.slot_bytes for b in draft.buffers if b.scope == "ub")


def _elements(kernel: Kernel, schedule: Schedule) -> int:
    """Elements of a tile over all axes."""
    facts = dict(kernel.facts)
    sizes = {a.name: bounds(a.extent, facts)[1] for a in kernel.axes}
    for loop in (*schedule.loops, *schedule.reduce):
        sizes[loop.axis] = min(sizes[loop.axis], loop.size)
    return math.prod(max(1, n) for n in sizes.values())
