"""One run's kernels as a trace that chrome://tracing and Perfetto show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tilewright.benchmark.records import KernelUse, describe, sizes_of

WARM_RUNS = 3


def write_trace(
    artifact: Path,
    feed: Mapping[str, NDArray[Any]],
    threads: int,
    path: Path,
    entry: str | None = None,
    *,
    device: str = "auto",
    allow_jit: bool | None = None,
    cache: bool = True,
) -> None:
    """Profile one warm run and write it as Chrome trace events (times in microseconds, one after another).

    Each has the class of its kernel and, as the mean of the kernel's launches, its work and predicted time; a program
    is one event, without them. ``device``, ``allow_jit`` and ``cache`` are as of :func:`tilewright.runtime.load`.
    """
    from tilewright.runtime import load

    session = load(artifact, device, threads, entry=entry, allow_jit=allow_jit, cache=cache)
    for _ in range(WARM_RUNS):
        session.run(None, feed)
    sizes = sizes_of(artifact, {name: array.shape for name, array in feed.items()}, entry)
    uses = {}
    if not next(t for t in session.manifest.targets if t.target == session.target).has_programs:
        record = describe(artifact, sizes, threads=threads, entry=entry, target=session.target)
        uses = {k.name: k for k in record.kernels}
    events, start = [], 0.0
    for name, seconds in session.profile(feed):
        use = uses.get(name)
        event = {"name": name, "cat": use.kind if use else "program", "ph": "X", "pid": 0, "tid": 0}
        args = {key: value / use.launches for key, value in _told(use).items()} if use else {}
        events.append({**event, "ts": start * 1e6, "dur": seconds * 1e6, "args": args})
        start += seconds
    facts = {"target": session.target, "threads": threads, "shapes": {n: list(a.shape) for n, a in feed.items()}}
    path.write_text(json.dumps({"traceEvents": events, "otherData": facts}) + "\n", encoding="utf-8")


def _told(use: KernelUse) -> dict[str, float]:
    return {"MFLOP": use.flops / 1e6, "bytes": use.bytes, "predicted us": use.predicted * 1e6}
