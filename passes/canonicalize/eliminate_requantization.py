"""``eliminate-requantization``: steps between QuantizeLinear and DequantizeLinear that change no integer.

    Q(DQ(x, s, z), s, z)             →  x
    Q(Relu(x), s, z)                 →  Q(x, s, z)       where z is the least integer: what is negative becomes z anyway
    Q(Clip(x, low, high), s, z)      →  Q(x, s, z)       where no integer stands for a number outside low … high
    Relu(DQ(x, s, z)), Clip(…)       →  DQ(x, s, z)      likewise

(x - z)·s / s is within one rounding of x - z for scales of ordinary size, and rounds to it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import scalar_of
from tilewright.passes.quantized import (
    Array,
    Parameters,
    bounds,
    dequantize_of,
    is_ordinary,
    is_quantize,
    parameters,
    same_parameters,
)
from tilewright.passes.rewrite import RewritePass, Rewriter, required

_BOUNDING = frozenset(["Relu", "Clip", "Min", "Max"])


class EliminateRequantization(RewritePass):
    """Scales and zero points have to be constants."""

    name: ClassVar[str] = "eliminate-requantization"
    operators: ClassVar[frozenset[str]] = frozenset(["QuantizeLinear", *_BOUNDING])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        x = required(node, 0)
        if not is_quantize(node):
            return _bounded_after(node, rewriter)
        before = x.producer()
        inner = dequantize_of(x)
        if inner is not None and type_of(node.outputs[0]) == type_of(required(inner, 0)):
            if not same_parameters(parameters(inner), parameters(node)):
                return Miss.at(node, "it quantizes with other parameters than its input was dequantized with")
            if not is_ordinary(required(node, 1)) or type_of(node.outputs[0]).dtype.bits > 16:
                return Miss.at(node, "its scale is not one with which every integer survives the way there and back")
            rewriter.replace(node.outputs[0], required(inner, 0))
            return True
        if before is None or before.domain != "" or before.op_type not in _BOUNDING or only_consumer(x) is not node:
            return False
        span = _span(parameters(node), type_of(node.outputs[0]).dtype.bits <= 16, node.outputs[0])
        inside = _unbounded(before, span)
        if inside is None:
            return False
        new = rewriter.new(
            "QuantizeLinear",
            [inside, *node.inputs[1:]],
            before=node,
            attributes={name: a.value for name, a in node.attributes.items()},
        )
        rewriter.replace(node.outputs[0], new)
        return True


def _bounded_after(node: ir.Node, rewriter: Rewriter) -> bool:
    """Drop a bound of what a DQ makes, when that is within it."""
    for value in node.inputs[:2]:
        inner = dequantize_of(value)
        if inner is None or value is None or type_of(value) != type_of(node.outputs[0]):
            continue
        if _unbounded(node, _span(parameters(inner), True, required(inner, 0))) is value:
            rewriter.replace(node.outputs[0], value)
            return True
    return False


def _span(p: Parameters, narrow: bool, of: ir.Value) -> tuple[Array, Array] | None:
    """The least and greatest numbers that the integers of ``of`` stand for, by scale."""
    dtype = type_of(of).dtype
    known = is_constant(p.scale) and (p.zero is None or is_constant(p.zero))
    if not narrow or not dtype.is_integer or not known or not is_ordinary(p.scale):
        return None
    scale = constant_array(p.scale)
    zero = np.float32(0) if p.zero is None else constant_array(p.zero).astype(np.float32)
    low, high = bounds(dtype)
    return (low - zero) * scale, (high - zero) * scale


def _unbounded(node: ir.Node, span: tuple[Array, Array] | None) -> ir.Value | None:
    """What ``node`` bounds, when numbers within ``span`` are within its bounds."""
    if span is None:
        return None
    x, low, high = required(node, 0), -np.inf, np.inf
    if node.op_type == "Relu":
        low = 0.0
    elif node.op_type == "Clip":
        given = [node.inputs[i] if i < len(node.inputs) else None for i in (1, 2)]
        first, second = (scalar_of(v) if v is not None else d for v, d in zip(given, (low, high), strict=True))
        if first is None or second is None or first > second:
            return None
        low, high = first, second
    else:
        if len(node.inputs) != 2:
            return None
        a, b = required(node, 0), required(node, 1)
        x, number = (a, scalar_of(b)) if scalar_of(b) is not None else (b, scalar_of(a))
        if number is None:
            return None
        low, high = (number, high) if node.op_type == "Max" else (low, number)
    same = type_of(x) == type_of(node.outputs[0])
    return x if same and bool((span[0] >= low).all() and (span[1] <= high).all()) else None
