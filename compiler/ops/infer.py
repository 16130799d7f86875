"""Shape inference: runs the shape rule of every node and writes types and known integers into the graph.

Entry points: :func:`infer_model` (the whole graph, anew), :func:`infer_node` (a node that a pass has just built) and
:func:`infer_body` (inside the function body of a fused node).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir
from tilewright.errors import CompileError, InternalError, UnsupportedError
from tilewright.ir import facts as model_facts
from tilewright.ir import graph
from tilewright.ir.late import late_symbols, record_node, set_late_symbols
from tilewright.ir.types import TensorType
from tilewright.ops.constraints import check_element_types
from tilewright.ops.context import Infer, Scope, Unsupported
from tilewright.ops.dimensions import Dimensions, Mismatch, Restart, followable
from tilewright.ops.problem import Problem, Survey
from tilewright.ops.registry import find_shape_rule

#: The nodes that a node was replaced by in its graph, or ``None``; raises :class:`Unsupported`.
Expand = Callable[[ir.Node, Scope], Sequence[ir.Node] | None]

#: Each restart solves or limits a dimension of the inputs; real models need a handful.
_RESTARTS = 256


# -- entry points --------------------------------------------------------------------------------------------------


def infer_model(model: ir.Model, expand: Expand | None = None, survey: Survey | None = None) -> None:
    """Compute the type of every value of ``model`` (and known integers), from the types of its inputs, anew.

    ``expand`` may replace a node by others when the types of its inputs are known; those are inferred in its place.
    May narrow or unify the dimensions of inputs (see :meth:`Infer.equal`); facts and assumptions are updated. Raises
    :class:`CompileError` (``shape-mismatch``) for a node that cannot work, :class:`UnsupportedError`
    (``unsupported-operators``) that lists everything without a rule; with ``survey`` that is told there instead, and
    nodes that could not be looked at keep no types.
    """
    if expand is None and survey is None:
        _require_rules(model)
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        graph.set_known_value(value, None)
    dimensions = Dimensions(model_facts.facts(model), _symbols_of_inputs(model))
    for _ in range(_RESTARTS):
        dimensions.late.clear()
        scope = Scope(model, dimensions)
        for value in model.graph.inputs:
            scope.types[value] = dimensions.rewrite_type(graph.type_of(value))
        problems: list[Problem] = []
        try:
            _infer_graph(model.graph, scope, problems, expand)
        except Restart:
            continue
        break
    else:
        raise unsupported_error([f"dimensions that limit one another more than {_RESTARTS} times"])
    if survey is not None:
        survey.problems += problems
        survey.skipped += [n for n in model.graph if any(v not in scope.types for v in n.outputs if v.name)]
    elif problems:
        raise unsupported_error(problems)
    _write_back(scope)
    set_late_symbols(model, dimensions.late)
    model_facts.set_facts(model, dimensions.facts)
    model_facts.set_assumptions(model, tuple(dimensions.assumptions))
    model_facts.set_notes(model, tuple(dict.fromkeys((*model_facts.notes(model), *dimensions.notes))))


def infer_node(model: ir.Model, node: ir.Node) -> None:
    """Compute the types of the outputs of ``node``, a node of ``model.graph`` whose inputs have types.

    For passes: call it on each node you build, in topological order. Raises like :func:`infer_model`.
    """
    dimensions = _fixed_dimensions(model)
    before = len(dimensions.assumptions)
    scope = Scope(model, dimensions)
    problems: list[Problem] = []
    _infer_into(node, scope, problems)
    if problems:
        raise unsupported_error(problems)
    for output in node.outputs:
        if output in scope.types:
            graph.set_type(output, scope.types[output])
            graph.set_known_value(output, scope.known.get(output))
    for value in node.inputs:
        if value in scope.known:  # its elements are read at run time from here on
            graph.set_known_value(value, scope.known[value])
    record_node(node, node in scope.late, scope.defined.get(node, {}))
    set_late_symbols(model, dimensions.late)
    if len(dimensions.assumptions) > before:
        model_facts.set_assumptions(model, tuple(dimensions.assumptions))
    model_facts.set_facts(model, dimensions.facts)


def infer_body(model: ir.Model, node: ir.Node) -> Scope:
    """Types (``scope.types``) and known integers of every value inside the function body of a fused ``node``.

    The body is shared by all its callers, so nothing is written into its values. Raises :class:`InternalError` when
    ``node`` has no body.
    """
    body = graph.body_of(model, node)
    if body is None:
        raise InternalError(f"{node.op_identifier()} has no function body")
    dimensions = _fixed_dimensions(model)
    problems: list[Problem] = []
    scope = _call(body, node, Scope(model, dimensions), problems)
    if problems:
        raise unsupported_error(problems)
    return scope


def verify_types(model: ir.Model) -> None:
    """Infer every type again and compare with what the graph says. Raises :class:`InternalError` for the first value
    that differs, and where an equality of sizes is needed that was never recorded.
    """
    recorded = model_facts.assumptions(model)
    dimensions = _fixed_dimensions(model)
    scope = Scope(model, dimensions)
    for value in model.graph.inputs:
        scope.types[value] = graph.type_of(value)
    problems: list[Problem] = []
    for node in model.graph:
        _infer_into(node, scope, problems)
        for value in node.outputs:
            found = scope.types.get(value)
            if found is not None and found != graph.type_of(value):
                raise InternalError(f"value {value.name!r} of {_operator(node)} is {found}, not {graph.type_of(value)}")
    if problems:
        raise InternalError(f"the graph has nodes without support: {problems}")
    if len(dimensions.assumptions) > len(recorded):
        raise InternalError(f"the graph relies on {dimensions.assumptions[-1]}, which is not recorded")


def unsupported_error(problems: Sequence[Problem | str], where: str = "model") -> UnsupportedError:
    """One error for all nodes that cannot be compiled."""
    lines = sorted(set(map(str, problems)))
    return UnsupportedError(
        "unsupported-operators",
        where=where,
        cause="not supported:\n    " + "\n    ".join(lines) + "\n ",
        fix="export the model with other operators (another opset, or the dynamo exporter), or remove these nodes",
        problems=tuple(lines),
    )


# -- inside --------------------------------------------------------------------------------------------------------


def _infer_graph(graph_: ir.Graph, scope: Scope, problems: list[Problem], expand: Expand | None) -> None:
    pending = list(reversed(graph_))
    while pending:
        node = pending.pop()
        if expand is not None and all(v is None or scope.type_of(v) is not None for v in node.inputs):
            try:
                nodes = expand(node, scope)
            except Unsupported as reason:
                problems.append(_problem(node, str(reason)))
                continue
            if nodes is not None:
                pending += reversed(nodes)
                continue
        _infer_into(node, scope, problems)


def _infer_into(node: ir.Node, scope: Scope, problems: list[Problem]) -> None:
    """Infer one node; on an unsupported use the outputs stay without type and what reads them is passed over."""
    if any(v is not None and scope.type_of(v) is None for v in node.inputs):
        if problems:
            return
        missing = next(v for v in node.inputs if v is not None and scope.type_of(v) is None)
        raise InternalError(f"input {missing.name!r} of node {node.name!r} has no type")
    ctx = Infer(node, scope)
    try:
        outputs = _run_rule(ctx, node, scope, problems)
    except Unsupported as reason:
        problems.append(_problem(node, str(reason)))
        return
    except Mismatch as reason:
        shapes = ", ".join(str(scope.type_of(v)) if v is not None else "-" for v in node.inputs)
        raise CompileError(
            "shape-mismatch",
            where=f"node {node.name or node.outputs[0].name!r}, {_operator(node)}({shapes})",
            cause=str(reason),
            fix="check the model with onnx.checker, and the sizes given with --input-shape",
        ) from None
    scope.defined[node] = ctx.defined
    if ctx.late:
        scope.late.add(node)
    for i, (value, tensor_type) in enumerate(zip(node.outputs, outputs, strict=False)):
        if tensor_type is not None:
            scope.types[value] = scope.dimensions.rewrite_type(tensor_type)
            if not followable(scope.types[value].shape):
                problems.append(_problem(node, "sizes too complicated to follow"))
                del scope.types[value]
                continue
            known = ctx.known_outputs.get(i)
            if known is not None:
                scope.known[value] = scope.dimensions.rewrite_known(known)
    largest = ctx.largest_output
    if largest is None and node.op_type in _SAME_ELEMENTS and node.inputs[0] is not None:
        largest = scope.largest.get(node.inputs[0])
    if largest is not None and followable([largest]):
        scope.largest[node.outputs[0]] = scope.dimensions.rewrite(largest)


#: The output holds elements of the first input and no others.
_SAME_ELEMENTS = set("Cast Expand Flatten Identity Reshape Slice Squeeze Tile Transpose Unsqueeze".split())


def _run_rule(ctx: Infer, node: ir.Node, scope: Scope, problems: list[Problem]) -> Sequence[TensorType | None]:
    body = graph.body_of(scope.model, node)
    if body is not None:
        inner = _call(body, node, scope, problems)
        ctx.known_outputs.update({i: inner.known[v] for i, v in enumerate(body.outputs) if v in inner.known})
        return [inner.type_of(v) for v in body.outputs]
    rule = find_shape_rule(node.domain, node.op_type)
    if rule is None:
        raise Unsupported("no such operator here")
    check_element_types(ctx)
    try:
        result = rule(ctx)
    except (ValueError, TypeError, IndexError, ArithmeticError, AttributeError) as error:
        raise Mismatch(f"inputs or attributes make no sense: {error}") from error
    return [result] if isinstance(result, TensorType) else list(result)


def _call(body: ir.Function, node: ir.Node, outer: Scope, problems: list[Problem]) -> Scope:
    attributes = {name: a for name, a in body.attributes.items() if a.value is not None}
    attributes |= {
        n: outer.attributes.get(a.ref_attr_name or "", a) if a.is_ref() else a for n, a in node.attributes.items()
    }
    scope = Scope(outer.model, outer.dimensions, attributes=attributes, is_body=True)
    for parameter, argument in zip(body.inputs, node.inputs, strict=False):
        if argument is not None:
            found = outer.type_of(argument)
            if found is not None:
                scope.types[parameter] = found
            known = outer.known_value(argument)
            if known is not None:
                scope.known[parameter] = known
    for inner in body:
        _infer_into(inner, scope, problems)
    return scope


def _require_rules(model: ir.Model) -> None:
    problems = [f"{_operator(n)} (node {n.name or n.outputs[0].name!r})" for n in _nodes_without_rule(model)]
    if problems:
        raise unsupported_error(problems)


def _nodes_without_rule(model: ir.Model) -> Iterator[ir.Node]:
    for container in (model.graph, *model.functions.values()):
        for node in container:
            if graph.body_of(model, node) is None and find_shape_rule(node.domain, node.op_type) is None:
                yield node


def _problem(node: ir.Node, reason: str) -> Problem:
    return Problem(_operator(node), str(node.name or node.outputs[0].name), reason)


def _operator(node: ir.Node) -> str:
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    origin = graph.origin_of(node)
    return name if origin is None else f"{name}, part of {origin}"


def _symbols_of_inputs(model: ir.Model) -> list[str]:
    return [s for v in model.graph.inputs for size in graph.type_of(v).shape for s in sorted(size.symbols)]


def _fixed_dimensions(model: ir.Model) -> Dimensions:
    """What was found out about ``model``, for a pass: nothing is solved or narrowed any more."""
    known, late = model_facts.facts(model), late_symbols(model)
    taken = _symbols_of_inputs(model)
    return Dimensions(known, [], list(model_facts.assumptions(model)), fixed=True, late=late, taken=taken)


def _write_back(scope: Scope) -> None:
    for value, tensor_type in scope.types.items():
        graph.set_type(value, scope.dimensions.rewrite_type(tensor_type))
    for value, known in scope.known.items():
        graph.set_known_value(value, known)
    for node, definitions in scope.defined.items():
        rewritten = {hint: scope.dimensions.rewrite(e) for hint, e in definitions.items()}
        record_node(node, node in scope.late, rewritten)
