"""The methods that leave floats, of fewer bits: ``fp16``, ``bf16`` and ``fp8``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.passes.quantize.base import Layer
from tilewright.passes.quantize.convert_float import ConvertFloat
from tilewright.passes.quantize.quantize_fp8 import QuantizeFp8

if TYPE_CHECKING:
    from tilewright.passes.quantize.methods import Request


def sixteen_bits(request: Request) -> list[Layer]:
    """f16 or bf16, computed where the target does, else stored; calibration data are looked at where they are given."""
    settings = request.settings
    options = (request.capability, request.calibration, request.runner, settings.layers)
    converted = ConvertFloat(settings.method, *options)
    converted.run(request.model)
    return converted.layers


def eight_bits(request: Request) -> list[Layer]:
    """f8 e4m3 with scales; simulated where the target does not compute in it, and called so."""
    quantized = QuantizeFp8(request.capability, request.calibration, request.runner, request.settings.layers)
    quantized.run(request.model)
    return quantized.layers
