"""``canonicalize-quantization``: one spelling of QuantizeLinear and DequantizeLinear.

    DQ<axis=1>(x, s: [1], z: [1])                   →  DQ(x, s: [], z: [])
    DQ(x, s, 0)                                     →  DQ(x, s)
    DQ<axis=-1>(x: [K, N], s: [N])                  →  DQ<axis=1>(x, s)
    DQ<axis=0, block_size=K>(W: [K, N], s: [1, N])  →  DQ<axis=1>(W, s: [N])
    MatMul(x, DQ(W: u8, s, z))                      →  MatMul(x, DQ(W - 128: i8, s, z - 128))

Weights in i8 are what integer instructions multiply with, whatever type the exporter chose; 128 less in both is the
same number. The zero point of a Q stays where it is 0: it says of what type the result is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.quantized import WEIGHTS, Parameters, as_scalar, is_quantize, is_zero, parameters
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class CanonicalizeQuantization(RewritePass):
    """Scalars without axes, axes counted from the front, attributes that say nothing left out."""

    name: ClassVar[str] = "canonicalize-quantization"
    operators: ClassVar[frozenset[str]] = frozenset(["QuantizeLinear", "DequantizeLinear"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        x, p = required(node, 0), _plain(parameters(node), node, rewriter)
        zero = p.zero
        if not is_quantize(node):
            zero = None if zero is None or is_zero(zero) else zero
            x, zero = _signed(x, zero, node, rewriter)
        attributes = p.attributes() | _kept(node, zero)
        inputs = [x, p.scale] + ([] if zero is None else [zero])
        if _values(node) == inputs and _attributes(node) == attributes:
            return False
        new = rewriter.new(node.op_type, inputs, before=node, attributes=attributes)
        rewriter.replace(node.outputs[0], new)
        return True


def _plain(p: Parameters, node: ir.Node, rewriter: Rewriter) -> Parameters:
    """One scale as a scalar; one scale for the whole length of an axis as scales along the only other axis."""
    if p.axis is None:
        zero = None if p.zero is None else as_scalar(rewriter, p.zero, before=node)
        return replace(p, scale=as_scalar(rewriter, p.scale, before=node), zero=zero)
    if not p.block or not all(v is None or is_constant(v) for v in (p.scale, p.zero)):
        return p
    sizes, shape = type_of(required(node, 0)).shape, type_of(p.scale).shape
    wide = [d for d, size in enumerate(shape) if size != 1]
    if len(wide) != 1 or wide[0] == p.axis or shape[wide[0]] != sizes[wide[0]]:
        return p
    flat = [None if v is None else _flat(v, rewriter) for v in (p.scale, p.zero)]
    assert flat[0] is not None
    return Parameters(flat[0], flat[1], wide[0], 0, p.result)


def _flat(value: ir.Value, rewriter: Rewriter) -> ir.Value:
    return rewriter.constant(constant_array(value).reshape(-1), f"{value.name}_flat")


def _signed(x: ir.Value, zero: ir.Value | None, node: ir.Node, rewriter: Rewriter) -> tuple[ir.Value, ir.Value | None]:
    """A u8 weight and its zero point in i8."""
    if not is_constant(x) or type_of(x).dtype is not DType.U8 or not _is_read_as_weight(node):
        return x, zero
    if zero is not None and not is_constant(zero):
        return x, zero
    moved = rewriter.constant((constant_array(x) ^ np.uint8(128)).view(np.int8), f"{x.name}_i8")
    if zero is None:
        shape = [s.value for s in type_of(required(node, 1)).shape]
        return moved, rewriter.constant(np.full(shape, -128, np.int8), f"{x.name}_zero")
    shifted = (constant_array(zero) ^ np.uint8(128)).view(np.int8)
    return moved, rewriter.constant(shifted, f"{zero.name}_i8") if shifted.any() else None


def _is_read_as_weight(node: ir.Node) -> bool:
    uses = node.outputs[0].uses()
    return bool(uses) and all(u.idx in WEIGHTS.get(u.node.op_type, ()) and u.node.op_type != "Gather" for u in uses)


def _kept(node: ir.Node, zero: ir.Value | None) -> dict[str, Any]:
    """Attributes that say what the inputs do not."""
    given = _attributes(node)
    kept: dict[str, Any] = {}
    result = type_of(node.outputs[0]).dtype
    if is_quantize(node):
        if zero is None and result is not DType.U8:
            kept["output_dtype"] = result.onnx
        if result.is_float and not given.get("saturate", 1):
            kept["saturate"] = 0
        if given.get("precision"):
            kept["precision"] = given["precision"]
    return kept


def _values(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: a.value for name, a in node.attributes.items()}
