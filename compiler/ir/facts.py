"""What is known of a model's named dimensions: bounds, equalities that were assumed, names as the model spelled them.

All of it lives in the model's metadata as JSON, so that it survives being written and read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.parse import parse
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import Expr

_FACTS = "tilewright.facts"
_ASSUMPTIONS = "tilewright.assumptions"
_NOTES = "tilewright.notes"
_NAMES = "tilewright.dimension_names"

#: A named dimension holds at least one element unless the user says otherwise (``--input-shape x:0..32``).
DEFAULT_RANGE = Range(1, POSITIVE_INFINITY)


@dataclass(frozen=True, slots=True)
class Assumption:
    """``left == right``, which inference relied on because ``where`` needs it. The plan asserts it at run time."""

    left: Expr
    right: Expr
    where: str

    def __str__(self) -> str:
        return f"{self.left} == {self.right} ({self.where})"


def facts(model: ir.Model) -> dict[str, Range]:
    """Bounds of every named dimension of ``model`` (a new dictionary; write it back with :func:`set_facts`)."""
    stored = json.loads(model.metadata_props.get(_FACTS, "{}"))
    return {name: Range(*(int(x) for x in triple)) for name, triple in stored.items()}


def set_facts(model: ir.Model, values: Mapping[str, Range]) -> None:
    """Record the bounds of the named dimensions of ``model``."""
    model.metadata_props[_FACTS] = json.dumps({n: [r.lo, r.hi, r.divisor] for n, r in sorted(values.items())})


def assumptions(model: ir.Model) -> tuple[Assumption, ...]:
    """The equalities of sizes that the inferred types rely on and that nothing but a run can confirm."""
    stored = json.loads(model.metadata_props.get(_ASSUMPTIONS, "[]"))
    return tuple(Assumption(parse(left), parse(right), where) for left, right, where in stored)


def set_assumptions(model: ir.Model, values: tuple[Assumption, ...]) -> None:
    """Record the assumed equalities of ``model``."""
    model.metadata_props[_ASSUMPTIONS] = json.dumps([[str(a.left), str(a.right), a.where] for a in values])


def notes(model: ir.Model) -> tuple[str, ...]:
    """What import found out about dimensions and wrote into the inputs' shapes: ``batch_1 == batch (Add add_3)``."""
    return tuple(json.loads(model.metadata_props.get(_NOTES, "[]")))


def set_notes(model: ir.Model, values: tuple[str, ...]) -> None:
    """Record what was found out about dimensions."""
    model.metadata_props[_NOTES] = json.dumps(list(values))


def dimension_names(model: ir.Model) -> dict[str, str]:
    """For each dimension symbol, how the model spelled it; for messages and signatures."""
    return dict(json.loads(model.metadata_props.get(_NAMES, "{}")))


def set_dimension_names(model: ir.Model, names: Mapping[str, str]) -> None:
    """Record how the model spelled its dimension symbols."""
    model.metadata_props[_NAMES] = json.dumps(dict(sorted(names.items())))
