"""``decompose-qlinear``: products of quantized tensors as products between DequantizeLinear and QuantizeLinear.

    QLinearMatMul(a, sa, za, b, sb, zb, s, z)       →  Q(MatMul(DQ(a, sa, za), DQ(b, sb, zb)), s, z)
    QLinearConv(x, sx, zx, w, sw, zw, s, z, bias)   →  Q(Conv(DQ(x, sx, zx), DQ(w, sw, zw), DQ(bias, sx·sw)), s, z)

The lowering of a product of two DequantizeLinears may multiply the integers, so nothing is lost. The definition divides
the scales before it multiplies with the sum; this multiplies first and divides then: a result may lie one step off
where the quotient is a tie in f32 in one order and not in the other.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.passes.base import Miss
from tilewright.passes.quantized import Parameters, as_f32, as_scalar, dequantized
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class DecomposeQlinear(RewritePass):
    """Those with one scale, one a row or column, or one an output channel; others are kernels of their own."""

    name: ClassVar[str] = "decompose-qlinear"
    operators: ClassVar[frozenset[str]] = frozenset(["QLinearMatMul", "QLinearConv"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if not (is_single(required(node, 6)) and is_single(required(node, 7))):
            return Miss.at(node, "its result has several scales")
        convolves = node.op_type == "QLinearConv"
        left = operand_parameters(rewriter, node, 0, 1, 2, rows=True)
        right = operand_parameters(rewriter, node, 3, 4, 5, axis=0 if convolves else None)
        if left is None or right is None:
            return Miss.at(node, "its scales and zero points lie along different axes, or along more than one")
        a = dequantized(rewriter, required(node, 0), left, before=node)
        b = dequantized(rewriter, required(node, 3), right, before=node)
        if convolves:
            bias = node.inputs[8] if len(node.inputs) > 8 else None
            third = [] if bias is None else [_bias(bias, left, right, node, rewriter)]
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            product = rewriter.new("Conv", [a, b, *third], before=node, attributes=attributes)
        else:
            product = rewriter.new("MatMul", [a, b], before=node)
        scale = as_f32(rewriter, as_scalar(rewriter, required(node, 6), before=node), before=node)
        zero = as_scalar(rewriter, required(node, 7), before=node)
        rewriter.replace(node.outputs[0], rewriter.new("QuantizeLinear", [product, scale, zero], before=node))
        return True


def is_single(value: ir.Value) -> bool:
    """Whether a scale or zero point is one number."""
    t = type_of(value)
    return t.rank == 0 or (t.rank == 1 and t.shape[0] == 1)


def operand_parameters(
    rewriter: Rewriter,
    node: ir.Node,
    x: int,
    scale: int,
    zero: int,
    *,
    rows: bool = False,
    axis: int | None = None,
) -> Parameters | None:
    """How input ``x`` of a product is dequantized, in f32; ``None`` where a DequantizeLinear cannot say it.

    Several scales lie along ``axis``, or else along the rows or columns of a matrix.
    """
    given = node.inputs[zero] if zero < len(node.inputs) else None
    return parameters_of(rewriter, node, required(node, x), required(node, scale), given, rows=rows, axis=axis)


def parameters_of(
    rewriter: Rewriter,
    node: ir.Node,
    x: ir.Value,
    scale: ir.Value,
    zero: ir.Value | None,
    *,
    rows: bool = False,
    axis: int | None = None,
) -> Parameters | None:
    """:func:`operand_parameters` of values that are given one by one."""
    rank = type_of(x).rank
    scale = as_f32(rewriter, scale, before=node)
    if is_single(scale) and (zero is None or is_single(zero)):
        zero = None if zero is None else as_scalar(rewriter, zero, before=node)
        return Parameters(as_scalar(rewriter, scale, before=node), zero, None, 0)
    several = [v for v in (scale, zero) if v is not None and not is_single(v)]
    if any(type_of(v).rank != 1 for v in several) or rank < 2:
        return None
    length = type_of(several[0]).shape[0]
    if not length.is_constant:
        return None if len(several) < 2 and zero is not None else _along(scale, zero, rank, rows, axis)
    spread = [v if v is None or not is_single(v) else _repeated(rewriter, v, length.value) for v in (scale, zero)]
    if spread[0] is None or (zero is not None and spread[1] is None):
        return None
    return _along(spread[0], spread[1], rank, rows, axis)


def _along(scale: ir.Value, zero: ir.Value | None, rank: int, rows: bool, axis: int | None) -> Parameters:
    return Parameters(scale, zero, axis if axis is not None else rank - 2 if rows else rank - 1, 0)


def _repeated(rewriter: Rewriter, value: ir.Value, count: int) -> ir.Value | None:
    if not is_constant(value):
        return None
    array = np.broadcast_to(constant_array(value).reshape(-1), (count,))
    return rewriter.constant(np.ascontiguousarray(array), f"{value.name}_repeated")


def _bias(bias: ir.Value, x: Parameters, w: Parameters, node: ir.Node, rewriter: Rewriter) -> ir.Value:
    """A bias in 32-bit integers times the scale of the sums."""
    attributes: dict[str, Any] = {} if w.axis is None else {"axis": 0}
    return rewriter.new(
        "DequantizeLinear", [bias, product_of_scales(rewriter, x.scale, w.scale, node)], before=node,
        attributes=attributes,
    )  # fmt: skip


def product_of_scales(rewriter: Rewriter, a: ir.Value, b: ir.Value, before: ir.Node) -> ir.Value:
    """The product of two scales, computed now where both are known."""
    if is_constant(a) and is_constant(b):
        product = constant_array(a) * constant_array(b)
        return rewriter.constant(np.asarray(product, np.float32), f"{b.name}_sum")
    return rewriter.new("Mul", [a, b], before=before)
