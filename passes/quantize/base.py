"""What quantization is told, what it may ask for, and what it tells: settings, calibration data, outcomes.

Every method leaves a valid ONNX model in one canonical form. A tensor that is quantized passes through QuantizeLinear
and DequantizeLinear, a constant through DequantizeLinear alone (its integers are the initializer):

    static int8    MatMul(DQ(Q(x, s, z)), DQ(W, s[n], axis=1)) + bias   activations u8, one scale and zero point
    dynamic int8   MatMul(DQ(Q(x, s[…, 1])), DQ(W, s[n], axis=1))       activations i8, s = max |row| / 127, one a row:
                                                                        blocked Q, DQ with block_size = row length
    weight-only    MatMul(x, DQ(W, s[K/g, n], axis=0, block_size=g))    W in i8 or i4; or one scale a column
    f16, bf16      Cast at the borders, the operators themselves in 16 bits

Weights are symmetric i8 or i4 with a scale for each output channel (or block of ``group`` inputs of it), unless an
imported model has them otherwise. Which operators a target absorbs is its :class:`Capability`; where QuantizeLinear and
DequantizeLinear are put follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.target import Target

Array = NDArray[Any]
Feed = Mapping[str, Array]

Method = Literal["int8", "int8-dynamic", "smoothquant", "int8-weights", "int4", "fp8", "fp16", "bf16"]
Calibrator = Literal["minmax", "percentile", "entropy", "mse"]
Algorithm = Literal["rtn", "gptq", "awq"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to quantize.

    Attributes:
        method: see the module's table; ``auto`` is a search over these, not one of them.
        calibrator: how the range of an activation is chosen.
        percentile: of the absolute values, for that calibrator.
        symmetric: activations with the zero point in the middle.
        bias_correction: move biases by the mean error that quantized weights make on the calibration data.
        narrow_weights: weights of 8-bit methods in 7 bits, of magnitude 64 at most. Processors without VNNI multiply
            those a quarter faster: two products with unsigned bytes are exact in 16 bits then.
        smoothing: exponent of SmoothQuant (Xiao et al. 2022): how much of the range goes from activations to weights;
            ``None`` tries several for each tensor on calibration data.
        algorithm: of weight-only methods.
        group: inputs that share a scale, for weight-only methods; 0: one scale a column.
        activations: for weight-only methods; ``int8`` quantizes the rows (blocks of ``group``) of what the weights are
            multiplied with at run time, so that products are of integers.
        layers: names of the nodes that may be quantized; ``None`` is all that can be.
    """

    method: Method
    calibrator: Calibrator = "mse"
    percentile: float = 99.99
    symmetric: bool = False
    bias_correction: bool = True
    narrow_weights: bool = False
    smoothing: float | None = None
    algorithm: Algorithm = "gptq"
    group: int = 32
    activations: Literal["float", "int8"] = "float"
    layers: frozenset[str] | None = None

    @property
    def largest_weight(self) -> int:
        """Magnitude of 8-bit weights at the most."""
        return 64 if self.narrow_weights else 127


@dataclass(frozen=True, slots=True)
class Calibration:
    """Samples that a model is run on.

    Attributes:
        feeds: arrays by input name, checked against the model.
        source: where they came from, as a report is to say it.
        sha256: of names, types, shapes and contents, in order.
        random: made up, not given: every report says so.
    """

    feeds: tuple[Feed, ...]
    source: str
    sha256: str
    random: bool = False


class Runner(Protocol):
    """Runs a graph; handed in by the driver."""

    def __call__(self, model: ir.Model, feeds: Sequence[Feed], values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """The named values (intermediate or outputs) of ``model``, feed by feed; ``model`` is left as it is."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What kernels of a target absorb, from the ``[quantize]`` table of its data.

    Attributes:
        static: operators that take and give integers where all their activations are quantized (``Conv`` …).
        passing: operators that integers pass through unchanged (``MaxPool``, ``Reshape`` …).
        dynamic: operators with constant weights whose other operand may be quantized row by row at run time.
        weights: element types of weights for weight-only methods, by spelling.
        activations: element types of activations for static methods, the preferred one first.
        floats: 16-bit (and 8-bit) float types that the target computes in; in others it only stores.
    """

    static: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()
    dynamic: frozenset[str] = frozenset()
    weights: frozenset[str] = frozenset()
    activations: tuple[str, ...] = ()
    floats: frozenset[str] = frozenset()

    @staticmethod
    def of(target: Target) -> Capability:
        """That of one target; nothing is absorbed where its data does not say so."""
        table = target.extra.get("quantize", {})
        sets = {k: frozenset(table.get(k, ())) for k in ("static", "passing", "dynamic", "weights", "floats")}
        return Capability(activations=tuple(table.get("activations", ())), **sets)

    @staticmethod
    def common(targets: Sequence[Target]) -> Capability:
        """What all of ``targets`` absorb."""
        first, *others = (Capability.of(t) for t in targets)
        for c in others:
            first = Capability(
                static=first.static & c.static,
                passing=first.passing & c.passing,
                dynamic=first.dynamic & c.dynamic,
                weights=first.weights & c.weights,
                activations=tuple(a for a in first.activations if a in c.activations),
                floats=first.floats & c.floats,
            )
        return first


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of a precision report.

    Attributes:
        name, op_type: of the node, in the graph that was quantized.
        asked: precision asked for (``int8``, ``int4`` …).
        got: what it is (``int8 × int8``, ``int4 weights``, ``f32`` …).
        why: where these differ; else empty.
    """

    name: str
    op_type: str
    asked: str
    got: str
    why: str = ""


def sample_bytes(feed: Feed) -> Iterator[bytes]:
    """What identifies a sample: names, types, shapes and contents, in order of names."""
    for name in sorted(feed):
        array = np.ascontiguousarray(feed[name])
        yield f"{name}\0{array.dtype.str}\0{array.shape}\0".encode()
        yield array.tobytes()
