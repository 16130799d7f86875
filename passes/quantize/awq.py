"""``awq``: weights of a product in 4 or 8 bits, those that large activations meet made large before they are rounded.

    MatMul(x, W)    →  MatMul(x / s, Q(s·W))         s[k] = (mean |x[k]|)^α

α is the one of :data:`EXPONENTS` with the least ``‖X (W - Ŵ)‖²`` on the calibration data, for all products that share
x (Lin et al. 2023, "AWQ"). ``1/s`` goes into the scale and shift of the normalization that makes x where nobody else
reads it, else into a Mul. Convolutions have no such scales: they are rounded with those of the least weighted error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, consumers, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.quantize.base import Array, Calibration, Capability, Layer, Runner, Settings
from tilewright.passes.quantize.gptq import join, rest, stages
from tilewright.passes.quantize.quantize_weights import grid_of, put, store_of
from tilewright.passes.quantize.rounding import Rounded, round_to_nearest
from tilewright.passes.quantize.second_moments import Moments, moments_of
from tilewright.passes.quantize.weights import Weight, weights_of
from tilewright.passes.rewrite import Rewriter

#: The paper takes 20 steps from 0 to 1; each costs a rounding of all weights, and neighbours differ by little.
EXPONENTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)

_NORMS = frozenset(["LayerNormalization", "RMSNormalization"])


@dataclass(slots=True)
class Awq(Pass):
    """Activation-aware scales, then rounding to nearest.

    Attributes:
        calibration, runner: data, and what runs the graph on it.
        settings: as for ``quantize-weights``.
        budget: as of ``gptq``.
        capability: what the target absorbs; ``None`` leaves nothing alone on its account.
        layers: what became of each layer, once :meth:`run` is done.
    """

    name: ClassVar[str] = "awq"
    calibration: Calibration
    runner: Runner
    settings: Settings = field(default_factory=lambda: Settings("int4", algorithm="awq"))
    budget: int = 1 << 30
    capability: Capability | None = None
    layers: list[Layer] = field(default_factory=list)

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        weights, self.layers = weights_of(model, self.settings, self.capability)
        for stage in stages(weights, self.budget):
            for together, moments in list(moments_of(model, stage, self.runner, self.calibration)):
                self._replace(together, moments, rewriter)
        self.layers += rest(weights, self.settings, rewriter)
        return PassResult(bool(weights))

    def _replace(self, together: Sequence[Weight], moments: Moments, rewriter: Rewriter) -> None:
        scale = self._scale(together, moments)
        if scale is not None:
            divide([n for w in together for n in w.nodes], scale, rewriter)
        for weight in together:
            self.layers += put(weight, self._rounded(weight, moments, scale), self.settings, rewriter)

    def _scale(self, together: Sequence[Weight], moments: Moments) -> Array | None:
        """``s`` of what these weights are multiplied with; ``None`` where nothing is better than 1."""
        first = together[0]
        if first.role != "MatMul" or not moments.rows or any(type_of(v).dtype is not DType.F32 for v in first.inputs):
            return None
        size = np.maximum(moments.magnitudes[0] / moments.rows, 1e-8)
        best, chosen = np.inf, None
        for exponent in EXPONENTS:
            scale = (size**exponent / np.sqrt((size**exponent).max() * (size**exponent).min())).astype(np.float32)
            error = sum(self._error(w, moments, scale) for w in together)
            if error < best:
                best, chosen = error, scale if exponent else None
        return chosen

    def _error(self, weight: Weight, moments: Moments, scale: Array) -> float:
        lost = self._rounded(weight, moments, scale, shrinks=(1.0, 0.85)).real() / scale[:, None] - weight.matrix()
        return float(np.einsum("kn,kn->", lost, moments.products[0] @ lost, dtype=np.float64))

    def _rounded(
        self, weight: Weight, moments: Moments, scale: Array | None, shrinks: Sequence[float] | None = None
    ) -> Rounded:
        grid, store = grid_of(weight, self.settings), store_of(weight)
        matrix = weight.matrix() if scale is None else weight.matrix() * scale[:, None]
        parts = []
        for columns, product in zip(np.split(matrix, weight.parts, axis=1), moments.products, strict=True):
            counts = np.diagonal(product) / (1.0 if scale is None else scale.astype(np.float64) ** 2)
            counts = np.maximum(counts / (counts.mean() or 1.0), 1e-6)
            parts.append(round_to_nearest(columns, grid, self.settings.group, counts, store, shrinks))
        return join(parts)


def divide(nodes: Sequence[ir.Node], scale: Array, rewriter: Rewriter) -> None:
    """Divide what all of ``nodes`` read first, row by row, by ``scale``."""
    for value in dict.fromkeys(n.inputs[0] for n in nodes):
        assert value is not None
        readers = [n for n in nodes if n.inputs[0] is value]
        if not _into_norm(value, readers, scale, rewriter):
            factor = rewriter.constant((1 / scale).astype(np.float32), f"{value.name}_awq")
            scaled = rewriter.new("Mul", [value, factor], before=readers[0])
            for node in readers:
                node.replace_input_with(0, scaled)


def _into_norm(value: ir.Value, readers: Sequence[ir.Node], scale: Array, rewriter: Rewriter) -> bool:
    """Divide the scale and shift of the normalization that makes ``value``, where only ``readers`` read it."""
    norm = value.producer()
    if norm is None or norm.op_type not in _NORMS or norm.domain not in ("", "ai.onnx") or value.is_graph_output():
        return False
    if set(consumers(value)) != set(readers) or value is not norm.outputs[0]:
        return False
    given = [(i, v) for i, v in enumerate(norm.inputs) if i and v is not None]
    if not all(is_constant(v) and constant_array(v).shape == scale.shape for _, v in given):
        return False
    for i, v in given:
        divided = (constant_array(v) / scale).astype(constant_array(v).dtype)
        norm.replace_input_with(i, rewriter.constant(divided, f"{v.name}_awq"))
    return True
