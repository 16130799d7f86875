"""One run's kernels as a trace that chrome://tracing and Perfetto show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

WARM_RUNS = 3


def write_trace(artifact: Path, feed: Mapping[str, NDArray[Any]], threads: int, path: Path) -> None:
    """Profile one warm run and write it as Chrome trace events (times in microseconds, one after another)."""
    from tilewright.runtime import load

    session = load(artifact, threads=threads)
    for _ in range(WARM_RUNS):
        session.run(None, feed)
    events, start = [], 0.0
    for name, seconds in session.profile(feed):
        events.append({"name": name, "ph": "X", "ts": start * 1e6, "dur": seconds * 1e6, "pid": 0, "tid": 0})
        start += seconds
    facts = {"target": session.target, "threads": threads, "shapes": {n: list(a.shape) for n, a in feed.items()}}
    path.write_text(json.dumps({"traceEvents": events, "otherData": facts}) + "\n", encoding="utf-8")
