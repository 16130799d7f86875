"""What of a model is supported on which target, before anything is compiled: :func:`check`.

The model is imported, optimized and lowered as :func:`tilewright.driver.compile` does it, but goes on where that stops:
a node without support is left out with all that reads its results, and the rest is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir
from tilewright.backends.base import Backend, KernelBackend
from tilewright.entries import Model, name_of
from tilewright.errors import UnsupportedError
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import is_constant, origin_of, type_of
from tilewright.observe import Observer
from tilewright.ops.lower import has_lowering
from tilewright.ops.problem import Problem, Survey
from tilewright.ops.program import VIEWS, Call, Run, Step, lower_nodes
from tilewright.ops.steps import program_of
from tilewright.options import Options
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.selection import resolve_targets
from tilewright.target import Target
from tilewright.ways import REWRITTEN, way_round

#: How a node is computed, and what that means.
WAYS = {
    "kernel": "generated code, fused with its neighbours where that pays",
    "routine": "a routine in C",
    "view": "no code: the same memory under another shape",
    "compile time": "computed while compiling",
    "function body": "the operators that the ONNX standard defines it by",
    "rewritten": "replaced by other operators at import or by a pass",
}


#: In place of a way, for a node that reads what an unsupported one would make.
UNEXAMINED = "not examined"


@dataclass(frozen=True, slots=True)
class Issue:
    """Something unsupported. ``target`` is empty where no target would help."""

    operator: str
    node: str
    reason: str
    way_round: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """An operator of the model: in how many nodes, and the ways of computing them (:data:`WAYS`) with their counts."""

    operator: str
    nodes: int
    ways: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Checked:
    """What :func:`check` found.

    Attributes:
        model: its name. inputs: as ``name: type``.
        targets: spellings.
        operators: one row an operator, by name.
        issues: everything unsupported that could be seen.
        unexamined: nodes (``Op 'name'``) that read what an unsupported node would make.
    """

    model: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    operators: tuple[OperatorRow, ...]
    issues: tuple[Issue, ...] = ()
    unexamined: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all of the model is supported on all targets."""
        return not self.issues

    def unsupported(self, operator: str, target: str) -> int:
        """In how many nodes an operator is not supported on a target."""
        return sum(_operator_of(i) == operator and i.target in ("", target) for i in self.issues)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as ``--json`` has it."""
        return asdict(self) | {"ok": self.ok}


def check(model: Model, options: Options | None = None) -> Checked:
    """Which operators of ``model`` the targets of ``options`` support, and how each is computed; nothing is built.

    Raises :class:`~tilewright.errors.CompileError` for an invalid model and :class:`~tilewright.errors.UsageError`, as
    compiling does; what is not supported is told in the result.
    """
    options = options or Options()
    targets = resolve_targets(options, build=False)
    spellings = tuple(t.spelling for _, t in targets)
    survey = Survey()
    try:
        shapes = dict(options.input_shapes)
        graph = model if isinstance(model, ir.Model) else import_model(model, shapes, survey=survey)
    except UnsupportedError as error:  # what the import cannot go past
        stopped = [_issue(Problem("model", error.where, text)) for text in error.problems or (error.cause,)]
        return Checked(name_of(model), (), spellings, (), tuple(stopped))
    issues = [_issue(p) for p in survey.problems]
    failing = {p.node for p in survey.problems}
    after = [n for n in survey.skipped if n.name not in failing]
    rows = tuple(_rows(graph, set(after)))
    unexamined = tuple(f"{n.op_type} {n.name!r}" for n in after)
    _leave_out(graph, survey.skipped)
    issues += _lowered(graph, options, targets)
    inputs = tuple(f"{v.name}: {type_of(v)}" for v in graph.graph.inputs)
    return Checked(name_of(model), inputs, spellings, rows, tuple(dict.fromkeys(issues)), unexamined)


def _rows(graph: ir.Model, unexamined: set[ir.Node]) -> Iterator[OperatorRow]:
    """A row for each operator of the model as it was given; those that were expanded are one again."""
    ways: dict[str, Counter[str]] = {}
    bodies: set[str] = set()
    for node in graph.graph:
        origin = origin_of(node)
        if origin is None:
            way = UNEXAMINED if node in unexamined else way_of(graph, node)
            ways.setdefault(_spelling(node), Counter())[way] += 1
        elif origin not in bodies:
            bodies.add(origin)
            operator = origin.partition(" ")[0]
            ways.setdefault(operator, Counter())["rewritten" if "::" in operator else "function body"] += 1
    for operator in sorted(ways):
        yield OperatorRow(operator, ways[operator].total(), dict(ways[operator].most_common()))


def way_of(graph: ir.Model, node: ir.Node) -> str:
    """How a node of an imported graph is computed: a key of :data:`WAYS`."""
    if node.outputs and all(is_constant(o) for o in node.outputs):
        return "compile time"
    if node.domain in ("", "ai.onnx") and node.op_type in VIEWS:
        return "view"
    if program_of(node) is not None:
        return "routine"
    if node.domain in ("", "ai.onnx") and node.op_type in REWRITTEN:
        return "rewritten"
    return "kernel" if has_lowering(graph, node) else "rewritten"


def _leave_out(graph: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Take nodes out of a graph; what they read from others, and no one else may, is made an output."""
    gone = set(nodes)
    outputs = [v for v in graph.graph.outputs if v.producer() not in gone]
    for node in graph.graph:
        if node not in gone:
            outputs += [v for v in node.outputs if v not in outputs and any(u.node in gone for u in v.uses())]
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(dict.fromkeys(outputs))
    graph.graph.remove(list(reversed(list(nodes))), safe=True)


def _lowered(graph: ir.Model, options: Options, targets: Sequence[tuple[Backend, Target]]) -> Iterator[Issue]:
    """What has no lowering after the passes, or no code on a target."""
    try:
        run_pipeline(graph, default_pipeline(options.level), Observer(options.observe, lambda line: None))
    except UnsupportedError as error:
        yield from (_issue(Problem("model", error.where, text)) for text in error.problems or (error.cause,))
        return
    for node, made in lower_nodes(graph):
        if isinstance(made, UnsupportedError):
            yield _issue(Problem(_spelling(node), str(node.name), made.cause.strip()))
            continue
        for backend, target in targets:
            if not isinstance(backend, KernelBackend):
                continue
            for reason in _refusals(made, backend, target):
                yield _issue(Problem(_spelling(node), str(node.name), reason), target.spelling)


def _refusals(steps: Iterable[Step], backend: KernelBackend, target: Target) -> Iterator[str]:
    for step in steps:
        if isinstance(step, Run | Call):
            support = backend.supports(step.kernel if isinstance(step, Run) else step.routine, target)
            if not support.ok:
                yield support.reason


def _issue(problem: Problem, target: str = "") -> Issue:
    return Issue(problem.operator, problem.node, problem.reason, way_round(problem), target)


def _operator_of(issue: Issue) -> str:
    """The operator of the model that an issue belongs to: a definition's, for a node inside it."""
    return issue.operator.partition(" in the definition of ")[2].partition(" ")[0] or issue.operator


def _spelling(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
