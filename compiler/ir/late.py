"""Integers that only a run can tell, and the symbols that stand for them: elements read from a tensor, sizes computed
from those, sizes that hang on data.

A *read* symbol is an element of a short integer tensor: whoever needs a run-time shape, axis or count gives that value
known elements (:func:`tilewright.ir.graph.known_value`) that are such symbols. A *definition* is a symbol that stands
for an expression. A *size* is found by the node that makes a value of that size. All three are set by the plan while it
runs, as soon as what they need is there, and checked against their bounds, which are among the model's facts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.graph import has_type, is_constant, known_value, type_of
from tilewright.ir.parse import parse
from tilewright.ir.symbolic import Expr

_LATE = "tilewright.late"
_IS_LATE = "tilewright.is_late"
_DEFINED = "tilewright.defined"


@dataclass(frozen=True, slots=True)
class Late:
    """A symbol that is set while the program runs.

    Attributes:
        owner: the value whose element it is or will be; for a definition, the output of the node that needs it.
        where: the node, for messages.
        expr: what a definition stands for; ``None`` for an element and for a size.
        element: position of a read element in row-major order; ``None`` for a definition and for a size.
    """

    owner: str
    where: str
    expr: Expr | None = None
    element: int | None = None

    @property
    def is_size(self) -> bool:
        """True for a size that a program finds."""
        return self.expr is None and self.element is None


def late_symbols(model: ir.Model) -> dict[str, Late]:
    """Every late symbol of ``model``, in the order of inference."""
    stored = json.loads(model.metadata_props.get(_LATE, "{}"))
    return {
        name: Late(owner, where, None if expr is None else parse(expr), element)
        for name, (owner, where, expr, element) in stored.items()
    }


def set_late_symbols(model: ir.Model, symbols: Mapping[str, Late]) -> None:
    """Record the late symbols of ``model``."""
    if not symbols:
        model.metadata_props.pop(_LATE, None)
        return
    model.metadata_props[_LATE] = json.dumps(
        {n: [s.owner, s.where, None if s.expr is None else str(s.expr), s.element] for n, s in symbols.items()}
    )


def closure(expressions: Iterable[Expr], late: Mapping[str, Late]) -> set[str]:
    """The late symbols of ``expressions``, and those that their definitions hang on."""
    found: set[str] = set()
    pending = [s for e in expressions for s in e.symbols if s in late]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            expr = late[name].expr
            pending += [] if expr is None else [s for s in expr.symbols if s in late]
    return found


def live_symbols(model: ir.Model) -> set[str]:
    """The late symbols that the nodes need from which the outputs are computed: of their types, of what their rules
    defined, and what those stand for. Symbols that only dead nodes brought in are not among them.
    """
    late = late_symbols(model)
    if not late:
        return set()
    live = {v for v in model.graph.outputs if v is not None}
    sizes: list[Expr] = []
    for node in reversed(list(model.graph)):
        if live.isdisjoint(node.outputs):
            continue
        live.update(v for v in node.inputs if v is not None)
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        sizes += [s for v in values if has_type(v) for s in type_of(v).shape]
        sizes += defined(node).values()
        if is_late(node):
            sizes += [e for v in values if not is_constant(v) and (k := known_value(v)) is not None for e in k.flat]
    return closure(sizes, late)


def is_late(node: ir.Node) -> bool:
    """True for a node whose shape rule looked at run-time values: it is neither rewritten nor fused."""
    return bool(node.meta.get(_IS_LATE))


def defined(node: ir.Node) -> Mapping[str, Expr]:
    """What the shape rule of ``node`` defined, by hint."""
    return node.meta.get(_DEFINED, {})  # type: ignore[no-any-return]


def record_node(node: ir.Node, late: bool, definitions: Mapping[str, Expr]) -> None:
    """Record what the shape rule of ``node`` found."""
    for key, value in ((_IS_LATE, late), (_DEFINED, dict(definitions))):
        if value:
            node.meta[key] = value
        else:
            node.meta.pop(key, None)
