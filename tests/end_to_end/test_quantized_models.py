"""Small models of the zoo, quantized by ONNX Runtime's tools in each of their formats, beside ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

from models.zoo import Model, small
from tests.end_to_end.test_quantized_import import reference

pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]

#: Activations, weights, and whether these have a scale a channel.
_TYPES = {"u8s8": ("QUInt8", "QInt8", True), "u8u8": ("QUInt8", "QUInt8", False), "s8s8": ("QInt8", "QInt8", False)}

#: What is tried in the ordinary suite: model, format, types, level.
QUICK = [
    ("resnet50", "QDQ", "u8s8", 2),
    ("mobilenetv2", "QOperator", "u8u8", 0),
    ("bert-base", "dynamic", "u8s8", 2),
]
ALL = [
    (name, form, types, level)
    for name in ("resnet50", "mobilenetv2", "vit-b16", "bert-base", "gpt2", "llama-prefill", "llama-decode")
    for form, types in (
        *((f, t) for f in ("QDQ", "QOperator") for t in _TYPES),
        ("dynamic", "u8s8"),
        ("dynamic", "u8u8"),
    )
    for level in (0, 2)
]

#: Where a quotient is a tie in one order of f32 operations and not in another, an integer is one step off, and the
#: layers behind make of it what they make of any noise of quantization: a share of that, as root mean squares.
_OF_QUANTIZATION = 0.5


class _Samples:
    """What the calibration of ONNX Runtime reads."""

    def __init__(self, feeds: Iterator[dict[str, Array]]):
        self._feeds = feeds

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantized(model: Model, form: str, types: str, folder: Path) -> tuple[Path, Path]:
    """The model as it is and quantized. Weights have 7 bits: with 8, ONNX Runtime's own products saturate on machines
    without VNNI."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    activations, weights, channels = _TYPES[types]
    path, made = model.build(folder), folder / "quantized.onnx"
    logging.disable(logging.WARNING)
    if form == "dynamic":
        quantize_dynamic(path, made, per_channel=channels, reduce_range=True, weight_type=QuantType[weights])
    else:
        samples = _Samples(model.feed(*model.checks[0], seed=seed) for seed in range(2))
        quantize_static(
            path,
            made,
            samples,
            quant_format=QuantFormat[form],
            per_channel=channels,
            reduce_range=True,
            activation_type=QuantType[activations],
            weight_type=QuantType[weights],
        )
    logging.disable(logging.NOTSET)
    return path, made


def check(name: str, form: str, types: str, level: int, folder: Path) -> None:
    """The compiled model beside ONNX Runtime, which runs it node by node."""
    model = small()[name]
    plain, path = quantized(model, form, types, folder)
    shapes = tuple((n, tuple(map(str, sizes))) for n, sizes in model.input_shapes.items())
    options = Options(targets=("cpu:native",), level=level, input_shapes=shapes)
    session = load(driver.compile(path, options=options).to_bytes())
    for size in model.checks[1:3]:
        feed = model.feed(*size, seed=5)
        got = session(**feed)
        want, unquantized = (reference(onnx.load(p), feed) for p in (path, plain))
        for output, expected in want.items():
            off, noise = (_rms(other[output], expected) for other in (got, unquantized))
            assert got[output].shape == expected.shape
            assert off <= max(_OF_QUANTIZATION * noise, 1e-5 * _rms(expected, np.zeros(1))), (output, off, noise)


def _rms(a: Array, b: Array) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("name, form, types, level", QUICK)
def test_quantized_model(name: str, form: str, types: str, level: int, tmp_path: Path) -> None:
    check(name, form, types, level, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name, form, types, level", [c for c in ALL if c not in QUICK])
def test_every_quantized_model(name: str, form: str, types: str, level: int, tmp_path: Path) -> None:
    check(name, form, types, level, tmp_path)
