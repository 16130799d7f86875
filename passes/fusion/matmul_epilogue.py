"""``fuse-matmul-epilogue``: a contraction takes the elementwise operators after it: bias, activation, residual.

    MatMul(x, W) → Add bias → Gelu → Add residual   →   FusedMatMul(x, W, bias, residual)

Check: each operator keeps the shape of the product (so whatever it reads besides is broadcast to it, residuals have its
full shape), all uses of each value between are inside, and no path leaves and returns. Where both factors are
dequantized integers, their DequantizeLinears and those of residuals go along. Conv likewise (``FusedConv``);
there a Transpose may stand between, as in a graph that is written channels-last, since any order can be stored.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import Accept, grow_backward, grow_forward, is_elementwise, keeps_shape
from tilewright.passes.rewrite import Rewriter, candidates, required


class FuseMatMulEpilogue(Pass):
    """One kernel writes what the chain after a contraction yields; the product is never in memory."""

    name: ClassVar[str] = "fuse-matmul-epilogue"
    contractions: ClassVar[frozenset[str]] = frozenset(["MatMul", "Conv"])

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        # Last first: a residual sum of two products belongs to the one that is ready last.
        for node in reversed(list(candidates(model, self.contractions))):
            start = node.outputs[0]
            accept = keeps_shape(start) if node.op_type == "MatMul" else _keeps_or_permutes(start)
            region, output, reasons = grow_forward(order, [node], start, accept)
            misses += reasons
            region, output = _without_dequantize(region, output)
            if _on_integers(node):
                region = grow_backward(region, is_dequantize)
            reason = obstacle(order, region, [output]) if len(region) > 1 else "nothing follows that keeps the shape"
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            first = [_read_from(v, region) for v in node.inputs if v is not None]
            outline(rewriter, order, region, f"Fused{node.op_type}", inputs=first, outputs=[output])
            modified = True
        return PassResult(modified, misses)


def is_dequantize(node: ir.Node) -> bool:
    """Whether ``node`` is DequantizeLinear."""
    return node.op_type == "DequantizeLinear" and node.domain == ""


def _on_integers(node: ir.Node) -> bool:
    """Whether both factors are dequantized."""
    makers = [v.producer() for v in node.inputs[:2] if v is not None]
    return all(n is not None and is_dequantize(n) for n in makers)


def _without_dequantize(region: list[ir.Node], output: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """A region that does not end with DequantizeLinear: whoever reads that takes it along."""
    while (last := output.producer()) is not None and last is not region[0] and is_dequantize(last):
        region = [n for n in region if n is not last]
        output = required(last, 0)
    return region, output


def _read_from(value: ir.Value, region: list[ir.Node]) -> ir.Value:
    """``value``, or the integers that a DequantizeLinear of the region makes it of."""
    maker = value.producer()
    return required(maker, 0) if maker is not None and maker in region and is_dequantize(maker) else value


def _keeps_or_permutes(start: ir.Value) -> Accept:
    """Accepts elementwise nodes that keep the shape of ``start``, and Transposes, after which they keep the new one."""
    shapes = {type_of(start).shape}

    def accept(node: ir.Node) -> bool:
        shape = type_of(node.outputs[0]).shape
        if node.domain == "" and node.op_type == "Transpose":
            shapes.add(shape)
            return True
        return is_elementwise(node) and shape in shapes

    return accept
