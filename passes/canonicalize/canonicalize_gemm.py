"""``canonicalize-gemm``: Gemm is MatMul and Add; transposition and scale go into the constants.

Gemm<transB=1, alpha, beta>(x, W, c)         →  MatMul(x, alpha·Wᵀ) + beta·c
Gemm<transB=1, alpha>(x, DQ(W, s), DQ(c, t))  →  MatMul(x, Transpose(DQ(W, alpha·s))) + DQ(c, beta·t)

Integers under a DequantizeLinear stay what they are; ``move-quantization`` transposes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant
from tilewright.passes.base import Miss
from tilewright.passes.quantized import dequantize_of, dequantized, is_weight, parameters
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class CanonicalizeGemm(RewritePass):
    """One contraction operator instead of two."""

    name: ClassVar[str] = "canonicalize-gemm"
    operators: ClassVar[frozenset[str]] = frozenset(["Gemm"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if (
            node.inputs[0] is None
            or node.inputs[1] is None
            or not (node.inputs[0].dtype or ir.DataType.FLOAT).is_floating_point()
        ):
            return Miss.at(node, "integer Gemm has no scale to fold")
        a = _transposed(node, 0, "transA", 1.0, rewriter)
        alpha = _float(node, "alpha")
        fold_alpha = is_weight(node.inputs[1])
        b = _transposed(node, 1, "transB", alpha if fold_alpha else 1.0, rewriter)
        result = rewriter.new("MatMul", [a, b], before=node)
        if not fold_alpha:
            result = _scaled(result, alpha, node, rewriter)
        c = node.inputs[2] if len(node.inputs) > 2 else None
        if c is not None:
            result = rewriter.new("Add", [result, _scaled(c, _float(node, "beta"), node, rewriter)], before=node)
        rewriter.replace(node.outputs[0], result)
        return True


def _transposed(node: ir.Node, index: int, attribute: str, scale: float, rewriter: Rewriter) -> ir.Value:
    """An operand as MatMul wants it; constants are computed, the rest gets a Transpose."""
    value = required(node, index)
    transpose = attribute in node.attributes and bool(node.attributes[attribute].as_int())
    if is_constant(value):
        array = constant_array(value)
        array = array.T if transpose else array
        if scale == 1.0 and not transpose:
            return value
        scaled = np.ascontiguousarray(array if scale == 1.0 else array * np.asarray(scale, array.dtype))
        return rewriter.constant(scaled, f"{value.name}_gemm")
    value = _scaled(value, scale, node, rewriter)
    return rewriter.new("Transpose", [value], before=node, attributes={"perm": [1, 0]}) if transpose else value


def _scaled(value: ir.Value, scale: float, node: ir.Node, rewriter: Rewriter) -> ir.Value:
    if scale == 1.0:
        return value
    assert value.dtype is not None
    if is_constant(value):
        array = constant_array(value)
        return rewriter.constant(array * np.asarray(scale, array.dtype), f"{value.name}_scaled")
    inner = dequantize_of(value)
    if inner is not None and is_weight(value):
        p = parameters(inner)
        scaled = constant_array(p.scale) * np.asarray(scale, constant_array(p.scale).dtype)
        p = replace(p, scale=rewriter.constant(scaled, f"{p.scale.name}_scaled"))
        return dequantized(rewriter, required(inner, 0), p, before=node)
    factor = rewriter.constant(np.asarray(scale, value.dtype.numpy()), "scale")
    return rewriter.new("Mul", [value, factor], before=node)


def _float(node: ir.Node, name: str) -> float:
    return node.attributes[name].as_float() if name in node.attributes else 1.0
