"""``canonicalize-sizes``: a size that only a run knows is computed from the shapes of graph inputs, in one way.

    Unsqueeze(Gather(Shape(LayerNormalization(…)), 1), [0])  =  [S]       →   Shape<start=1, end=2>(input_ids)
    Add(S, P) and Add(P, S)                                  =  P + S     →   Add(Shape(past)[2], Shape(input_ids)[1])

So nothing but a shape waits for the value whose shape was taken, and equal sizes are one node. A scalar is the Squeeze
of that.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import known_value, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter
from tilewright.passes.sizes import emit, spelled, spelling


class CanonicalizeSizes(RewritePass):
    """For tensors that hold one size, which is what Range, Slice and the like read."""

    name: ClassVar[str] = "canonicalize-sizes"

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        output = node.outputs[0]
        if len(node.outputs) != 1 or output.is_graph_output() or not output.uses():
            return False
        known = known_value(output)
        if known is None or known.shape not in ((), (1,)) or type_of(output).dtype is not DType.I64:
            return False
        size = known.reshape(-1)[0]
        if size.is_constant:
            return False
        wanted = spelling(rewriter.model, size)
        if wanted is None:
            return Miss.at(node, f"no inputs have the sizes of {size}")
        scalar = known.shape == ()
        if scalar and node.op_type != "Squeeze":
            found = None
        else:
            found = spelled(node.inputs[0] if scalar else output)
        if found == wanted:
            return False
        new = emit(rewriter, size, node)
        assert new is not None
        if scalar:
            axes = rewriter.constant(np.array([0], np.int64), "axes")
            new = rewriter.new("Squeeze", [new, axes], before=node)
        rewriter.replace(output, new)
        return True
