"""QuantizeLinear and DequantizeLinear, put into a graph in the one form that fusions look for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array
from tilewright.passes.quantize.encoding import SMALLEST_SCALE, Columns, Encoding
from tilewright.passes.rewrite import Rewriter

Array = NDArray[Any]


@dataclass(slots=True)
class Inserter:
    """Puts Q and DQ into one model. Tensors of a group share scale and zero point, readers of a weight its integers."""

    model: ir.Model
    rewriter: Rewriter = field(init=False)
    _position: dict[ir.Node, int] = field(init=False)
    _constants: dict[int, tuple[ir.Value, ir.Value]] = field(init=False, default_factory=dict)
    _columns: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.rewriter = Rewriter(self.model)
        self._position = {n: i for i, n in enumerate(self.model.graph)}

    def activation(self, value: ir.Value, encoding: Encoding, readers: Iterable[ir.Node], group: int) -> None:
        """Quantize ``value`` once, and let each of ``readers`` read it through a DequantizeLinear of its own.

        Tensors of one ``group`` have one ``encoding``.
        """
        ordered = sorted(readers, key=self._position.__getitem__)
        parameters = self._parameters(value, encoding, group)
        integers = self.rewriter.new("QuantizeLinear", [value, *parameters], before=ordered[0])
        integers.name = self.rewriter.unique(f"{value.name}_{encoding.element}")
        for reader in ordered:
            self._feed(reader, value, self.rewriter.new("DequantizeLinear", [integers, *parameters], before=reader))

    def weight(self, reader: ir.Node, weight: ir.Value, columns: Columns) -> None:
        """Let ``reader`` read a constant as integers and scales."""
        key = (weight, columns.axis)
        if key not in self._columns:
            self._columns[key] = (
                self.rewriter.constant(columns.integers, f"{weight.name}_i8"),
                self.rewriter.constant(columns.scales, f"{weight.name}_scale"),
            )
        attributes: Mapping[str, int] = {"axis": columns.axis}
        real = self.rewriter.new("DequantizeLinear", self._columns[key], before=reader, attributes=attributes)
        self._feed(reader, weight, real)

    def bias(self, reader: ir.Node, bias: ir.Value, scales: Array) -> None:
        """Let a convolution read its bias as i32 in units of ``scales`` (f32, a channel each), the steps of its
        accumulator. It stays f32 where it does not fit.
        """
        if (scales < SMALLEST_SCALE).any():
            return
        steps = constant_array(bias) / scales.astype(np.float64)
        if not (np.abs(steps) < 2**31 - 1).all():
            return
        integers = self.rewriter.constant(np.rint(steps).astype(np.int32), f"{bias.name}_i32")
        scale = self.rewriter.constant(scales, f"{bias.name}_scale")
        real = self.rewriter.new("DequantizeLinear", [integers, scale], before=reader, attributes={"axis": 0})
        self._feed(reader, bias, real)

    def _parameters(self, value: ir.Value, encoding: Encoding, group: int) -> tuple[ir.Value, ir.Value]:
        if group not in self._constants:
            self._constants[group] = (
                self.rewriter.constant(np.array(encoding.scale, np.float32), f"{value.name}_scale"),
                self.rewriter.constant(np.array(encoding.zero, encoding.numpy), f"{value.name}_zero_point"),
            )
        return self._constants[group]

    @staticmethod
    def _feed(reader: ir.Node, old: ir.Value, new: ir.Value) -> None:
        for i, v in enumerate(reader.inputs):
            if v is old:
                reader.replace_input_with(i, new)
