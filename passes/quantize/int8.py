"""Methods on 8-bit weights and activations: ``int8``, ``smoothquant`` and ``int8-dynamic``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.errors import UnsupportedError
from tilewright.passes.quantize.base import Layer
from tilewright.passes.quantize.calibrators import CALIBRATORS, calibrate
from tilewright.passes.quantize.contractions import contractions
from tilewright.passes.quantize.correct_bias import CorrectBias, measure_shifts
from tilewright.passes.quantize.encoding import LEVELS, Encoding
from tilewright.passes.quantize.histogram import Histogram
from tilewright.passes.quantize.placement import place
from tilewright.passes.quantize.quantize_dynamic import QuantizeDynamic, dynamic_obstacle, row_round_trip
from tilewright.passes.quantize.quantize_static import QuantizeStatic
from tilewright.passes.quantize.smooth_quant import SmoothQuant, smoothed
from tilewright.passes.quantize.smoothing import choose_factors, watch

if TYPE_CHECKING:
    from tilewright.passes.quantize.methods import Request

Array = NDArray[Any]

ASKED, INTEGER, FLOAT = "int8", "int8 × int8", "f32"


def static_int8(request: Request) -> list[Layer]:
    """Ranges from calibration data, placement from what the target absorbs.

    Raises :class:`UnsupportedError` (``no-integer-kernels``) where the target takes no activations of 8 bits.
    """
    calibration, runner = request.samples()
    model, settings, capability = request.model, request.settings, request.capability
    element = _element(request)
    placement = place(model, capability, settings.layers)
    layers = _report(model, placement.refused)
    names = [str(t.value.name) for t in placement.tensors]
    if not names:
        return layers
    before = model.clone() if settings.bias_correction else None
    ranges = calibrate(model, names, settings, calibration, runner, element)
    clip, largest = settings.calibrator == "mse", settings.largest_weight
    QuantizeStatic(capability, ranges, element, settings.symmetric, clip, settings.layers, largest).run(model)
    if before is not None:
        changed = [layer.name for layer in layers if layer.got == INTEGER]
        CorrectBias(measure_shifts(before, model, changed, calibration, runner)).run(model)
    return layers


def smoothquant(request: Request) -> list[Layer]:
    """Static int8 after outliers of channels were moved into the weights. Raises as :func:`static_int8` does."""
    settings, element = request.settings, _element(request)

    def round_trip(rows: Array) -> Array:
        histogram = Histogram()
        histogram.add(rows)
        return Encoding.of(CALIBRATORS[settings.calibrator](histogram, settings, element), element).round_trip(rows)

    smooth(request, round_trip)
    return static_int8(request)


def smooth(request: Request, round_trip: Callable[[Array], Array]) -> None:
    """Move outliers into weights by what calibration data shows of them; the numbers of the graph stay.

    ``round_trip`` gives rows back as the method does that is to quantize them.
    """
    calibration, runner = request.samples()
    model, settings = request.model, request.settings
    readers = smoothed(model, request.capability, settings.layers)
    channels = watch(model, [str(v.name) for v in readers], calibration, runner)
    factors = choose_factors(readers, channels, settings.smoothing, round_trip)
    SmoothQuant(request.capability, factors, settings.layers).run(model)


def dynamic_int8(request: Request) -> list[Layer]:
    """Scales of rows at run time; needs no calibration data. Where there is some, outliers of channels are moved into
    the weights first.
    """
    settings, capability = request.settings, request.capability
    refused = {n: why for n in contractions(request.model) if (why := dynamic_obstacle(n, capability, settings.layers))}
    layers = _report(request.model, refused)
    if request.calibration is not None and request.runner is not None:
        smooth(request, row_round_trip)
    clip, largest = settings.calibrator == "mse", settings.largest_weight
    QuantizeDynamic(capability, clip, settings.layers, largest).run(request.model)
    return layers


def _element(request: Request) -> str:
    """The element type of activations that the target likes best. Raises :class:`UnsupportedError`."""
    element = next((a for a in request.capability.activations if a in LEVELS), None)
    if element is None:
        raise UnsupportedError(
            "no-integer-kernels",
            where=f"quantize, method {request.settings.method}",
            cause="the target has no kernels that read activations of 8 bits",
            fix="use another method, or another target (tilewright targets)",
        )
    return element


def _report(model: ir.Model, refused: dict[ir.Node, str]) -> list[Layer]:
    """A line for each contraction, before the graph is changed."""
    return [
        Layer(n.name or "", n.op_type, ASKED, FLOAT if n in refused else INTEGER, refused.get(n, ""))
        for n in contractions(model)
    ]
