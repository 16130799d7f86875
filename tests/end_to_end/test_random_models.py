"""Random graphs through the compiler against ONNX Runtime: numbers, thread counts, sizes that coincide or are 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

from tests.end_to_end import random_models

Results = dict[str, np.ndarray[Any, Any]]


def reference(sample: random_models.Sample) -> list[Results]:
    """What ONNX Runtime computes for each feed, without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sample.proto.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(None, feeds), strict=True)) for feeds in sample.feeds]


def difference(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> str | None:
    """What is wrong with ``got``; floats may differ by 1e-4 of the largest value."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        return f"{got.dtype}{got.shape}, not {want.dtype}{want.shape}"
    if want.dtype.kind != "f":
        return None if np.array_equal(got, want) else "other integers"
    scale = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
    return None if np.allclose(got, want, rtol=1e-4, atol=1e-4 * scale, equal_nan=True) else "other numbers"


def check(seeds: list[int], opset: int, target: str, level: int) -> None:
    sample = random_models.sample(seeds, opset=opset)
    artifact = driver.compile(sample.proto, options=Options(targets=(target,), level=level)).to_bytes()
    sessions = [load(artifact, threads=n) for n in (1, 2)]
    wrong = []
    for sizes, feeds, want in zip(random_models.ASSIGNMENTS, sample.feeds, reference(sample), strict=True):
        one, two = (session(**feeds) for session in sessions)
        for name, value in want.items():
            if (found := difference(one[name], value)) is not None:
                wrong.append(f"{name} at {sizes}: {found}")
            if one[name].tobytes() != two[name].tobytes():
                wrong.append(f"{name} at {sizes}: other bytes with two threads")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("first", "opset", "target", "level"),
    [(0, 17, "cpu:native", 2), (8, 13, "cpu:x86-64-v3", 0), (16, 21, "cpu:native", 3)],
)
def test_random_models(first: int, opset: int, target: str, level: int) -> None:
    check(list(range(first, first + 8)), opset, target, level)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 10))
def test_many_random_models(first: int) -> None:
    target = ("cpu:native", "cpu:x86-64-v3", "cpu:x86-64-v2")[first // 10 % 3]
    check(list(range(first, first + 10)), (13, 17, 18, 21, 23)[first // 10 % 5], target, (2, 3, 0, 2)[first // 10 % 4])
