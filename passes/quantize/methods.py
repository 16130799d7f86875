"""The one entry to every method of quantization: what a method is asked with, and which function answers.

To add a method: a function of a :class:`Request` in a file of its own, and its row in :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.errors import UsageError
from tilewright.passes.quantize.base import Calibration, Capability, Layer, Method, Runner, Settings
from tilewright.passes.quantize.floats import eight_bits, sixteen_bits
from tilewright.passes.quantize.int8 import dynamic_int8, smoothquant, static_int8
from tilewright.passes.quantize.weights_only import quantized_weights


@dataclass(frozen=True, slots=True)
class Request:
    """What a method works with.

    Attributes:
        model: the graph, imported and canonicalized; it is changed in place.
        settings: what was asked.
        capability: what the target's kernels absorb.
        calibration: samples; ``None`` where none were given.
        runner: computes values of a state of the graph; ``None`` where nothing can be run.
    """

    model: ir.Model
    settings: Settings
    capability: Capability
    calibration: Calibration | None
    runner: Runner | None

    def samples(self) -> tuple[Calibration, Runner]:
        """What methods that look at activations need. Raises :class:`UsageError` (``calibration-missing``)."""
        if self.calibration is None or self.runner is None or not self.calibration.feeds:
            raise UsageError(
                "calibration-missing",
                where=f"quantize, method {self.settings.method}",
                cause="this method looks at activations, and there is no sample to run",
                fix="give calibration data (--calib), or use int8-dynamic or int8-weights, which need none",
            )
        return self.calibration, self.runner


#: Changes the graph and tells what became of every layer.
Quantizer = Callable[[Request], list[Layer]]

METHODS: Mapping[Method, Quantizer] = {
    "int8": static_int8,
    "int8-dynamic": dynamic_int8,
    "smoothquant": smoothquant,
    "int8-weights": quantized_weights,
    "int4": quantized_weights,
    "fp16": sixteen_bits,
    "bf16": sixteen_bits,
    "fp8": eight_bits,
}


def quantize(
    model: ir.Model,
    settings: Settings,
    capability: Capability,
    calibration: Calibration | None = None,
    runner: Runner | None = None,
) -> list[Layer]:
    """Quantize ``model`` (imported, canonicalized) in place, and tell what became of every layer.

    Raises :class:`UsageError` for a method that is not there, for layers that the graph lacks, and for calibration data
    that is missing or not finite.
    """
    method = METHODS.get(settings.method)
    if method is None:
        fix = f"one of: {', '.join(METHODS)}"
        raise UsageError("unknown-method", where=str(settings.method), cause="there is no such method", fix=fix)
    names = {n.name for n in model.graph}
    missing = sorted(settings.layers - names) if settings.layers is not None else []
    if missing:
        fix = "name nodes of the graph (tilewright inspect)"
        raise UsageError("unknown-layer", where=", ".join(missing[:5]), cause="there is no such node", fix=fix)
    return method(Request(model, settings, capability, calibration, runner))
