"""Where the operator families register what they know, one decorator per kind of knowledge.

A family file (``elementwise.py``, ``matmul.py`` …) holds everything about its operators. Families are imported on first
use, so importing this module costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar, Union

from tilewright.ir.types import TensorType

if TYPE_CHECKING:
    from tilewright.ops.context import Infer

#: What a shape rule returns: the type of the only output, or one per output (``None`` for an absent optional output).
Outputs = Union[TensorType, Sequence[TensorType | None]]
ShapeRule = Callable[["Infer"], Outputs]
Rule = TypeVar("Rule", bound=ShapeRule)

FAMILIES = (
    "elementwise",
    "logic",
    "reduction",
    "matmul",
    "einsum",
    "conv",
    "pool",
    "norm",
    "movement",
    "cut",
    "resize",
    "gather",
    "sort",
    "shape",
    "attention",
    "recurrent",
    "linear_attention",
    "quantize",
    "generate",
    "signal",
)

_shape_rules: dict[tuple[str, str], ShapeRule] = {}


def shape_rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the decorated function as the shape rule of ``operators``."""

    def register(rule: Rule) -> Rule:
        for operator in operators:
            if _shape_rules.setdefault((domain, operator), rule) is not rule:
                raise ValueError(f"two shape rules for {operator}")
        return rule

    return register


def find_shape_rule(domain: str, operator: str) -> ShapeRule | None:
    """The shape rule of an operator, or ``None`` when no family knows it."""
    load_families()
    return _shape_rules.get(("" if domain == "ai.onnx" else domain, operator))


def operators_with_shape_rule() -> frozenset[tuple[str, str]]:
    """``(domain, operator)`` of everything the frontend can import."""
    load_families()
    return frozenset(_shape_rules)


@cache
def load_families() -> None:
    """Import every family file, which registers its rules."""
    for family in FAMILIES:
        importlib.import_module(f"tilewright.ops.{family}")
