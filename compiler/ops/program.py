"""From a whole graph to kernels: one step a node, views for what only reshapes, nothing for what is unread."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import body_of, is_constant
from tilewright.kernel.tile import Kernel
from tilewright.ops.infer import unsupported_error
from tilewright.ops.lower import has_lowering, lower

#: Operators that keep row-major order: their result is the same memory under another shape or element type.
VIEWS = frozenset("BitCast Dropout Flatten Identity Reshape Squeeze Unsqueeze".split())


@dataclass(frozen=True, slots=True)
class View:
    """``result`` is the memory of ``source``."""

    source: ir.Value
    result: ir.Value


@dataclass(frozen=True, slots=True)
class Run:
    """A kernel on graph values, in the order of its parameters."""

    kernel: Kernel
    values: tuple[ir.Value, ...]
    node: ir.Node


Step = View | Run


def lower_graph(model: ir.Model) -> tuple[Step, ...]:
    """Steps in execution order. Raises one :class:`UnsupportedError` that names every node without a lowering."""
    needed = {v for v in model.graph.outputs if v is not None}
    steps: list[Step] = []
    problems: list[str] = []
    for node in reversed(list(model.graph)):
        if not any(o in needed for o in node.outputs) or all(is_constant(o) for o in node.outputs):
            continue
        step = _view(model, node, needed) or _run(model, node, problems)
        if step is None:
            needed.update(v for v in node.inputs if v is not None)  # what comes before it is to be named as well
            continue
        steps.append(step)
        needed.update([step.source] if isinstance(step, View) else step.values)
    if problems:
        raise unsupported_error(problems)
    return tuple(reversed(steps))


def _view(model: ir.Model, node: ir.Node, needed: Collection[ir.Value]) -> View | None:
    """The node as a view of its first input, if it is one and nobody reads what else it has (the mask of a Dropout)."""
    if node.op_type not in VIEWS or body_of(model, node) is not None or node.domain not in ("", "ai.onnx"):
        return None
    if any(o in needed for o in node.outputs[1:]):
        return None
    source = node.inputs[0]
    assert source is not None
    return View(source, node.outputs[0])


def _run(model: ir.Model, node: ir.Node, problems: list[str]) -> Run | None:
    """The node as a kernel; when there is no way, why not is added to ``problems``."""
    if not has_lowering(model, node):
        problems.append(f"{node.op_type}: no lowering to a kernel (node {node.name!r})")
        return None
    try:
        lowered = lower(model, node)
    except UnsupportedError as error:
        problems.extend(error.problems)
        return None
    return Run(lowered.kernel, lowered.values, node)
