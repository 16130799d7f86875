"""What a pass is: a named, documented rewrite of a graph that leaves it valid and numerically equal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Miss:
    """A candidate that was left alone: at which node, and why."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"

    @staticmethod
    def at(node: ir.Node, reason: str) -> Miss:
        """A miss at ``node``, described by its operator and its first output."""
        output = node.outputs[0].name if node.outputs else node.name
        return Miss(f"{node.op_type} → {output}", reason)


@dataclass(slots=True)
class PassResult:
    """Whether the graph changed, and why candidates were left alone (``--explain`` prints those)."""

    modified: bool
    misses: list[Miss] = field(default_factory=list)


class Pass(ABC):
    """A rewrite in place. ``name`` is kebab-case and agrees with file and class; options are dataclass fields."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, model: ir.Model) -> PassResult:
        """Rewrite ``model``. The result passes ``onnx.checker`` and computes the same values."""
