"""How long a run takes on the device alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tilewright.runtime.gpu_session import GpuSession
from tilewright.runtime.tensors import PACKED

#: Runs that are not counted (a graph is recorded in the second), and the least that are.
_WARM, _LEAST = 3, 10


def device_seconds(
    session: GpuSession, inputs: Mapping[str, Any], seconds: float, entry: str | None = None
) -> list[float]:
    """The device's own time of runs for about ``seconds``, with inputs and outputs in its memory, states in place.

    Types of less than 8 bits, which are packed on the way, stay on the host, and count with their transfers.
    """
    info = session.manifest.entries[session.manifest.entry(entry)]
    held = {
        i.name: inputs[i.name] if i.dtype in PACKED else session.to_device(i.name, inputs[i.name], entry=entry)
        for i in info.inputs
    }
    shapes = dict(zip((o.name for o in info.outputs), session.known_shapes(held, entry=entry), strict=True))
    place = "host" if any(o.dtype in PACKED for o in info.outputs) else "device"
    first = session.run(None, held, entry=entry, outputs=place)
    # What keeps its memory keeps its address, so that a graph can be replayed.
    out = {o.name: r for o, r in zip(info.outputs, first, strict=True) if -1 not in shapes[o.name]}
    out |= {new: held[old] for old, new in info.states}
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < _WARM + _LEAST:
        pending = session.run_async(held, out=out, entry=entry, outputs=place, timed=True)
        pending.wait()
        found.append(pending.seconds or 0.0)
    return found[_WARM:]
