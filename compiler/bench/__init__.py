"""Measuring an artifact against its peers and against the machine it runs on."""

from tilewright.bench.measure import Benchmark, bench

__all__ = ["Benchmark", "bench"]
