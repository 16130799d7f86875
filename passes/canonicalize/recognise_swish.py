"""``recognise-swish``: a value times its own sigmoid becomes the operator (opset 24).

    x · Sigmoid(x)       →  Swish(x)               SiLU, the gate of SwiGLU
    x · Sigmoid(α · x)   →  Swish<alpha=α>(x)      with α = 1.702 the quick form of GELU

Formula: Ramachandran, Zoph and Le, Searching for Activation Functions, arXiv 1710.05941, section 4.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import Mismatch, const, either, match, op, scalar_of, var
from tilewright.passes.rewrite import RewritePass, Rewriter

_X = var("x")
_PATTERN = _X * either(op("Sigmoid", _X), op("Sigmoid", const("alpha") * _X))


class RecogniseSwish(RewritePass):
    """One operator, and one value that a product's epilogue holds."""

    name: ClassVar[str] = "recognise-swish"
    operators: ClassVar[frozenset[str]] = frozenset(["Mul"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        found = match(_PATTERN, node.outputs[0])
        if isinstance(found, Mismatch):
            return Miss.at(node, found.reason) if found.depth > 1 else False
        x = found["x"]
        alpha = scalar_of(found["alpha"]) if "alpha" in found.values else 1.0
        if alpha is None or type_of(x) != type_of(node.outputs[0]):
            return Miss.at(node, "the factor in the sigmoid is not one number, or the input is broadcast")
        attributes = {} if alpha == 1.0 else {"alpha": alpha}
        rewriter.replace(node.outputs[0], rewriter.new("Swish", [x], before=node, attributes=attributes))
        return True
