"""``fold-index-tensors``: gathers and comparisons with tensors that only count positions.

    GatherND(mask: [B,S], [[b, s] at (b, 0, 0, s)])   →  Unsqueeze(mask, [1, 2])
    the same where positions run over T of the S      →  Unsqueeze(Slice(mask, 0, T), [1, 2])
    Gather(Reshape(mask, [-1]), b·S + s)              →  the same
    Range(0, S, 1) >= 0                               →  Expand(True)

The mask code of current transformers exports to these, with as many spellings as there are exporters.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.facts import Assumption, assumptions, facts, set_assumptions
from tilewright.ir.graph import type_of
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, minimum, product, symbol
from tilewright.passes.base import Miss
from tilewright.passes.index_values import compare_positions, index_formula, position
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.sizes import emit, spelling
from tilewright.passes.views import VIEWS, Shape, view

_COMPARE = frozenset(["GreaterOrEqual", "Greater", "LessOrEqual", "Less", "Equal"])


class FoldIndexTensors(RewritePass):
    """A gather by position is a view, a comparison of positions a constant."""

    name: ClassVar[str] = "fold-index-tensors"
    operators: ClassVar[frozenset[str]] = _COMPARE | {"Gather", "GatherND"}

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if node.op_type in _COMPARE:
            return _fold_compare(node, rewriter)
        x, indices = required(node, 0), required(node, 1)
        if node.op_type == "GatherND":
            if "batch_dims" in node.attributes and node.attributes["batch_dims"].as_int():
                return False
            formulas = _columns(indices, type_of(x).rank)
            return False if formulas is None else _as_view(node, x, formulas, rewriter)
        if "axis" in node.attributes and node.attributes["axis"].as_int() != 0:
            return False
        formula = index_formula(indices)
        source = _unflattened(x)
        if formula is None or not _positions(formula) or source is None:
            return False
        formulas = _unravel(formula, type_of(source).shape)
        if formulas is None:
            return Miss.at(node, f"index {formula} does not run over {type_of(source)}")
        return _as_view(node, source, formulas, rewriter)


def _fold_compare(node: ir.Node, rewriter: Rewriter) -> bool:
    a, b = (index_formula(v) if v is not None else None for v in node.inputs[:2])
    if (
        a is None
        or b is None
        or any(
            _positions(f) and type_of(v).shape != type_of(node.outputs[0]).shape and type_of(v).rank
            for f, v in zip((a, b), node.inputs, strict=True)
            if v
        )
    ):
        return False
    outcome = compare_positions(node, a, b, facts(rewriter.model))
    shape = _shape(node, rewriter) if outcome is not None else None
    if shape is None:
        return False
    scalar = rewriter.constant(np.array(outcome), "always")
    rewriter.replace(node.outputs[0], rewriter.new("Expand", [scalar, shape], before=node))
    return True


def _shape(node: ir.Node, rewriter: Rewriter) -> ir.Value | None:
    """The shape of the output: of an operand that has it, or put together from sizes of inputs."""
    wanted = type_of(node.outputs[0]).shape
    carrier = next((v for v in node.inputs if v is not None and type_of(v).shape == wanted), None)
    if carrier is not None:
        return rewriter.new("Shape", [carrier], before=node)
    if not wanted or any(spelling(rewriter.model, size) is None for size in wanted):
        return None
    sizes = [emit(rewriter, size, node) for size in wanted]
    return rewriter.new("Concat", sizes, before=node, attributes={"axis": 0})


def _positions(formula: Expr) -> list[str]:
    return [s for s in formula.symbols if s.startswith("_i") and s[2:].isdigit()]


def _columns(indices: ir.Value, rank: int) -> list[Expr] | None:
    """Formulas of the last axis of a Concat of ``rank`` columns."""
    node = indices.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != rank:
        return None
    last = type_of(indices).rank - 1
    if node.attributes["axis"].as_int() not in (-1, last):
        return None
    formulas = []
    for column in node.inputs:
        formula = index_formula(column) if column is not None and type_of(column).shape[-1] == 1 else None
        if formula is None or position(last) in formula.symbols:
            return None
        formulas.append(formula)
    return formulas


def _unflattened(x: ir.Value) -> ir.Value | None:
    """What a view made flat (one axis, others 1); ``x`` itself when it is not a view and has one axis."""
    shape = type_of(x).shape
    if any(s != 1 for s in shape[1:]):
        return None
    node = x.producer()
    source = node.inputs[0] if node is not None and node.op_type in VIEWS else None
    return source if source is not None else x


def _unravel(formula: Expr, shape: Shape) -> list[Expr] | None:
    """Split ``i0·S + i3`` into one position per axis of ``shape``, when each axis is stepped by its stride."""
    wanted: list[Expr] = []
    rest = formula
    for axis in range(len(shape)):
        stride = product(shape[axis + 1 :])
        found = next((p for p in sorted(_positions(rest)) if _linear(rest, p) == stride), None)
        if found is None:
            return None
        wanted.append(symbol(found))
        rest = rest - stride * symbol(found)
    return wanted if rest == 0 else None


def _linear(formula: Expr, name: str) -> Expr | None:
    try:
        return formula.coefficient(name)
    except ValueError:
        return None


def _as_view(node: ir.Node, x: ir.Value, formulas: list[Expr], rewriter: Rewriter) -> bool | Miss:
    """``output[…] = x[i_a, i_b, …]`` with ascending axes that run over all of ``x``: a view."""
    output = type_of(node.outputs[0]).shape
    axes = [next((a for a in range(len(output)) if f == symbol(position(a))), None) for f in formulas]
    chosen = [a for a in axes if a is not None]
    if len(chosen) != len(axes) or chosen != sorted(set(chosen)):
        return Miss.at(node, f"indices {', '.join(map(str, formulas))} do not ascend through the output's axes")
    if any(size != 1 for axis, size in enumerate(output) if axis not in chosen):
        return Miss.at(node, "it also repeats along axes that no index runs over")
    target = list(output)
    for axis, size in enumerate(type_of(x).shape):
        if output[chosen[axis]] != size:
            cut = _first(node, x, axis, output[chosen[axis]], rewriter)
            if cut is None:
                return Miss.at(node, f"the indices do not run over all of {type_of(x)}")
            x = cut
            target[chosen[axis]] = type_of(x).shape[axis]
    new = view(rewriter, x, tuple(target), before=node)
    if new is None:
        return Miss.at(node, "the view needs two sizes that only a run knows")
    rewriter.replace(node.outputs[0], new)
    return True


def _first(node: ir.Node, x: ir.Value, axis: int, wanted: Expr, rewriter: Rewriter) -> ir.Value | None:
    """The first ``wanted`` elements of ``x`` along ``axis``; ``None`` where it never has as many.

    Where only a run knows whether it has, that becomes an assumption, which the plan asserts: a gather beyond the end
    would be an error as well.
    """
    if bounds(type_of(x).shape[axis] - wanted, facts(rewriter.model))[1] < 0:
        return None
    end = emit(rewriter, wanted, node)
    if end is None:
        return None
    zero, where = (rewriter.constant(np.array([v], np.int64), "integers") for v in (0, axis))
    least = minimum(wanted, type_of(x).shape[axis])
    if least not in (wanted, type_of(x).shape[axis]):
        needed = Assumption(wanted, least, f"{node.op_type} {node.name!r}")
        known = assumptions(rewriter.model)
        if needed not in known:
            set_assumptions(rewriter.model, (*known, needed))
    return rewriter.new("Slice", [x, zero, end, where], before=node)
