"""From a whole graph to kernels: one step a node, views for what only reshapes, nothing for what is unread."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import onnx_ir as ir
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import body_of, is_constant, known_value
from tilewright.ir.late import defined, is_late, late_symbols, live_symbols
from tilewright.ops.infer import unsupported_error
from tilewright.ops.lower import has_lowering, lower, unsupported
from tilewright.ops.steps import Call, Program, Read, Run, Step, View, program_of

__all__ = ["Call", "Read", "Run", "Step", "View", "lower_graph", "lower_nodes", "values_of"]

#: Operators that keep row-major order: their result is the same memory under another shape or element type.
VIEWS = frozenset("BitCast Dropout Flatten Identity Reshape Squeeze Unsqueeze".split())


def lower_graph(model: ir.Model) -> tuple[Step, ...]:
    """Steps in execution order. Raises one :class:`UnsupportedError` that names every node without a lowering."""
    steps: list[Step] = []
    problems: list[str] = []
    for _, made in lower_nodes(model):
        if isinstance(made, UnsupportedError):
            problems += made.problems
        else:
            steps += reversed(made)
    if problems:
        raise unsupported_error(problems)
    return tuple(reversed(steps))


def lower_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, list[Step] | UnsupportedError]]:
    """What each node becomes that an output needs, or why there is no way; from the last node to the first."""
    needed = {v for v in model.graph.outputs if v is not None}
    # What sizes are read from, though no kernel may read it.
    carriers = _carriers(model)
    needed.update(carriers[s] for s in live_symbols(model) if s in carriers)
    for node in reversed(list(model.graph)):
        if not any(o in needed for o in node.outputs) or all(is_constant(o) for o in node.outputs):
            continue
        made: list[Step] = []
        try:
            made = _steps(model, node, needed)
            yield node, made
        except UnsupportedError as error:
            yield node, error
        # Where there is no way, what comes before the node is to be named as well.
        needed.update(v for v in node.inputs if v is not None and not made)
        needed.update(v for step in made for v in values_of(step))


def _carriers(model: ir.Model) -> dict[str, ir.Value]:
    """For each symbol that is read from a tensor, the first value that has it among its elements; for each size that a
    program finds, a result of its node."""
    late, found = late_symbols(model), dict[str, ir.Value]()
    for node in model.graph if late else ():
        for e in defined(node).values():
            if str(e) in late and late[str(e)].is_size:
                found.setdefault(str(e), node.outputs[0])
    for value in (v for node in model.graph for v in node.outputs) if late else ():
        known = None if is_constant(value) else known_value(value)
        for element in () if known is None else known.flat:
            if str(element) in late:
                found.setdefault(str(element), value)
    return found


def _steps(model: ir.Model, node: ir.Node, needed: Collection[ir.Value]) -> list[Step]:
    """What the node becomes. Raises :class:`UnsupportedError` when there is no way."""
    view = _view(model, node, needed)
    if view is not None:
        return [view]
    rule = program_of(node)
    if rule is None:
        return [_run(model, node)]
    program = Program(model, node, partial(_run, model, node))
    rule(program)
    return program.steps


def values_of(step: Step) -> tuple[ir.Value, ...]:
    """What a step reads and writes; of a view, what it reads."""
    match step:
        case View(source=source):
            return (source,)
        case Read(value=value):
            return (value,)
    return step.values


def _view(model: ir.Model, node: ir.Node, needed: Collection[ir.Value]) -> View | None:
    """The node as a view of its first input, if it is one and nobody reads what else it has (the mask of a Dropout)."""
    if node.op_type not in VIEWS or body_of(model, node) is not None or node.domain not in ("", "ai.onnx"):
        return None
    if any(o in needed for o in node.outputs[1:]) or (is_late(node) and program_of(node) is not None):
        return None
    source = node.inputs[0]
    assert source is not None
    return View(source, node.outputs[0])


def _run(model: ir.Model, node: ir.Node) -> Run:
    """The node as a kernel. Raises :class:`UnsupportedError` when there is no way."""
    if not has_lowering(model, node):
        raise unsupported(node, "no lowering to a kernel")
    lowered = lower(model, node)
    return Run(lowered.kernel, lowered.values, node)
