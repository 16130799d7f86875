"""``expand-definitions``: operators that a graph target has no form for become what the standard defines them by.

    SoftmaxCrossEntropyLoss(x, t)  →  NegativeLogLikelihoodLoss(LogSoftmax(x), t)  →  GatherElements, Neg, ReduceMean …

The import does the same for operators that nothing of ours computes. What a graph target has no form for differs, so
this pass is the driver's, which hands in who knows what; it needs definitions, which the passes of all targets do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import onnx_ir as ir
from tilewright.backends.base import GraphBackend
from tilewright.frontend.expand import expand_unknown
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.canonicalize.split_projections import SplitProjections
from tilewright.passes.pipeline import canonicalization
from tilewright.target import Target


class ExpandDefinitions(Pass):
    """Expands what ``knows`` denies; what comes of it is made canonical like the rest of the graph."""

    name: ClassVar[str] = "expand-definitions"

    def __init__(self, knows: Callable[[ir.Node], bool]):
        self._knows = knows

    def run(self, model: ir.Model) -> PassResult:
        """Replace nodes by their definitions, in place."""
        changed = expand_unknown(model, self._knows)
        if changed:
            for p in canonicalization():
                p.run(model)
        return PassResult(changed)


def graph_passes(backend: GraphBackend, target: Target, level: int, spread: bool = False) -> list[Pass]:
    """What makes a graph ready for a graph target: one spelling, operators that it knows, then its own passes.

    ``spread``: weights are to be cut over several devices.
    """
    apart = [SplitProjections(), EliminateDeadCode()] if spread else []
    return [*canonicalization(), *apart, ExpandDefinitions(backend.knows), *backend.passes(target, level)]
