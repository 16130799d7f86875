"""What is not supported in a model, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Problem:
    """A node that cannot be compiled. ``operator`` carries the domain where that is not ONNX's own."""

    operator: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator}: {self.reason} (node {self.node!r})"


@dataclass(slots=True)
class Survey:
    """What was found in a graph that is looked at as far as possible.

    Attributes:
        problems: of nodes that were looked at.
        skipped: the nodes without known outputs: those of ``problems``, and all that read what these would make.
    """

    problems: list[Problem] = field(default_factory=list)
    skipped: list[ir.Node] = field(default_factory=list)
