"""The methods that quantize weights and leave the rest: ``int8-weights`` and ``int4``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tilewright.errors import UsageError
from tilewright.passes.quantize.awq import Awq
from tilewright.passes.quantize.base import Layer
from tilewright.passes.quantize.gptq import Gptq
from tilewright.passes.quantize.quantize_weights import QuantizeWeights

if TYPE_CHECKING:
    from tilewright.passes.quantize.methods import Request


def quantized_weights(request: Request) -> list[Layer]:
    """Quantize the constant operands of products, convolutions and tables, in 8 or 4 bits by ``settings.algorithm``.

    Without calibration data 8 bits are rounded to nearest, and every line says so. Raises :class:`UsageError`:
    ``calibration-missing`` for 4 bits by an algorithm that looks at activations, ``bad-group`` for a group below 0.
    """
    settings = request.settings
    if settings.group < 0:
        where, fix = f"group {settings.group}", "use 32, 64 or 128, or 0 for one scale a column"
        raise UsageError("bad-group", where=where, cause="a group has at least one weight", fix=fix)
    given = request.calibration is not None and request.calibration.feeds and request.runner is not None
    if settings.algorithm == "rtn" or (settings.method == "int8-weights" and not given):
        plain = QuantizeWeights(settings, capability=request.capability)
        plain.run(request.model)
        return (
            plain.layers if settings.algorithm == "rtn" else [_told(line, settings.algorithm) for line in plain.layers]
        )
    calibration, runner = request.samples()
    chosen = Gptq if settings.algorithm == "gptq" else Awq
    quantized = chosen(calibration, runner, settings, capability=request.capability)
    quantized.run(request.model)
    order = {n.name: i for i, n in enumerate(request.model.graph)}
    return sorted(quantized.layers, key=lambda line: order.get(line.name, 0))


def _told(line: Layer, algorithm: str) -> Layer:
    why = f"rounded to nearest: {algorithm} needs calibration data"
    return replace(line, why=f"{line.why}; {why}" if line.why else why) if "int8" in line.got else line
