"""``fuse-dequantized-table``: a lookup in a quantized table dequantizes the rows that it reads.

    Gather(DequantizeLinear(T, s, z), ids)   →   FusedGather(T, ids, s, z)

Check: the table is a constant, and blocks that share a scale do not lie along the axis that is gathered from. By itself
the DequantizeLinear would make the whole table of floats in every run.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.rewrite import Rewriter, candidates, required


class FuseDequantizedTable(Pass):
    """A table stays integers in memory; only what is looked up becomes floats."""

    name: ClassVar[str] = "fuse-dequantized-table"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, frozenset(["Gather"]))):
            maker = required(node, 0).producer()
            if maker is None or maker.op_type != "DequantizeLinear" or not all(map(_is_given, maker.inputs)):
                continue
            rank = type_of(required(node, 0)).rank
            axis = node.attributes.get_int("axis", 0) % rank
            along = maker.attributes.get_int("axis", 1)
            if maker.attributes.get_int("block_size", 0) and along % rank == axis:
                misses.append(Miss.at(node, f"the blocks that share a scale lie along axis {axis}, as the lookup does"))
                continue
            region = [maker, node]
            if (reason := obstacle(order, region, node.outputs)) is not None:
                misses.append(Miss.at(node, reason))
                continue
            first = [required(maker, 0), required(node, 1)]
            outline(rewriter, order, region, "FusedGather", inputs=first, outputs=node.outputs)
            modified = True
        return PassResult(modified, misses)


def _is_given(value: ir.Value | None) -> bool:
    return value is None or is_constant(value)
