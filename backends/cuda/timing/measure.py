"""Times the candidates of one case: wrong ones are discarded, the rest take turns, and the least median wins."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tilewright.backends.cuda.timing.buffers import Buffers
from tilewright.backends.cuda.timing.driver import DriverError
from tilewright.backends.cuda.timing.modules import Code
from tilewright.backends.cuda.timing.recipes import decoded

#: Launches in a graph take about this long together, so that events and the start of a graph do not count.
_GRAPH_S, _MOST_LAUNCHES = 2e-3, 256
#: Turns in which all candidates are timed; then those within this factor of the best go on as long as there is time.
_FIRST_TURNS, _TURNS, _NEAR_BEST = 3, 15, 1.3


@dataclass(slots=True)
class Timing:
    """What came of one candidate: seconds of a launch in each turn, or why there are none."""

    schedule: str
    seconds: list[float] = field(default_factory=list)
    wrong: str = ""

    @property
    def median(self) -> float:
        """Of the turns; infinite where there are none."""
        return statistics.median(self.seconds) if self.seconds and not self.wrong else float("inf")

    @property
    def spread(self) -> float:
        """From the first to the third quartile, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median

    def told(self) -> dict[str, Any]:
        """For the file of results."""
        if self.wrong:
            return {"schedule": self.schedule, "wrong": self.wrong}
        return {"schedule": self.schedule, "seconds": self.median, "spread": self.spread, "turns": len(self.seconds)}


@dataclass(slots=True)
class _Runner:
    """A candidate that is loaded: a graph of launches on one set of buffers after another."""

    timing: Timing
    module: int
    graph: int
    launches: int


def measure(device: Any, case: Mapping[str, Any], codes: Sequence[Code], until: float) -> list[Timing]:
    """One timing a candidate, in their order. ``until`` is a time of ``time.monotonic``, after which only what a first
    turn takes is done."""
    buffers = Buffers(device, case)
    timings = [Timing(c["schedule"]) for c in case["candidates"]]
    runners: list[_Runner] = []
    try:
        buffers.make()
        reference = None
        for timing, candidate in zip(timings, case["candidates"], strict=True):
            try:
                outputs = _start(device, buffers, candidate, codes[candidate["code"]], timing, runners)
            except DriverError as error:
                timing.wrong = str(error)
                continue
            if timing.wrong:
                continue
            timing.wrong = _against(case, outputs, case.get("expected")) or _against(case, outputs, reference)
            reference = reference if reference is not None or timing.wrong else _whole(outputs)
        _take_turns(device, [r for r in runners if not r.timing.wrong], until)
    finally:
        for runner in runners:
            device.drop_graph(runner.graph)
            device.unload(runner.module)
        buffers.free()
    return timings


def _start(
    device: Any, buffers: Buffers, candidate: Mapping[str, Any], code: Code, timing: Timing, runners: list[_Runner]
) -> list[bytes]:
    """Load a candidate, run it once, and make its graph. Returns the outputs of the one run."""
    module, function = device.load(code.cubin, code.entry, code.shared)
    values = [buffers.arguments(candidate, code, n) for n in range(len(buffers.sets))]

    def launch(number: int) -> None:
        device.launch(function, candidate["grid"], code.threads, code.shared, values[number % len(values)])

    try:
        buffers.reset(candidate, code)
        launch(0)
        outputs = buffers.outputs()
        if any(device.read(buffers.fault, 4)):
            timing.wrong = "it met an index outside its tensor"
        once = min(device.timed(lambda: launch(1)) for _ in range(3))
        count = max(1, min(_MOST_LAUNCHES, int(_GRAPH_S / max(once, 1e-7))))
        graph = device.graph(partial(_each, launch, count))
    except DriverError:
        device.unload(module)
        raise
    runners.append(_Runner(timing, module, graph, count))
    return outputs


def _each(launch: Callable[[int], None], count: int) -> None:
    for n in range(count):
        launch(n)


def _take_turns(device: Any, runners: Sequence[_Runner], until: float) -> None:
    """Time every runner in turn; those far from the best only a few times."""
    for runner in runners:
        device.time_graph(runner.graph)  # warm
    for turn in range(_TURNS):
        if turn >= 1 and time.monotonic() > until:
            return
        if turn == _FIRST_TURNS:
            best = min((r.timing.median for r in runners), default=0.0)
            runners = [r for r in runners if r.timing.median <= _NEAR_BEST * best]
        for runner in runners:
            runner.timing.seconds.append(device.time_graph(runner.graph) / runner.launches)


def _whole(outputs: Sequence[bytes]) -> list[dict[str, Any]]:
    return [{"at": None, "bytes": data} for data in outputs]


def _against(case: Mapping[str, Any], outputs: Sequence[bytes], wanted: Sequence[Mapping[str, Any]] | None) -> str:
    """Why outputs are not those wanted (whole ones, or values ``at`` some places); empty where they are."""
    told = [b for b in case["buffers"] if b["role"] == "out"]
    for b, data, want in zip(told, outputs, wanted or (), strict=bool(wanted)):
        got = decoded(data, b["dtype"])
        if want["at"] is None:
            value = decoded(want["bytes"], b["dtype"])
        else:
            got, value = got[want["at"]], np.asarray(want["values"], np.float64)
        if not np.array_equal(np.isfinite(got), np.isfinite(value)):
            return "other elements are finite"
        finite = np.isfinite(value)
        scale = float(np.max(np.abs(value[finite]), initial=0.0))
        error = float(np.max(np.abs(got[finite] - value[finite]), initial=0.0))
        allowed = b["tolerance"] * (1.0 if b["step"] else max(scale, 1e-30))
        if error > allowed:
            return f"an output is off by {error:.3g}, allowed are {allowed:.3g}"
    return ""
