"""Whole models with each launch in the simulator of the cores: numbers beside ONNX Runtime, bits beside Ascend C."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tilewright as tw
from tilewright.accuracy import TOLERANCE

from models import zoo
from tests.ascend import modelled
from tests.ascend.session import GROUPS, SimulatedSession, Started, recorded
from tests.ascend.test_project import feed, wanted
from tests.ascend.test_target import SHAPES, model

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the host part is compiled for x86-64")
TARGET = "ascend:910b3+host=x86-64"


def test_a_model_with_steps_on_the_host(tmp_path: Path) -> None:
    with recorded() as placed:
        made = tw.compile(model(), targets=(TARGET,), input_shapes=SHAPES, verify=False)
    made.save(tmp_path / "m.tw")
    seen: list[Started] = []
    session = SimulatedSession(tmp_path / "m.tw", placed, seen.append)
    for rows in (1, 5, 64):
        want = wanted(feed(rows))
        got = session.run(feed(rows))["y"].astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=4e-3, atol=4e-3 * np.abs(want).max())
    assert {s.placed.kernel.name for s in seen} == set(session.plan.kernels) and session.plan.host_kernels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "bert-base", "vit-b16", "llama-decode-static"])
def test_small_models(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    small = zoo.small()[name]
    inputs = small.make_feed(*small.checks[0], 0)
    path = tmp_path / "half.onnx"
    tw.quantize(small.build(tmp_path), method="fp16", targets=(TARGET,)).save(path)
    with recorded() as placed:
        made = tw.compile(
            str(path), targets=(TARGET,), input_shapes=small.input_shapes, states=small.in_place, verify=False
        )
    made.save(tmp_path / "m.tw")
    launches: dict[str, Started] = {}
    session = SimulatedSession(tmp_path / "m.tw", placed, lambda s: launches.setdefault(s.placed.kernel.name, s))
    got = session.run(inputs)
    reference = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for output, want in zip(reference.get_outputs(), reference.run(None, inputs), strict=True):
        difference = np.abs(got[output.name].astype(np.float64) - want.astype(np.float64)).max()
        assert difference <= TOLERANCE["f16"] * np.abs(want.astype(np.float64)).max(), output.name
    (facts,) = made.report.targets
    assert len(facts.fallback) <= facts.launches // 4, facts.fallback
    assert {n: _same_bits(s) for n, s in launches.items()} == dict.fromkeys(launches, True)


def _same_bits(launch: Started) -> Any:
    outputs, fault = modelled.build([launch.placed], "launch").run(launch.placed, launch.inputs, launch.dims, GROUPS)
    return not fault and all(modelled.same_bits(v, launch.outputs[n]) for n, v in outputs.items())
