"""``simplify-arithmetic``: the cheaper of two exact spellings.

    Pow(x, 2) → x·x     x / 2ᵏ → x · 2⁻ᵏ     x - c → x + (-c)

Division by other numbers stays: multiplying by a rounded reciprocal gives other bits.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import scalar_of
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class SimplifyArithmetic(RewritePass):
    """Rules that hold bit for bit on floats."""

    name: ClassVar[str] = "simplify-arithmetic"
    operators: ClassVar[frozenset[str]] = frozenset(["Pow", "Div", "Sub"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        x, operand = required(node, 0), required(node, 1)
        number = scalar_of(operand)
        if number is None or not type_of(x).dtype.is_float or type_of(x) != type_of(node.outputs[0]):
            return False
        match node.op_type, number:
            case "Pow", 2.0:
                new = rewriter.new("Mul", [x, x], before=node)
            case "Div", _ if _is_power_of_two(number):
                new = rewriter.new("Mul", [x, _like(operand, 1 / number, rewriter)], before=node)
            case "Div", _:
                return Miss.at(node, f"{number:g} is no power of two, its reciprocal is not exact")
            case "Sub", _:
                new = rewriter.new("Add", [x, _like(operand, -number, rewriter)], before=node)
            case _:
                return False
        rewriter.replace(node.outputs[0], new)
        return True


def _is_power_of_two(number: float) -> bool:
    """True when the reciprocal is exact in every float type (also in f16: exponents within ±14)."""
    mantissa, exponent = math.frexp(number)
    return number != 0 and math.isfinite(number) and abs(mantissa) == 0.5 and abs(exponent) <= 14


def _like(operand: ir.Value, number: float, rewriter: Rewriter) -> ir.Value:
    array = constant_array(operand)
    return rewriter.constant(np.full(array.shape, number, array.dtype), "scalar")
