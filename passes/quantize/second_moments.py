"""What weights are multiplied with on the calibration data, as sums over its rows: ``Xᵀ X``, means, magnitudes.

Rows of a product are those of ``x[…, K]``; of a convolution, the windows that it reads (``C·taps`` values in the order
of its weights, zeros for padding), apart for each of its groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tilewright.errors import UsageError
from tilewright.ir.graph import type_of
from tilewright.passes.quantize.base import Array, Calibration, Runner
from tilewright.passes.quantize.weights import Weight, by_input

#: Rows of windows that are laid out at once: a convolution's windows are many times its input.
_ROWS_AT_ONCE = 1 << 14


@dataclass(slots=True)
class Moments:
    """Sums over rows of what some weights are multiplied with.

    Attributes:
        products: ``[parts, K, K]``, the sum of ``xᵀ x``.
        sums: ``[parts, K]``, of ``x``.
        magnitudes: ``[parts, K]``, of ``|x|``.
        rows: how many.
    """

    products: Array
    sums: Array
    magnitudes: Array
    rows: int = 0

    @staticmethod
    def empty(parts: int, depth: int) -> Moments:
        """Of no rows yet."""
        vector = np.zeros((parts, depth), np.float64)
        return Moments(np.zeros((parts, depth, depth), np.float32), vector, vector.copy())

    def centred(self) -> Array:
        """``products`` of the rows less their mean."""
        means = self.sums / max(self.rows, 1)
        return np.asarray(self.products - self.rows * means[:, :, None] * means[:, None, :], np.float32)

    def add(self, part: int, rows: Array) -> None:
        """Take in ``rows``, ``[rows, K]`` in f32, of one part. Rows are counted by the first part."""
        with np.errstate(over="ignore", invalid="ignore"):  # told by moments_of
            self.products[part] += rows.T @ rows
        self.sums[part] += rows.sum(0, dtype=np.float64)
        self.magnitudes[part] += np.abs(rows).sum(0, dtype=np.float64)
        self.rows += len(rows) if part == 0 else 0


def moments_of(
    model: ir.Model, weights: Sequence[Weight], runner: Runner, calibration: Calibration
) -> Iterator[tuple[list[Weight], Moments]]:
    """The moments of every set of weights that share their inputs; tables have none and are left out.

    Raises :class:`UsageError` (``calibration-not-finite``) where the data make a value that is not finite.
    """
    groups = [(inputs, together) for inputs, together in by_input(weights) if inputs]
    moments = [Moments.empty(t[0].parts, _depth(t[0])) for _, t in groups]
    names = sorted({str(v.name) for inputs, _ in groups for v in inputs})
    for index, found in enumerate(runner(model, calibration.feeds, names) if names else ()):
        for (_, together), sums in zip(groups, moments, strict=True):
            for node in together[0].nodes:
                x = np.asarray(found[str(node.inputs[0].name)], np.float32)  # type: ignore[union-attr]
                _check_finite(x, node, index, calibration)
                for part, rows in rows_of(x, node, together[0]):
                    sums.add(part, rows)
    for (_, together), sums in zip(groups, moments, strict=True):
        if not np.isfinite(sums.products).all():
            raise UsageError(
                "calibration-not-finite",
                where=f"{calibration.source}, the input of {together[0].name!r}",
                cause="products of its values leave the range of f32",
                fix="leave samples out that make such values, or use --algorithm rtn, which looks at none",
            )
        yield together, sums


#: Bytes of second moments beyond which a weight does without: 32768 inputs. The widest layers of Llama 2 70B
#: have 28672.
LARGEST = 4 << 30


def bytes_of(weight: Weight) -> int:
    """Memory that the moments of a weight's input take."""
    return 4 * weight.parts * _depth(weight) ** 2


def rows_of(x: Array, node: ir.Node, weight: Weight) -> Iterator[tuple[int, Array]]:
    """What ``node`` multiplies the columns of each part with: part and ``[rows, K]``, some rows at a time."""
    if weight.role == "MatMul":
        yield 0, x.reshape(-1, x.shape[-1])
        return
    kernel = [s.value for s in type_of(weight.value).shape[2:]]
    windows = _windows(x, node, kernel)
    channels = x.shape[1] // weight.parts
    for part in range(weight.parts):
        of_part = windows[:, part * channels : (part + 1) * channels]
        moved = np.moveaxis(of_part, 1, 1 + len(kernel))  # batch, places, channels, taps
        step = max(1, _ROWS_AT_ONCE // max(1, int(np.prod(moved.shape[1 : 1 + len(kernel)]))))
        for first in range(0, len(moved), step):
            yield part, moved[first : first + step].reshape(-1, _depth(weight))


def _windows(x: Array, node: ir.Node, kernel: Sequence[int]) -> Array:
    """A view ``[batch, channels, places …, taps …]`` of the padded input."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    wide = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = _pads(node, x.shape[2:], wide, strides)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = np.lib.stride_tricks.sliding_window_view(padded, wide, tuple(range(2, 2 + rank)))
    places = tuple(slice(None, None, s) for s in strides)
    taps = tuple(slice(None, None, d) for d in dilations)
    return np.asarray(spans[(slice(None), slice(None), *places, *taps)])


def _pads(node: ir.Node, sizes: Sequence[int], wide: Sequence[int], strides: Sequence[int]) -> list[int]:
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if auto in ("NOTSET", "VALID"):
        return _ints(node, "pads", [0] * (2 * len(sizes))) if auto == "NOTSET" else [0] * (2 * len(sizes))
    total = [max(0, (-(-n // s) - 1) * s + w - n) for n, w, s in zip(sizes, wide, strides, strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return less + more if auto == "SAME_UPPER" else more + less


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


def _depth(weight: Weight) -> int:
    shape = [s.value for s in type_of(weight.value).shape]
    return int(shape[0] if weight.role == "MatMul" else np.prod(shape[1:]))


def _check_finite(x: Array, node: ir.Node, index: int, calibration: Calibration) -> None:
    if not np.isfinite(x).all():
        raise UsageError(
            "calibration-not-finite",
            where=f"{calibration.source}, sample {index}, the input of {node.op_type} {node.name!r}",
            cause=f"{int((~np.isfinite(x)).sum())} of {x.size} elements are infinite or not numbers",
            fix="look for the first such value with tilewright bisect, leave the sample out, or mend the data",
        )
