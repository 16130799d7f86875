"""Methods on 8-bit weights and activations: ``int8``, ``smoothquant`` and ``int8-dynamic``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from tilewright.errors import UnsupportedError
from tilewright.passes.quantize.base import Layer
from tilewright.passes.quantize.calibrators import calibrate
from tilewright.passes.quantize.contractions import contractions
from tilewright.passes.quantize.encoding import LEVELS
from tilewright.passes.quantize.placement import place
from tilewright.passes.quantize.quantize_dynamic import QuantizeDynamic, dynamic_obstacle
from tilewright.passes.quantize.quantize_static import QuantizeStatic

if TYPE_CHECKING:
    from tilewright.passes.quantize.methods import Request

ASKED, INTEGER, FLOAT = "int8", "int8 × int8", "f32"


def static_int8(request: Request) -> list[Layer]:
    """Ranges from calibration data, placement from what the target absorbs.

    Raises :class:`UnsupportedError` (``no-integer-kernels``) where the target takes no activations of 8 bits.
    """
    calibration, runner = request.samples()
    model, settings, capability = request.model, request.settings, request.capability
    element = next((a for a in capability.activations if a in LEVELS), None)
    if element is None:
        raise UnsupportedError(
            "no-integer-kernels",
            where=f"quantize, method {settings.method}",
            cause="the target has no kernels that read activations of 8 bits",
            fix="use another method, or another target (tilewright targets)",
        )
    placement = place(model, capability, settings.layers)
    layers = _report(model, placement.refused)
    names = [str(t.value.name) for t in placement.tensors]
    ranges = calibrate(model, names, settings, calibration, runner, element) if names else {}
    clip = settings.calibrator == "mse"
    QuantizeStatic(capability, ranges, element, settings.symmetric, clip, settings.layers).run(model)
    return layers


def dynamic_int8(request: Request) -> list[Layer]:
    """Scales of rows at run time; needs no calibration data."""
    settings, capability = request.settings, request.capability
    refused = {n: why for n in contractions(request.model) if (why := dynamic_obstacle(n, capability, settings.layers))}
    layers = _report(request.model, refused)
    QuantizeDynamic(capability, settings.calibrator == "mse", settings.layers).run(request.model)
    return layers


def _report(model: ir.Model, refused: dict[ir.Node, str]) -> list[Layer]:
    """A line for each contraction, before the graph is changed."""
    return [
        Layer(n.name or "", n.op_type, ASKED, FLOAT if n in refused else INTEGER, refused.get(n, ""))
        for n in contractions(model)
    ]
