"""Random networks, one artifact for every size, against ONNX Runtime; the same bytes with one thread and with two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

from tests.end_to_end import random_convolutions, random_transformers
from tests.end_to_end.random_networks import Network, Sample, sample

KINDS: dict[str, Callable[[Network], None]] = {
    "convolutions": random_convolutions.grow,
    "transformers": random_transformers.grow,
}


def wrong(found: Sample, targets: tuple[str, ...] = ("cpu:x86-64-v3",), level: int = 2) -> list[str]:
    """What differs, and at which run; an error may be 1e-4 of the reference's largest value."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    reference = onnxruntime.InferenceSession(found.proto.SerializeToString(), options)
    names = [o.name for o in reference.get_outputs()]
    made = Options(targets=targets, input_shapes=found.input_shapes, level=level)
    artifact = driver.compile(found.proto, options=made).to_bytes()
    sessions = [load(artifact, threads=n) for n in (1, 2)]
    told = []
    for run, feeds in enumerate(found.feeds):
        one, two = (session(**feeds) for session in sessions)
        for name, want in zip(names, reference.run(None, feeds), strict=True):
            got = one[name]
            if (got.shape, got.dtype) != (want.shape, want.dtype):
                told.append(f"{name} in run {run}: {got.dtype}{got.shape}, not {want.dtype}{want.shape}")
                continue
            off = np.abs(got - want).max(initial=0) if want.dtype.kind == "f" else float((got != want).any())
            largest = np.abs(want).max(initial=1e-3)
            if not off <= 1e-4 * largest:
                told.append(f"{name} in run {run}: off by {off:.3g} of {largest:.3g}")
            if got.tobytes() != two[name].tobytes():
                told.append(f"{name} in run {run}: other bytes with two threads")
    return told


@pytest.mark.parametrize(("kind", "seed"), [("convolutions", 37), ("transformers", 4)])
def test_random_networks(kind: str, seed: int) -> None:
    told = wrong(sample(KINDS[kind], [seed]))
    assert not told, "\n".join(told)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1060, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_networks(kind: str, first: int) -> None:
    told = wrong(sample(KINDS[kind], range(first, first + 3)), level=(2, 2, 2, 3, 0)[first // 3 % 5])
    assert not told, "\n".join(told)
