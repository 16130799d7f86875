"""The one spelling of a size that only a run knows: sums of sizes of the graph's inputs, or a product of them.

    P + 2·S  →  Add(Shape<start=2, end=3>(past), Mul(Shape<start=1, end=2>(ids), [2]))

Each is an int64 tensor of one element and one axis; terms come in the order of the expression, so that equal sizes
are equal nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.symbolic import Expr, Monomial, Symbol
from tilewright.passes.rewrite import Rewriter

#: How a size is computed: an operator and its operands; at the leaves an input and its axis, or a number.
Spelling = tuple[Any, ...]


def spelling(model: ir.Model, size: Expr) -> Spelling | None:
    """How ``size`` is spelled; ``None`` where it is neither a sum of sizes of inputs nor one product of them."""
    if len(size.terms) > 1 and any(sum(power for _, power in monomial) > 1 for monomial, _ in size.terms):
        return None  # multiplied out, a product of sums would be longer than it was
    terms = [_term(model, monomial, coefficient) for monomial, coefficient in size.terms]
    total = terms[0] if terms else ("number", 0)
    for term in terms[1:]:
        total = None if total is None or term is None else ("Add", total, term)
    return total


def _term(model: ir.Model, monomial: Monomial, coefficient: int) -> Spelling | None:
    factors: list[Spelling] = []
    for atom, power in monomial:
        where = _axis(model, atom.name) if isinstance(atom, Symbol) else None
        if where is None:
            return None
        factors += [where] * power
    if coefficient != 1 or not factors:
        factors.append(("number", coefficient))
    result = factors[0]
    for factor in factors[1:]:
        result = ("Mul", result, factor)
    return result


def _axis(model: ir.Model, name: str) -> Spelling | None:
    """The first axis of an input whose size is the dimension ``name``."""
    for source in model.graph.inputs:
        for axis, size in enumerate(type_of(source).shape):
            if str(size) == name:
                return ("Shape", source, axis)
    return None


def spelled(value: ir.Value | None) -> Spelling | None:
    """How ``value`` is computed, where it is written with the operators of a spelling."""
    if value is None:
        return None
    if is_constant(value):
        array = constant_array(value)
        return ("number", int(array.reshape(-1)[0])) if array.shape == (1,) else None
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Shape":
        start, end = (node.attributes[n].as_int() if n in node.attributes else None for n in ("start", "end"))
        return ("Shape", node.inputs[0], start or 0) if end == (start or 0) + 1 else None
    if node.op_type in ("Add", "Mul"):
        return (node.op_type, *(spelled(v) for v in node.inputs))
    return None


def emit(rewriter: Rewriter, size: Expr, before: ir.Node) -> ir.Value | None:
    """New nodes that compute ``size``; ``None`` where it has no spelling."""
    found = spelling(rewriter.model, size)
    return None if found is None else _emit(rewriter, found, before)


def _emit(rewriter: Rewriter, found: Spelling, before: ir.Node) -> ir.Value:
    match found:
        case ("number", number):
            return rewriter.constant(np.array([number], np.int64), "size")
        case ("Shape", source, axis):
            span = {"start": axis, "end": axis + 1}
            return rewriter.new("Shape", [source], before=before, attributes=span)
    operator, left, right = found
    operands = [_emit(rewriter, part, before) for part in (left, right)]
    return rewriter.new(operator, operands, before=before)
