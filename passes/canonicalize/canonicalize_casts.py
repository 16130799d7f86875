"""``canonicalize-casts``: element types of all values are known, so CastLike(x, like) is a Cast to that of ``like``.

What was read for its type alone is then no longer read.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class CanonicalizeCasts(RewritePass):
    """Attributes (``saturate``, ``round_mode``) are the same in both."""

    name: ClassVar[str] = "canonicalize-casts"
    operators: ClassVar[frozenset[str]] = frozenset(["CastLike"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        attributes = {name: a.value for name, a in node.attributes.items()} | {
            "to": type_of(node.outputs[0]).dtype.onnx
        }
        cast = rewriter.new("Cast", [required(node, 0)], before=node, attributes=attributes)
        rewriter.replace(node.outputs[0], cast)
        return True
