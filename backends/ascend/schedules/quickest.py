"""Schedules in the order of what a launch is estimated to take, those that do not fit last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.schedules.estimate import estimated_cycles, usual_dims
from tilewright.errors import UnsupportedError
from tilewright.ir.ranges import bounds
from tilewright.kernel.apply import apply, defines
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Kernel, Scan
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
    """Those that fit, as far as it pays to look, by how much more than the best they take over all usual sizes;
    ``drafts`` are placed already."""
    found: list[tuple[tuple[float, ...], Schedule]] = []
    sizes = usual_dims(kernel)
    best = [math.inf] * len(sizes)
    worse = 0
    for schedule in candidates:
        draft = drafts[schedule] if schedule in drafts else _draft(kernel, schedule, target)
        if draft is None:
            continue
        cycles = tuple(estimated_cycles(draft, dims) for dims in sizes)
        worse = 0 if any(c <= b for c, b in zip(cycles, best, strict=True)) else worse + 1
        best = [min(c, b) for c, b in zip(cycles, best, strict=True)]
        found.append((cycles, schedule))
        if worse == _WORSE:
            break
    # Of equal ones the first, which has the largest tiles.
    found.sort(key=lambda f: sum(c / b for c, b in zip(f[0], best, strict=True)))
    return [schedule for _, schedule in found]


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
    """Elements of a tile over all axes; of a scan, of the statement that goes over most."""
    facts = dict(kernel.facts)
    sizes = {a.name: bounds(a.extent, facts)[1] for a in kernel.axes}
    for loop in (*schedule.loops, *schedule.reduce):
        sizes[loop.axis] = min(sizes[loop.axis], loop.size)
    spans = [list(sizes)]
    if any(isinstance(s, Scan) for s in kernel.body):
        spans = [[*d.axes, *(d.reduce.axes if d.reduce is not None else ())] for d in defines(kernel)]
    return max(math.prod(max(1, sizes[a]) for a in axes) for axes in spans)
