"""Schedules in the order of what a launch is estimated to take, those that do not fit last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tilewright.backends.ascend.schedules.estimate import estimated_cycles
from tilewright.errors import UnsupportedError
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Candidates one after the other that are worse than the best so far: tiles only get smaller from there on.
_WORSE = 3


def quickest_first(kernel: Kernel, candidates: Iterable[Schedule], target: Target) -> Iterator[Schedule]:
    """``candidates``, which come by falling size of tiles: what fits by rising estimate, then the others.

    Where a rule of placing refuses the kernel itself, the order stays, for the caller to meet the refusal.
    """
    from tilewright.backends.ascend.placing.place import place_unsynchronized

    fitting: list[tuple[float, int, Schedule]] = []
    others: list[Schedule] = []
    worse = 0
    for n, schedule in enumerate(candidates):
        if worse == _WORSE:
            others.append(schedule)
            continue
        try:
            cycles = estimated_cycles(place_unsynchronized(apply(kernel, schedule), target))
        except ScheduleError:
            others.append(schedule)
            continue
        except (UnsupportedError, ValueError):
            others.append(schedule)
            worse = worse if fitting else _WORSE
            continue
        worse = worse + 1 if fitting and cycles > min(fitting)[0] else 0
        fitting.append((cycles, n, schedule))
    yield from (schedule for _, _, schedule in sorted(fitting, key=lambda f: f[:2]))
    yield from others
