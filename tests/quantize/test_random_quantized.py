"""Random quantized networks beside exact integers; and that what they are held against is right, and would tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tilewright as tw

from tests.quantize import reference
from tests.quantize.random_quantized import Made, images, rows

KINDS = [images, rows]


def compiled_differences(made: Made, **options: Any) -> list[str]:
    """What the artifact has otherwise than the integers say."""
    model, samples = made
    session = tw.load(tw.compile(model, targets=("cpu:native",), verify=False, **options))
    names = [o.name for o in session.outputs]
    found = []
    for feed in samples:
        outputs = dict(zip(names, session.run(names, feed), strict=True))
        found += reference.differences(model, feed, outputs)
    return found


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_networks(kind: Callable[[int], Made], seed: int) -> None:
    assert not compiled_differences(kind(seed))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("seed", range(2, 60))
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_more_networks(kind: Callable[[int], Made], seed: int, level: int) -> None:
    assert not compiled_differences(kind(seed), level=level)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_the_reference_is_onnx_runtimes_without_its_optimizations(kind: Callable[[int], Made]) -> None:
    """With its optimizations, and in MatMulInteger always, ONNX Runtime adds pairs of products in 16 bits on machines
    without VNNI, where they do not fit: results are off by many steps there."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for seed in range(16):
        model, samples = kind(seed)
        if any(n.op_type == "MatMulInteger" for n in model.graph.node):
            continue
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        for feed in samples:
            outputs = dict(zip(names, session.run(names, feed), strict=True))
            assert not reference.differences(model, feed, outputs), seed


def test_one_step_is_told_unless_it_is_a_tie() -> None:
    model, (feed, _) = images(0)
    want = reference.evaluate(model, feed)
    names = [o.name for o in model.graph.output]
    right = {n: want[n].astype(np.float32) if want[n].dtype == np.float64 else want[n] for n in names}
    assert not reference.differences(model, feed, right)
    for name in names:
        if want[name].dtype == np.int64 and f"{name}!" in want:
            wrong = right[name].copy()
            wrong.flat[3] += 1
            told = reference.differences(model, feed, {**right, name: wrong})
            assert [t for t in told if t.startswith(f"{name}: 1 of")], told
