"""The load scenarios of MLPerf Inference, by its names; the percentile that each is judged by is the first told."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tilewright.benchmark.interleave import percentiles

Run = Callable[[], object]

MULTI_STREAM_SAMPLES = 8  # per query, as in MLPerf
#: The percentile of the latency that MLPerf judges a scenario by; offline is judged by samples a second.
JUDGED_BY = {"single-stream": "p90", "multi-stream": "p99", "server": "p99", "offline": "samples/s"}


@dataclass(frozen=True, slots=True)
class Load:
    """One scenario, measured.

    Attributes:
        scenario: key of :data:`JUDGED_BY`.
        queries: how many were measured.
        latency: seconds by percentile, per query; empty for ``offline``.
        samples_per_second: over the whole measurement.
        offered: queries a second that were sent (``server`` only).
    """

    scenario: str
    queries: int
    latency: dict[str, float]
    samples_per_second: float
    offered: float = 0.0


def single_stream(run: Run, seconds: float) -> Load:
    """One query of one sample after another."""
    latencies, total = _one_after_another(run, seconds)
    return Load("single-stream", len(latencies), percentiles(latencies), len(latencies) / total)


def multi_stream(run: Run, seconds: float, streams: int) -> Load:
    """One query of :data:`MULTI_STREAM_SAMPLES` samples after another; a query ends with its last sample."""
    with ThreadPoolExecutor(streams) as pool:

        def query() -> None:
            for future in [pool.submit(run) for _ in range(MULTI_STREAM_SAMPLES)]:
                future.result()

        latencies, total = _one_after_another(query, seconds)
    rate = MULTI_STREAM_SAMPLES * len(latencies) / total
    return Load("multi-stream", len(latencies), percentiles(latencies), rate)


def server(run: Run, seconds: float, streams: int, rate: float) -> Load:
    """Queries of one sample at Poisson times (seeded), ``rate`` a second; latency counts from the time of arrival."""
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, max(2, int(rate * seconds))))
    latencies: list[float] = []
    run()
    start = time.perf_counter()

    def answer(arrival: float) -> None:
        run()
        latencies.append(time.perf_counter() - start - arrival)

    with ThreadPoolExecutor(streams) as pool:
        futures = []
        for arrival in arrivals:
            time.sleep(max(0.0, start + arrival - time.perf_counter()))
            futures.append(pool.submit(answer, float(arrival)))
        for future in futures:
            future.result()
    done = len(latencies) / (time.perf_counter() - start)
    return Load("server", len(latencies), percentiles(latencies), done, rate)


def offline(run: Run, seconds: float, streams: int) -> Load:
    """All samples are there at once; only the rate counts."""
    run()
    start = time.perf_counter()

    def work() -> int:
        count = 0
        while time.perf_counter() - start < seconds:
            run()
            count += 1
        return count

    with ThreadPoolExecutor(streams) as pool:
        done = sum(future.result() for future in [pool.submit(work) for _ in range(streams)])
    return Load("offline", done, {}, done / (time.perf_counter() - start))


def _one_after_another(query: Run, seconds: float) -> tuple[list[float], float]:
    for _ in range(3):
        query()
    latencies: list[float] = []
    start = last = time.perf_counter()
    while last - start < seconds or len(latencies) < 10:
        query()
        now = time.perf_counter()
        latencies.append(now - last)
        last = now
    return latencies, last - start
