"""How much of each activation channel moves into the weights: the factors of ``smooth-quant``, from calibration data.

With a given exponent they follow from the largest magnitudes. Without one, each tensor gets the exponent with which its
own products lose least when they are quantized, tried on some rows of the data: outliers differ from tensor to tensor,
and moving none at all is among the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array
from tilewright.passes.quantize.base import Calibration, Runner
from tilewright.passes.quantize.calibrators import require_finite
from tilewright.passes.quantize.contractions import Contraction
from tilewright.passes.quantize.encoding import encode_columns

Array = NDArray[Any]

#: Rows of all samples that exponents are tried on.
ROWS = 512
#: Exponents that are tried, besides moving nothing.
EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Channels:
    """What is known of a tensor ``[…, K]``: the largest magnitude of each channel, and some rows ``[R, K]``."""

    largest: Array
    rows: Array


def watch(model: ir.Model, values: Sequence[str], calibration: Calibration, runner: Runner) -> dict[str, Channels]:
    """The channels of each of ``values`` over all samples; of each sample equally many rows, evenly spaced.

    Raises :class:`UsageError` (``calibration-not-finite``).
    """
    largest: dict[str, Array] = {}
    rows: dict[str, list[Array]] = {name: [] for name in values}
    each = max(1, -(-ROWS // max(1, len(calibration.feeds))))
    for number, found in enumerate(runner(model, calibration.feeds, values) if values else ()):
        for name, array in found.items():
            require_finite(array, name, number)
            matrix = array.reshape(-1, array.shape[-1])
            magnitude = np.abs(matrix).max(axis=0, initial=0)
            largest[name] = np.maximum(largest.get(name, magnitude), magnitude)
            chosen = np.linspace(0, len(matrix) - 1, min(each, len(matrix))).astype(np.int64)
            rows[name].append(matrix[chosen].copy())
    return {name: Channels(largest[name], np.concatenate(rows[name])) for name in largest}


def factors_of(largest: Array, weights: Sequence[Array], exponent: float) -> Array:
    """A factor for each channel, f32; 1 for channels that are zero in activations or weights.

    Args:
        largest: magnitude of each channel of the activation, ``[K]``.
        weights: of all products that read it, ``[K, N]`` each.
        exponent: 0 leaves it all to the activations, 1 to the weights.
    """
    columns = np.max([np.abs(w).max(axis=1) for w in weights], axis=0).astype(np.float64)
    alive = (largest > 0) & (columns > 0)
    x, w = np.where(alive, largest, 1.0), np.where(alive, columns, 1.0)
    factors = np.where(alive, x**exponent / w ** (1 - exponent), 1.0)
    # Multiplied and divided once each: far from the ends of f32 neither becomes infinite or subnormal.
    return np.clip(factors, 2.0**-40, 2.0**40).astype(np.float32)


def choose_factors(
    readers: Mapping[ir.Value, Sequence[Contraction]],
    channels: Mapping[str, Channels],
    exponent: float | None,
    round_trip: Callable[[Array], Array],
) -> dict[str, Array]:
    """The factors of each tensor, by its name.

    Args:
        readers: the products that read a tensor.
        channels: what was seen of each tensor.
        exponent: for all of them; ``None`` searches.
        round_trip: rows as the method gives them back that is to quantize them.
    """
    chosen = {}
    for value, contractions in readers.items():
        seen, weights = channels[str(value.name)], [constant_array(c.weight) for c in contractions]
        if exponent is not None:
            chosen[str(value.name)] = factors_of(seen.largest, weights, exponent)
            continue
        whole = np.concatenate(weights, axis=1)
        tried = [np.ones(len(seen.largest), np.float32)]
        tried += [factors_of(seen.largest, weights, e) for e in EXPONENTS]
        losses = [loss(seen.rows, whole, f, round_trip) for f in tried]
        chosen[str(value.name)] = tried[int(np.argmin(losses))]
    return chosen


def loss(rows: Array, weight: Array, factors: Array, round_trip: Callable[[Array], Array]) -> float:
    """What ``rows @ weight`` loses when both are quantized after smoothing: the mean over rows of the squared error
    relative to the squared row.

    Relative, since a few rows of a transformer are a hundred times as large as the others and matter no more.
    """
    true = rows @ weight
    columns = encode_columns(weight * factors[:, None], axis=1)
    lost = np.square(round_trip(rows / factors) @ columns.real - true, dtype=np.float64).sum(axis=1)
    size = np.square(true, dtype=np.float64).sum(axis=1)
    return float(np.mean(lost / np.maximum(size, np.finfo(np.float32).tiny)))
