"""``recognise-gelu``: the erf and tanh formulas of GELU become the operator (opset 20).

    x · 0.5 · (1 + Erf(x / √2))                              →  Gelu(x)
    x · 0.5 · (1 + Tanh(√(2/π) · (x + 0.044715 · x³)))       →  Gelu<approximate="tanh">(x)

Formulas: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415, section 2.
"""

from __future__ import annotations

import math
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.match import Match, Pattern, either, match, op, var
from tilewright.passes.rewrite import RewritePass, Rewriter


def _products(x: Pattern, gate: Pattern) -> Pattern:
    """``x · 0.5 · gate`` in any association."""
    return either((x * 0.5) * gate, x * (0.5 * gate), 0.5 * (x * gate))


def _erf() -> Pattern:
    x = var("x")
    return _products(x, op("Erf", either(x / math.sqrt(2), x * math.sqrt(0.5))) + 1)


def _tanh() -> Pattern:
    x = var("x")
    cube = either(op("Pow", x, 3), (x * x) * x)
    inner = x + either(0.044715 * cube, (0.044715 * x) * (x * x), (0.044715 * (x * x)) * x)
    factored = x * (1 + 0.044715 * (x * x))  # x + 0.044715·x³
    scaled = math.sqrt(2 / math.pi)
    return _products(
        x, op("Tanh", either(scaled * inner, scaled * factored, (scaled * x) * (1 + 0.044715 * (x * x)))) + 1
    )


_PATTERNS = {"none": _erf(), "tanh": _tanh()}


class RecogniseGelu(RewritePass):
    """One operator, that each target computes in its own best way."""

    name: ClassVar[str] = "recognise-gelu"
    operators: ClassVar[frozenset[str]] = frozenset(["Mul"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if rewriter.model.opset_imports.get("", 0) < 20:
            return False
        deepest = Miss.at(node, "")
        depth = 0
        for approximate, pattern in _PATTERNS.items():
            found = match(pattern, node.outputs[0])
            if isinstance(found, Match):
                if type_of(found["x"]) != type_of(node.outputs[0]):
                    return Miss.at(node, f"{type_of(found['x'])} is broadcast to {type_of(node.outputs[0])}")
                new = rewriter.new("Gelu", [found["x"]], before=node, attributes={"approximate": approximate})
                rewriter.replace(node.outputs[0], new)
                return True
            if found.depth > max(depth, 2):
                deepest, depth = Miss.at(node, found.reason), found.depth
        return deepest if depth else False
