"""``recognise-integer-products``: products of integers that are scaled afterwards, as products of dequantized numbers.

    Cast(MatMulInteger(a, b, za, zb)) · (sa · sb)        →  MatMul(DQ(a, sa, za), DQ(b, sb, zb))
    Cast(ConvInteger(x, w, zx, zw)) · (sx · sw)          →  Conv(DQ(x, sx, zx), DQ(w, sw, zw))

Dynamic quantization is exported so, with ``a``, ``sa`` and ``za`` from DynamicQuantizeLinear. A factor belongs to the
operand along whose rows, columns or channels it lies; one number belongs to the operand that was quantized with it. A
product that nothing scales is what it is: integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.decompose_qlinear import is_single, parameters_of, product_of_scales
from tilewright.passes.quantized import as_scalar, dequantized
from tilewright.passes.rewrite import RewritePass, Rewriter, required


@dataclass(slots=True)
class _Factors:
    """What a product is multiplied with: numbers, and vectors along its columns or channels."""

    numbers: list[ir.Value] = field(default_factory=list)
    vectors: list[ir.Value] = field(default_factory=list)


class RecogniseIntegerProducts(RewritePass):
    """Where a Cast to f32 and multiplications with scales follow."""

    name: ClassVar[str] = "recognise-integer-products"
    operators: ClassVar[frozenset[str]] = frozenset(["MatMulInteger", "ConvInteger"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        cast = only_consumer(node.outputs[0])
        if cast is None or cast.op_type != "Cast" or type_of(cast.outputs[0]).dtype is not DType.F32:
            return Miss.at(node, "its sums are not only read as f32")
        channel = 1 if node.op_type == "ConvInteger" else type_of(node.outputs[0]).rank - 1
        last, factors = _scaled(cast.outputs[0], channel)
        if not factors.numbers and not factors.vectors:
            return Miss.at(node, "no scale follows")
        new = _product(node, factors, channel, rewriter, last.producer() or node)
        if new is None:
            return Miss.at(node, "its scales and zero points lie along different axes, or along more than one")
        rewriter.replace(last, new)
        return True


def _scaled(value: ir.Value, channel: int) -> tuple[ir.Value, _Factors]:
    """The last of the multiplications of ``value`` by scales, and these."""
    factors = _Factors()
    while (node := only_consumer(value)) is not None and node.op_type == "Mul" and node.domain == "":
        a, b = required(node, 0), required(node, 1)
        if a is b or type_of(node.outputs[0]) != type_of(value):
            break
        found = _parts(b if a is value else a, type_of(value).rank, channel, type_of(value).shape[channel])
        if found is None:
            break
        factors.numbers += found.numbers
        factors.vectors += found.vectors
        value = node.outputs[0]
    return value, factors


def _parts(value: ir.Value, rank: int, channel: int, size: object) -> _Factors | None:
    """A scale as its factors; ``None`` for what is no scale."""
    t = type_of(value)
    if t.dtype is not DType.F32:
        return None
    if all(s == 1 for s in t.shape):
        node = value.producer()
        if node is not None and node.op_type == "Mul" and node.domain == "":
            parts = [_parts(required(node, i), rank, channel, size) for i in (0, 1)]
            if all(p is not None for p in parts):
                return _Factors([v for p in parts if p is not None for v in p.numbers])
        return _Factors([value])
    along = [d + rank - t.rank for d, s in enumerate(t.shape) if s != 1]
    if along != [channel] or t.shape[channel - rank + t.rank] != size:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Mul" and node.domain == "":
        parts = [_parts(required(node, i), rank, channel, size) for i in (0, 1)]
        if all(p is not None for p in parts):
            left, right = (p for p in parts if p is not None)
            return _Factors(left.numbers + right.numbers, left.vectors + right.vectors)
    return _Factors([], [value])


def _product(node: ir.Node, factors: _Factors, channel: int, rewriter: Rewriter, before: ir.Node) -> ir.Value | None:
    convolves = node.op_type == "ConvInteger"
    x, w = required(node, 0), required(node, 1)
    zeros = [node.inputs[i] if i < len(node.inputs) else None for i in (2, 3)]
    own = next((v for v in factors.numbers if _quantizes(v, x)), None)
    others = [v for v in factors.numbers if v is not own]
    if own is None and not is_constant(x) and others:
        own = others.pop(0) if factors.vectors or len(others) > 1 else None
    x_scale = (
        rewriter.constant(np.array(1, np.float32), "one") if own is None else as_scalar(rewriter, own, before=node)
    )
    w_scale: ir.Value | None = None
    for number in others:
        scalar = as_scalar(rewriter, number, before=before)
        w_scale = scalar if w_scale is None else product_of_scales(rewriter, w_scale, scalar, before)
    for vector in factors.vectors:
        flat = _flat(rewriter, vector, before)
        w_scale = flat if w_scale is None else product_of_scales(rewriter, w_scale, flat, before)
    if w_scale is None:
        w_scale = rewriter.constant(np.array(1, np.float32), "one")
    if type_of(w).rank < 2 and not is_single(w_scale):
        return None
    left = parameters_of(rewriter, before, x, x_scale, zeros[0], rows=True)
    right = parameters_of(rewriter, before, w, w_scale, zeros[1], axis=0 if convolves else None)
    if left is None or right is None:
        return None
    a = dequantized(rewriter, x, left, before=before)
    b = dequantized(rewriter, w, right, before=before)
    if not convolves:
        return rewriter.new("MatMul", [a, b], before=before)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return rewriter.new("Conv", [a, b], before=before, attributes=attributes)


def _quantizes(scale: ir.Value, x: ir.Value) -> bool:
    """Whether ``x`` was quantized with ``scale``."""
    node = x.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type == "DynamicQuantizeLinear":
        return scale is node.outputs[1]
    return node.op_type == "QuantizeLinear" and scale is node.inputs[1]


def _flat(rewriter: Rewriter, value: ir.Value, before: ir.Node) -> ir.Value:
    if type_of(value).rank == 1:
        return value
    if is_constant(value):
        return rewriter.constant(constant_array(value).reshape(-1), f"{value.name}_flat")
    return rewriter.new("Reshape", [value, rewriter.constant(np.array([-1], np.int64), "shape")], before=before)
