"""How much other processes disturbed a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

STAT = Path("/proc/stat")


def others_busy() -> Callable[[], float | None]:
    """Start watching; the result, called at the end, is the CPUs that other processes kept busy on average.

    ``None`` where the system does not tell (``/proc/stat`` is Linux).
    """
    before, start = _busy_seconds(), time.perf_counter()

    def finish() -> float | None:
        after, seconds = _busy_seconds(), time.perf_counter() - start
        if before is None or after is None:
            return None
        return max(0.0, (after - before) / seconds)

    return finish


def _busy_seconds() -> float | None:
    """Seconds that the machine's CPUs have worked for anybody but this process and its children."""
    try:
        line = STAT.read_text(encoding="ascii").partition("\n")[0]
        # proc(5): user nice system idle iowait irq softirq steal guest guest_nice; guests are part of user
        user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
    except (OSError, ValueError):
        return None
    own = os.times()
    mine = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - mine
