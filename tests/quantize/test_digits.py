"""Four-bit weights of a network that was trained here, through the compiled artifact: what they cost in accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tilewright import driver
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Settings
from tilewright.passes.quantize.methods import quantize
from tilewright.runtime import load

from tests.quantize.digits import SEEDS, Digits, digits, snr
from tests.quantize.graphs import Array, evaluated

pytest.importorskip("torch", reason="torch trains the network")
pytest.importorskip("sklearn", reason="scikit-learn has the images")

WEIGHTS = Capability(weights=frozenset(["i4", "i8"]))


def quantized(data: Digits, settings: Settings) -> onnx.ModelProto:
    """The network with ``settings``, calibrated on the images meant for it."""
    model = import_model(onnx.load_from_string(data.model))
    run_pipeline(model, canonicalization())
    lines = quantize(model, settings, WEIGHTS, Calibration(data.feeds(50), "digits", ""), evaluated)
    want = {"int4": "int4 weights", "int8-weights": "int8 weights"}[settings.method]
    assert [line.got for line in lines] == [want] * 6, lines
    return ir.to_proto(model)


def compiled(model: onnx.ModelProto, images: Array) -> Array:
    """Logits by the compiled artifact."""
    session = load(driver.compile(model, options=Options(targets=("cpu:native",))).to_bytes())
    (logits,) = session.run(None, {"image": images})
    return np.asarray(logits)


@pytest.mark.parametrize("seed", SEEDS)
def test_int4_loses_one_point_at_most(seed: int) -> None:
    """Convolutions (one of them by channel) and products, all in 4 bits, by the method's own choice."""
    data = digits(seed)
    exact = compiled(onnx.load_from_string(data.model), data.images)
    assert data.accuracy(exact) >= 97
    got = compiled(quantized(data, Settings("int4")), data.images)
    assert data.accuracy(got) >= data.accuracy(exact) - 1
    assert snr(got, exact) >= 17  # 0.14 of the signal: about what 4 bits leave of Gaussian numbers, over six layers


def test_the_fixture_is_repeatable() -> None:
    """Splits are apart, and the same seed trains the same network."""
    first: Any = digits(SEEDS[0])
    images = {i.tobytes() for i in first.images}
    assert not images & {i.tobytes() for i in first.calibration}
    again: Any = digits.__wrapped__(SEEDS[0])
    assert again.model == first.model
