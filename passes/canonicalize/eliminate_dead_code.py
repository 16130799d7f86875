"""``eliminate-dead-code``: nodes, initializers, functions and operator sets that nothing needs."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common
from tilewright.passes.base import Pass, PassResult


class EliminateDeadCode(Pass):
    """Remove what no output depends on. Graph inputs stay: they are the model's signature."""

    name: ClassVar[str] = "eliminate-dead-code"

    def run(self, model: ir.Model) -> PassResult:
        modified = common.RemoveUnusedNodesPass()(model).modified
        used = {n.op_identifier() for g in model.graphs() for n in g}
        for identifier in [i for i in model.functions if i not in used]:
            del model.functions[identifier]
            modified = True
        for name, value in list(model.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del model.graph.initializers[name]
                modified = True
        return PassResult(modified)
