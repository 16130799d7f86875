"""``gptq``: weights in 8 or 4 bits, each rounding's error made good by the weights that are rounded after it.

With rows ``X`` of the calibration data, the error ``‖X (W - Ŵ)‖²`` is ``tr (W - Ŵ)ᵀ H (W - Ŵ)``, ``H = Xᵀ X``.
Inputs are rounded one after another; what is left of ``W`` then moves to where that error is least (Frantar et al.
2022, "GPTQ"). The way through is the Cholesky factor of ``H⁻¹``, which no later step changes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.quantize.base import Array, Calibration, Capability, Layer, Runner, Settings
from tilewright.passes.quantize.correct_bias import CorrectBias
from tilewright.passes.quantize.quantize_weights import grid_of, plain, put, store_of
from tilewright.passes.quantize.rounding import Grid, Rounded, Scales, fit_scales, nearest
from tilewright.passes.quantize.second_moments import LARGEST, Moments, bytes_of, moments_of
from tilewright.passes.quantize.weights import Weight, weights_of
from tilewright.passes.rewrite import Rewriter

#: Inputs whose corrections are applied to the rest of the matrix in one product (the paper's B).
_AT_ONCE = 128


@dataclass(slots=True)
class Gptq(Pass):
    """Second-order rounding of weights.

    Attributes:
        calibration, runner: data, and what runs the graph on it.
        settings: as for ``quantize-weights``.
        damping: added to the diagonal of H, as a share of its mean. The paper's 1 % is for 250,000 rows; of MiniLM's
            1,588 rows of calibration data 5 % was the best of 1, 5 and 20 %.
        order: round inputs of large magnitude first (the paper's code calls it act-order).
        budget: bytes of second moments that are held at once. Layers are taken in stages of that much; each stage's
            moments are those of the graph whose earlier stages are quantized already.
        capability: what the target absorbs; ``None`` leaves nothing alone on its account.
        layers: what became of each layer, once :meth:`run` is done.
    """

    name: ClassVar[str] = "gptq"
    calibration: Calibration
    runner: Runner
    settings: Settings = field(default_factory=lambda: Settings("int4"))
    damping: float = 0.05
    order: bool = True
    budget: int = 1 << 30
    capability: Capability | None = None
    layers: list[Layer] = field(default_factory=list)

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        weights, left = weights_of(model, self.settings, self.capability)
        self.layers = left
        for stage in stages(weights, self.budget):
            for together, moments in list(moments_of(model, stage, self.runner, self.calibration)):
                for weight in together:
                    self._replace(weight, moments, rewriter)
        self.layers += rest(weights, self.settings, rewriter)
        return PassResult(bool(weights))

    def _replace(self, weight: Weight, moments: Moments, rewriter: Rewriter) -> None:
        """Round a weight; where biases take what that does to the mean, only what is about the mean is minimised."""
        before = weight.matrix()
        biased = self.settings.bias_correction and moments.rows > 0 and all(map(has_bias, weight.nodes))
        rounded = self._rounded(weight, moments.centred() if biased else moments.products)
        self.layers += put(weight, rounded, self.settings, rewriter)
        if biased:
            lost = before - rounded.real()
            means = moments.sums / moments.rows
            parts = zip(means, np.split(lost, weight.parts, axis=1), strict=True)
            shift = np.concatenate([mean @ columns for mean, columns in parts])
            CorrectBias({str(node.name): shift for node in weight.nodes}).run(rewriter.model)

    def _rounded(self, weight: Weight, products: Array) -> Rounded:
        """Each group of a convolution has its own inputs: its columns are rounded by themselves."""
        grid, group, store = grid_of(weight, self.settings), self.settings.group, store_of(weight)
        parts = [
            second_order(columns, product, grid, group, damping=self.damping, order=self.order, store=store)
            for columns, product in zip(np.split(weight.matrix(), weight.parts, axis=1), products, strict=True)
        ]
        return join(parts)


def rest(weights: list[Weight], settings: Settings, rewriter: Rewriter) -> list[Layer]:
    """Round to nearest what no stage has: tables, and weights of too many inputs, which their lines tell."""
    told: list[Layer] = []
    for weight in weights:
        if weight.inputs and bytes_of(weight) <= LARGEST:
            continue
        lines = put(weight, plain(weight, settings), settings, rewriter)
        why = f"rounded to nearest: {settings.algorithm} would take {bytes_of(weight) >> 20} MB for its inputs"
        told += [dataclasses.replace(line, why=why) for line in lines] if weight.inputs else lines
    return told


def has_bias(node: ir.Node) -> bool:
    """Whether what a node adds to its sums is a constant in f32: one number a channel."""
    if node.outputs[0].dtype != ir.DataType.FLOAT or node.outputs[0].is_graph_output():
        return False
    if node.op_type == "Conv":
        return len(node.inputs) > 2 and node.inputs[2] is not None and is_constant(node.inputs[2])
    reader = only_consumer(node.outputs[0])
    if reader is None or reader.op_type != "Add" or reader.domain not in ("", "ai.onnx"):
        return False
    columns = node.outputs[0].shape[-1] if node.outputs[0].shape else None
    return any(v is not None and is_constant(v) and constant_array(v).shape == (columns,) for v in reader.inputs)


def join(parts: list[Rounded]) -> Rounded:
    """Matrices beside each other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0].scales
    zero = None if first.zero is None else np.concatenate([p.scales.zero for p in parts], 1)
    scales = Scales(np.concatenate([p.scales.scale for p in parts], 1), zero, first.group)
    return Rounded(np.concatenate([p.integers for p in parts], 1), scales, parts[0].grid)


def stages(weights: list[Weight], budget: int) -> list[list[Weight]]:
    """Weights whose moments can be gathered, in order, as many at a time as have moments of ``budget`` bytes (at least
    one).
    """
    found: list[list[Weight]] = []
    left, last = 0, None
    for weight in (w for w in weights if w.inputs and bytes_of(w) <= LARGEST):
        size = 0 if weight.inputs == last else bytes_of(weight)
        if not found or size > left:
            found.append([])
            left = budget
        found[-1].append(weight)
        left, last = left - size, weight.inputs
    return found


def second_order(
    matrix: Array,
    products: Array,
    grid: Grid,
    group: int,
    *,
    damping: float = 0.01,
    order: bool = True,
    refit: bool = True,
    store: object = None,
) -> Rounded:
    """``matrix`` ``[K, N]`` on ``grid`` with little error under ``products`` ``[K, K]``.

    Scales are those of the least error weighted by the diagonal of ``products``, found before the first rounding, so
    that the order of rounding is free.
    """
    k = len(matrix)
    h = products.astype(np.float64)
    diagonal = np.diagonal(h).copy()
    scales = fit_scales(matrix, grid, group, np.maximum(diagonal / (diagonal.mean() or 1.0), 1e-6), store)
    unused = diagonal <= 0
    h[unused, unused] = 1.0
    h[np.diag_indices(k)] += damping * np.diagonal(h).mean()
    places = np.argsort(-diagonal, kind="stable") if order else np.arange(k)
    inverse = np.linalg.inv(h[np.ix_(places, places)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    integers = np.empty(matrix.shape, np.float32)
    integers[places] = _rounded(matrix[places].astype(np.float32), factor, scales, places, grid)
    if refit:
        scales = refitted(matrix, integers, scales, h, store)
    return Rounded(integers.astype(grid.dtype), scales, grid)


def refitted(matrix: Array, integers: Array, scales: Scales, h: Array, store: object = None) -> Scales:
    """The scales of the least error for integers that are found: with ``Z`` the integers of a column, a block a column
    of ``Z``, they solve ``Zᵀ H Z s = Zᵀ H w``.

    A scale that would change its sign or by more than a half stays as it was.
    """
    blocks, n = scales.scale.shape
    group, rows = scales.group, np.zeros((blocks * scales.group, n))
    rows[: len(matrix)] = integers - scales.rows(0, len(matrix))[1]
    firsts = np.arange(0, len(matrix), group)
    gram = np.empty((n, blocks, blocks))
    for c in range(blocks):
        part = slice(c * group, min((c + 1) * group, len(matrix)))
        product = rows[: len(matrix)] * (h[:, part] @ rows[part])
        gram[:, :, c] = np.add.reduceat(product, firsts, axis=0).T
    wanted = np.add.reduceat(rows[: len(matrix)] * (h @ matrix.astype(np.float64)), firsts, axis=0).T
    size = np.einsum("nbb->n", gram) / blocks
    gram += (1e-9 * size + (size == 0))[:, None, None] * np.eye(blocks)  # blocks of zeros have no scale to find
    found = np.linalg.solve(gram, wanted[:, :, None])[:, :, 0].T
    ratio = found / scales.scale
    kept = np.where((ratio > 0.5) & (ratio < 1.5), found, scales.scale).astype(np.float32)
    if store is not None:
        kept = kept.astype(store).astype(np.float32)  # type: ignore[call-overload]
    return Scales(kept, scales.zero, group)


def _rounded(work: Array, factor: Array, scales: Scales, places: Array, grid: Grid) -> Array:
    """Whole numbers for the rows of ``work`` (which is used up), from the first to the last.

    ``factor`` is the upper Cholesky factor of the inverse of H in this order of rows.
    """
    blocks = places // scales.group
    whole = np.empty_like(work)
    for start in range(0, len(work), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(work))
        errors = np.empty((stop - start, work.shape[1]), np.float32)
        for i in range(start, stop):
            scale = scales.scale[blocks[i]]
            zero = 0.0 if scales.zero is None else scales.zero[blocks[i]]
            whole[i] = nearest(work[i], scale, zero, grid)
            errors[i - start] = (work[i] - (whole[i] - zero) * scale) / factor[i, i]
            work[i + 1 : stop] -= factor[i, i + 1 : stop, None] * errors[i - start]
        work[stop:] -= factor[start:stop, stop:].T @ errors
    return whole
