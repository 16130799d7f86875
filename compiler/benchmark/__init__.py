"""Measuring an artifact against its peers and against the machine it runs on."""

from tilewright.benchmark.measure import Benchmark, bench

__all__ = ["Benchmark", "bench"]
