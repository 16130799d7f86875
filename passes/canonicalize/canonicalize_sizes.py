"""``canonicalize-sizes``: a size that a graph input has is read from that input's shape.

    Unsqueeze(Gather(Shape(LayerNormalization(…)), 1), [0])  =  [S]   →   Shape<start=1, end=2>(input_ids)

So nothing but a shape waits for the value whose shape was taken, and equal sizes are one node.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import known_value, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter


class CanonicalizeSizes(RewritePass):
    """For tensors that hold one size, which is what Range, Slice and the like read."""

    name: ClassVar[str] = "canonicalize-sizes"

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        output = node.outputs[0]
        if len(node.outputs) != 1 or output.is_graph_output():
            return False
        known = known_value(output)
        if known is None or known.shape != (1,) or known[0].is_constant or type_of(output).dtype is not DType.I64:
            return False
        for source in rewriter.model.graph.inputs:
            for axis, size in enumerate(type_of(source).shape):
                if size == known[0]:
                    if node.op_type == "Shape" and node.inputs[0] is source:
                        return False
                    span = {"start": axis, "end": axis + 1}
                    rewriter.replace(output, rewriter.new("Shape", [source], before=node, attributes=span))
                    return True
        return Miss.at(node, f"no input has the size {known[0]}")
