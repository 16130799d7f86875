"""What of a model is supported on which target, before anything is compiled: :func:`check`.

The model is imported, optimized and lowered as :func:`tilewright.driver.compile` does it, but goes on where that stops:
a node without support is left out with all that reads its results, and the rest is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir
from tilewright.backends.base import GraphBackend, KernelBackend
from tilewright.build import refusals
from tilewright.definitions import graph_passes
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
from tilewright.passes.place import NEAR_HOST, near_host
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
    "program": "a part of a program, which the target's own compiler fuses",
    "host part": "kernels for the processor, which run between those of a device, or its programs",
}


#: In place of a way, for a node that reads what an unsupported one would make.
UNEXAMINED = "not examined"


@dataclass(frozen=True, slots=True)
class Issue:
    """Something unsupported, or left to a host part. ``target`` is empty where no target would help."""

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
        programs: the targets among ``targets`` that run programs.
        on_host: nodes that such a target, or one with memory of its own, leaves to its host part, as far as that can be
            told without compiling.
        host_allowed: whether that is supported, and not an error.
    """

    model: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    operators: tuple[OperatorRow, ...]
    issues: tuple[Issue, ...] = ()
    unexamined: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    on_host: tuple[Issue, ...] = ()
    host_allowed: bool = True

    @property
    def ok(self) -> bool:
        """Whether all of the model is supported on all targets."""
        return not self.issues and (self.host_allowed or not self.on_host)

    def unsupported(self, operator: str, target: str) -> int:
        """In how many nodes an operator is not supported on a target."""
        return sum(_operator_of(i) == operator and i.target in ("", target) for i in self.issues)

    def placed(self, operator: str, target: str) -> int:
        """In how many nodes an operator is left to the host part of a target."""
        return sum(_operator_of(i) == operator and i.target == target for i in self.on_host)

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
    inputs = tuple(f"{v.name}: {type_of(v)}" for v in graph.graph.inputs)
    graphed = [(b, t) for b, t in targets if isinstance(b, GraphBackend)]
    on_host: list[Issue] = []
    for backend, target in graphed:
        placed, refused = _placed(graph.clone(), options, backend, target)
        on_host += placed
        issues += refused
    if kernels := [(b, t) for b, t in targets if isinstance(b, KernelBackend)]:
        found = list(_lowered(graph, options, [_Side.of(b, t) for b, t in kernels]))
        issues += [issue for issue, on_host_part in found if not on_host_part]
        on_host += [issue for issue, on_host_part in found if on_host_part]
    return Checked(
        name_of(model),
        inputs,
        spellings,
        rows,
        tuple(dict.fromkeys(issues)),
        unexamined,
        tuple(t.spelling for _, t in graphed),
        tuple(dict.fromkeys(on_host)),
        options.fallback != "forbid",
    )


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


def _placed(
    graph: ir.Model, options: Options, backend: GraphBackend, target: Target
) -> tuple[list[Issue], list[Issue]]:
    """Nodes that a graph target leaves to its host part, after its passes; and those that nothing computes there."""
    try:
        passes = graph_passes(backend, target, options.level)
        run_pipeline(graph, passes, Observer(options.observe, lambda line: None))
    except UnsupportedError as error:
        texts = error.problems or (error.cause,)
        return [], [_issue(Problem("model", error.where, text), target.spelling) for text in texts]
    reasons: dict[ir.Node, str] = {}
    for node in graph.graph:
        support = backend.runs(graph, node, target)
        if not support.ok and not all(is_constant(o) for o in node.outputs):
            reasons[node] = support.reason
    refused = {n: made.cause.strip() for n, made in lower_nodes(graph) if isinstance(made, UnsupportedError)}
    reasons |= dict.fromkeys(near_host(graph, reasons.__contains__), NEAR_HOST)
    told = [(n in refused, Problem(_spelling(n), str(n.name), refused.get(n, why))) for n, why in reasons.items()]
    issues = [(off, _issue(problem, target.spelling)) for off, problem in told]
    return [i for off, i in issues if not off], [i for off, i in issues if off]


@dataclass(frozen=True, slots=True)
class _Side:
    """A target of kernels: why it does not run a step; the same of its host part, where it has one."""

    target: str
    refuses: Callable[[Run | Call], str]
    host: Callable[[Run | Call], str] | None

    @staticmethod
    def of(backend: KernelBackend, target: Target) -> _Side:
        """One that has memory of its own is scheduled: that tells as well what is left to the host."""
        if not backend.apart:
            return _Side(target.spelling, _supports(backend, target), None)
        ((beside, host),) = resolve_targets(Options((target.host,)), build=False)
        assert isinstance(beside, KernelBackend)
        return _Side(target.spelling, refusals(backend, target), _supports(beside, host))


def _supports(backend: KernelBackend, target: Target) -> Callable[[Run | Call], str]:
    def why(step: Run | Call) -> str:
        found = backend.supports(step.kernel if isinstance(step, Run) else step.routine, target)
        return "" if found.ok else found.reason or "it is not supported"

    return why


def _lowered(graph: ir.Model, options: Options, sides: Sequence[_Side]) -> Iterator[tuple[Issue, bool]]:
    """What has no lowering after the passes, or no code on a target; and whether its host part runs it."""
    try:
        run_pipeline(graph, default_pipeline(options.level), Observer(options.observe, lambda line: None))
    except UnsupportedError as error:
        texts = error.problems or (error.cause,)
        yield from ((_issue(Problem("model", error.where, text)), False) for text in texts)
        return
    for node, made in lower_nodes(graph):
        if isinstance(made, UnsupportedError):
            yield _issue(Problem(_spelling(node), str(node.name), made.cause.strip())), False
            continue
        for side in sides:
            for reason, on_host in _refusals(made, side):
                yield _issue(Problem(_spelling(node), str(node.name), reason), side.target), on_host


def _refusals(steps: Iterable[Step], side: _Side) -> Iterator[tuple[str, bool]]:
    for step in steps:
        if isinstance(step, Run | Call) and (reason := side.refuses(step)):
            beside = "" if side.host is None else side.host(step)
            yield (f"{reason}; {beside}", False) if beside else (reason, side.host is not None)


def _issue(problem: Problem, target: str = "") -> Issue:
    return Issue(problem.operator, problem.node, problem.reason, way_round(problem), target)


def _operator_of(issue: Issue) -> str:
    """The operator of the model that an issue belongs to: a definition's, for a node inside it."""
    return issue.operator.partition(" in the definition of ")[2].partition(" ")[0] or issue.operator


def _spelling(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
