"""Engines measured in turns within one process, so that noise and clock changes meet all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_SECONDS = 0.05  # of timed runs per turn
MOST_RUNS = 200  # per turn
FEWEST_ROUNDS = 10
#: Other engines' idle workers spin for a while after a run and would slow whoever comes next; this outlasts it.
SETTLE_SECONDS = 0.02

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one engine over another's, per round: median, and 10th and 90th percentile as the spread."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Seconds of every timed run, and the median of every turn, by engine."""

    runs: Mapping[str, tuple[float, ...]]
    turns: Mapping[str, tuple[float, ...]]

    def ratio(self, name: str, peer: str) -> Ratio:
        """Time of ``name`` over time of ``peer``, paired by round."""
        paired = np.array(self.turns[name]) / np.array(self.turns[peer])
        low, median, high = np.percentile(paired, (10, 50, 90))
        return Ratio(float(median), float(low), float(high))


def interleave(engines: Mapping[str, Run], seconds: float) -> Interleaved:
    """Measure for about ``seconds``, at least :data:`FEWEST_ROUNDS` rounds; each round starts with another engine."""
    counts = {name: _runs_per_turn(run) for name, run in engines.items()}
    runs: dict[str, list[float]] = {name: [] for name in engines}
    turns: dict[str, list[float]] = {name: [] for name in engines}
    names, start, done = list(engines), time.perf_counter(), 0
    while done < FEWEST_ROUNDS or time.perf_counter() - start < seconds:
        for name in names[done % len(names) :] + names[: done % len(names)]:
            if len(engines) > 1:
                time.sleep(SETTLE_SECONDS)
            engines[name]()  # its own code and data back into the caches
            turn = [_timed(engines[name]) for _ in range(counts[name])]
            runs[name] += turn
            turns[name].append(float(np.median(turn)))
        done += 1
    return Interleaved({n: tuple(v) for n, v in runs.items()}, {n: tuple(v) for n, v in turns.items()})


def _runs_per_turn(run: Run) -> int:
    for _ in range(2):
        run()
    once = float(np.median([_timed(run) for _ in range(3)]))
    return max(1, min(MOST_RUNS, math.ceil(BLOCK_SECONDS / once)))


def _timed(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The percentiles that latency is told by."""
    values = np.percentile(np.asarray(seconds), (50, 90, 95, 97, 99, 99.9))
    return dict(zip(("p50", "p90", "p95", "p97", "p99", "p99.9"), map(float, values), strict=True))
