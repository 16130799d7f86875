"""What the pipes did, as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

The format is the "Trace Event Format" of Chromium: complete events with microseconds. A core is a process, a pipe a
thread; what a pipe waits for is an event of its own, of category ``stall``.
"""

from __future__ import annotations

import json
from typing import Any

from tilewright.backends.ascend.placed.stream import PIPE_ORDER
from tilewright.backends.ascend.simulator.times import Timing


def trace_of(timing: Timing, title: str) -> str:
    """The trace of a launch whose ``spans`` were kept, as JSON text."""
    events: list[dict[str, Any]] = []
    for number, kind in enumerate(timing.cores):
        used = [p for p in PIPE_ORDER if any(s.core == number and s.pipe == p for s in timing.spans)]
        events.append(_meta(number, 0, "process_name", {"name": f"{kind} core {number}"}))
        events += [_meta(number, PIPE_ORDER.index(p) + 1, "thread_name", {"name": p}) for p in used]
        events += [
            _meta(number, PIPE_ORDER.index(p) + 1, "thread_sort_index", {"sort_index": n}) for n, p in enumerate(used)
        ]
    for span in timing.spans:
        events.append(
            {
                "ph": "X",
                "pid": span.core,
                "tid": PIPE_ORDER.index(span.pipe) + 1,
                "ts": round(span.start / timing.mhz, 6),
                "dur": round((span.end - span.start) / timing.mhz, 6),
                "name": span.name,
                "cat": "stall" if span.stall else "work",
                "args": {"at": span.where.strip(), "cycles": round(span.end - span.start, 2)},
            }
        )
    about = {
        "title": title,
        "cycles": round(timing.cycles),
        "cube utilisation": round(timing.utilisation, 4),
        "simulated": f"{timing.simulated} of {timing.groups} groups of cores, a model, not a device",
    }
    return json.dumps({"displayTimeUnit": "ns", "otherData": about, "traceEvents": events}, indent=None) + "\n"


def _meta(pid: int, tid: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": args}
