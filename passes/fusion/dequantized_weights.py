"""``fuse-dequantized-weights``: a product takes in what dequantizes its weights, and the operators after it.

    MatMul(x, DequantizeLinear(W, s)) → Add bias → Gelu                      →   FusedMatMul(x, W, s, bias)
    MatMul(DequantizeLinear(X, t), DequantizeLinear(W, s)), all in blocks    →   FusedMatMul(X, t, W, s)
    MatMul(x, Cast(W: f16))                                                  →   FusedMatMul(x, W)

Check: the weights are a constant matrix of integers of 4 or 8 bits, with scales for blocks of its rows or one for each
column, or one of f16 or bf16. What was quantized in the same blocks at run time comes along, so that the products are
of integers. The epilogue is that of ``fuse-matmul-epilogue``.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import grow_forward, keeps_shape
from tilewright.passes.rewrite import Rewriter, candidates, required

_INTEGERS = frozenset([DType.I4, DType.U4, DType.I8, DType.U8])
_FLOATS = frozenset([DType.F32, DType.F16, DType.BF16])


class FuseDequantizedWeights(Pass):
    """Weights stay integers in memory; kernels widen them in registers."""

    name: ClassVar[str] = "fuse-dequantized-weights"

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        misses: list[Miss] = []
        found: list[tuple[ir.Node, list[ir.Node]]] = []
        for node in candidates(model, frozenset(["MatMul"])):
            producers = _dequantizers(node)
            if isinstance(producers, Miss):
                misses.append(producers)
            elif producers:
                found.append((node, producers))
        order = Order(model.graph)
        for node, producers in reversed(found):  # last first, as in fuse-matmul-epilogue
            region, output, reasons = grow_forward(order, [node], node.outputs[0], keeps_shape(node.outputs[0]))
            misses += reasons
            region = [*producers, *region]
            if (reason := obstacle(order, region, [output])) is not None:
                region, output = [*producers, node], node.outputs[0]
                misses.append(Miss.at(node, f"it is fused without what follows: {reason}"))
                if (reason := obstacle(order, region, [output])) is not None:
                    misses.append(Miss.at(node, reason))
                    continue
            outline(rewriter, order, region, "FusedMatMul", outputs=[output])
        return PassResult(bool(found), misses)


def _dequantizers(node: ir.Node) -> list[ir.Node] | Miss:
    """The nodes that dequantize the operands of a product, if its weights are; a miss where kernels have no use for
    how they are quantized."""
    weights = required(node, 1).producer()
    if weights is not None and weights.op_type == "Cast" and is_constant(required(weights, 0)):
        source, to = type_of(required(weights, 0)), type_of(required(node, 1))
        narrow = source.dtype in (DType.F16, DType.BF16) and to.dtype is DType.F32 and to.rank == 2
        return [weights] if narrow else []
    if weights is None or weights.op_type != "DequantizeLinear" or not is_constant(required(weights, 0)):
        return []
    rank = type_of(required(node, 0)).rank
    block = _block(weights)
    result = type_of(node.outputs[0]).dtype
    if type_of(required(weights, 0)).dtype not in _INTEGERS or result not in _FLOATS:
        return Miss.at(node, "its weights are no integers of 4 or 8 bits, or its result is no float of 16 or 32 bits")
    if type_of(required(node, 1)).rank != 2 or _axis(weights, 2) != (0 if block else 1):
        return Miss.at(node, "the scales of its weights are neither those of blocks of rows nor of columns")
    if not all(v is None or is_constant(v) for v in weights.inputs):
        return Miss.at(node, "the scales of its weights are computed")
    rows = required(node, 0).producer()
    if rows is None or rows.op_type != "DequantizeLinear" or result is not DType.F32:
        return [weights]
    if not block or _block(rows) != block or _axis(rows, rank) != rank - 1 or len(rows.inputs) > 2:
        return []  # quantized otherwise: not for this pass
    return [rows, weights]


def _block(node: ir.Node) -> int:
    return node.attributes.get_int("block_size", 0)


def _axis(node: ir.Node, rank: int) -> int:
    return node.attributes.get_int("axis", 1) % rank
