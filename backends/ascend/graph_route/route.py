"""What the ways to a graph for CANN have in common: the NPUs there are, and which types their products take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
from tilewright.backends.ascend.graph_route.accepted import PRODUCTS
from tilewright.backends.ascend.graph_route.cleanup import cleanup_passes
from tilewright.backends.base import GraphRoute
from tilewright.ir.graph import type_of
from tilewright.passes.base import Pass
from tilewright.target import Target, load_targets


class AscendRoute(GraphRoute):
    """See the module."""

    def targets(self) -> Mapping[str, Target]:
        """The NPUs of the backend's data."""
        return load_targets(Path(__file__).parents[1] / "targets", "ascend")

    def cleanup(self) -> Sequence[Pass]:
        """After definitions."""
        return cleanup_passes()

    def computes(self, node: ir.Node) -> str:
        """The type of a product's first operand, which ATC is told to keep."""
        first = node.inputs[0] if node.inputs else None
        return str(type_of(first).dtype) if node.op_type in PRODUCTS and first is not None else ""

    def floats(self, target: Target) -> frozenset[str]:
        """Those that the cube unit multiplies."""
        return frozenset(f for f in ("f16", "bf16") if f"mmad_{f}" in target.features)
