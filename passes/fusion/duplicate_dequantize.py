"""``duplicate-dequantize``: every reader of a dequantized tensor gets a DequantizeLinear of its own.

    Q → DQ → Conv, Add      →      Q → DQ → Conv, Q → DQ → Add

A dequantization costs nothing where it is part of the kernel that reads it, and a float tensor in memory where it is
not.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.passes.rewrite import RewritePass, Rewriter


class DuplicateDequantize(RewritePass):
    """So that fusion, which takes what only one node reads, can take it everywhere."""

    name: ClassVar[str] = "duplicate-dequantize"
    operators: ClassVar[frozenset[str]] = frozenset(["DequantizeLinear"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool:
        value = node.outputs[0]
        readers = list(dict.fromkeys(use.node for use in value.uses()))
        spared = 0 if value.is_graph_output() else 1
        for reader in readers[spared:]:
            if reader.graph is not node.graph:
                continue
            own = rewriter.new("DequantizeLinear", node.inputs, before=reader, attributes=dict(_attributes(node)))
            for i, v in enumerate(reader.inputs):
                if v is value:
                    reader.replace_input_with(i, own)
        return any(r.graph is node.graph for r in readers[spared:])


def _attributes(node: ir.Node) -> list[tuple[str, object]]:
    return [(name, attribute.value) for name, attribute in node.attributes.items()]
