"""Outlining: a set of nodes becomes one fused node whose function body is those nodes.

The body is the meaning of the node: the checker accepts it, the reference evaluator runs it, :func:`inline_fused` gives
the nodes back. Equal bodies are shared: the overload is a hash of the body's content, so it is also the same in every
build. Weights stay outside as inputs; scalar literals and structural integers (axes, shapes) live in the body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from tilewright.ir.graph import (
    FUSED_DOMAIN,
    body_of,
    constant_tensor,
    has_type,
    is_constant,
    layers_of,
    set_layers,
    set_type,
    type_of,
)
from tilewright.ir.late import is_late
from tilewright.ir.layout import Layout
from tilewright.ir.types import TensorType
from tilewright.ops.infer import infer_node
from tilewright.passes.fusion.order import Order
from tilewright.passes.rewrite import Rewriter, keep_known

#: First IR version with overloads of functions.
_IR_VERSION = 10
#: Integer constants of at most this many elements and one axis are axes, shapes, pads: structure, not data.
_STRUCTURAL = 16


def outline(
    rewriter: Rewriter,
    order: Order,
    nodes: Collection[ir.Node],
    op_type: str,
    *,
    outputs: Sequence[ir.Value],
    inputs: Sequence[ir.Value] = (),
    attributes: Mapping[str, Any] | None = None,
) -> ir.Node:
    """Replace ``nodes`` by one node ``ai.tilewright::op_type`` that computes ``outputs``.

    ``inputs`` come first in the order given; further ones follow in the order of their first use. The caller has asked
    :func:`obstacle`. ``attributes`` describe the body for whoever does not want to read it; the body must agree.
    """
    model = rewriter.model
    ordered = order.sorted(nodes)
    formal = _inputs(ordered, inputs)
    function = _function(model, ordered, op_type, formal, outputs, attributes or {})
    fused = _call(model, function, formal, ir.convenience.convert_attributes(attributes or {}), ordered[-1])
    for old, new in zip(outputs, fused.outputs, strict=True):
        new.name = old.name
        keep_known(old, new)
        if has_type(old):
            set_type(new, type_of(old))
        old.name = f"{old.name}__outlined"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    order.replace(ordered, fused)
    set_layers(fused, tuple(dict.fromkeys(name for n in ordered for name in layers_of(n))))
    return fused


def rearranged(
    rewriter: Rewriter, node: ir.Node, reads: Mapping[ir.Value, Layout], writes: Mapping[ir.Value, Layout]
) -> ir.Node:
    """A node after ``node`` that computes the same on values that lie in memory otherwise.

    ``node`` reads the values of ``reads`` already, as they lie; the outputs of the new node have the types of memory
    and no names yet. ``node`` itself stays, for the caller to remove.
    """
    model = rewriter.model
    body = body_of(model, node)
    given = [v for v in dict.fromkeys(node.inputs) if v is not None and (body is not None or not in_body(v))]
    if body is None:
        ordered, formal, results, op_type = [node], given, list(node.outputs), f"Fused{node.op_type}"
    else:
        given = [v for v in node.inputs if v is not None]
        ordered, formal, results, op_type = list(body), list(body.inputs), list(body.outputs), node.op_type
    layouts = {p: reads[v] for p, v in zip(formal, given, strict=True) if v in reads and not reads[v].is_identity}
    for result, output in zip(results, node.outputs, strict=True):
        if output in writes and not writes[output].is_identity:
            layouts[result] = writes[output]
    attributes = node.attributes if body is not None else {}
    function = _function(model, ordered, op_type, formal, results, attributes, layouts)
    new = _call(model, function, given, list(attributes.values()), node)
    for old, value in zip(node.outputs, new.outputs, strict=True):
        if has_type(old):
            layout, meant = writes.get(old), type_of(old)
            set_type(value, meant if layout is None else TensorType(meant.dtype, layout.of(meant.shape)))
    set_layers(new, layers_of(node))
    return new


def _call(
    model: ir.Model, function: ir.Function, given: Sequence[ir.Value], attributes: Sequence[ir.Attr], after: ir.Node
) -> ir.Node:
    """A node after ``after`` that calls ``function``, which the model gets unless it has the same one."""
    function = model.functions.setdefault(function.identifier(), function)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    model.opset_imports.setdefault(FUSED_DOMAIN, 1)
    node = ir.Node(
        FUSED_DOMAIN,
        function.name,
        given,
        attributes,
        overload=function.overload,
        num_outputs=len(function.outputs),
        name=after.name,
    )
    after.append(node)
    return node


def obstacle(order: Order, nodes: Collection[ir.Node], outputs: Collection[ir.Value]) -> str | None:
    """Why ``nodes`` may not become one node with ``outputs``: an escaping value, or a path that leaves and returns."""
    inside = set(nodes)
    exits: list[ir.Node] = []
    for node in nodes:
        if is_late(node):
            return f"the shape of {node.outputs[0].name} hangs on run-time values"
        for value in node.outputs:
            outside = any(use.node not in inside for use in value.uses())
            if (outside or value.is_graph_output()) and value not in outputs:
                return f"{value.name} is also read outside"
            exits += [reader for reader in order.readers(value) if reader not in inside]
    last = max(order.at(n) for n in nodes)
    for node in order.hanging(exits, last):
        back = next((r for o in node.outputs for r in order.readers(o) if r in inside), None)
        if back is not None:
            return f"a path leaves it and comes back at {back.outputs[0].name}"
    return None


def _inputs(ordered: Sequence[ir.Node], first: Sequence[ir.Value]) -> list[ir.Value]:
    """Formal inputs: ``first``, then what else the nodes read from outside and is not held in the body."""
    inside = {o for n in ordered for o in n.outputs}
    read = [v for n in ordered for v in n.inputs if v is not None and v not in inside and not in_body(v)]
    return [*first, *(v for v in dict.fromkeys(read) if v not in first)]


def in_body(value: ir.Value) -> bool:
    """True for constants that belong to the structure of a computation rather than to its data."""
    tensor = constant_tensor(value)
    if tensor is None or not is_constant(value):
        return False
    return tensor.size == 1 or (tensor.dtype.is_integer() and len(tensor.shape) <= 1 and tensor.size <= _STRUCTURAL)


def _function(
    model: ir.Model,
    ordered: Iterable[ir.Node],
    op_type: str,
    formal: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    attributes: Mapping[str, Any],
    layouts: Mapping[ir.Value, Layout] | None = None,
) -> ir.Function:
    """The body. Parameters and results of ``layouts`` lie in memory so, and are transposed to and from it."""
    layouts = layouts or {}
    parameters = [ir.val(f"x{i}") for i in range(len(formal))]
    mapping: dict[ir.Value, ir.Value] = {}
    body: list[ir.Node] = []
    for value, parameter in zip(formal, parameters, strict=True):
        if value in layouts and value not in mapping:
            body.append(_transpose(parameter, layouts[value].inverse, f"{parameter.name}_meant"))
            mapping[value] = body[-1].outputs[0]
        mapping.setdefault(value, parameter)
    names = {v: f"y{i}_meant" if v in layouts else f"y{i}" for i, v in enumerate(outputs)}
    for node in ordered:
        body += _literals(node.inputs, mapping)
        copy = _copy(node, mapping)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = names.get(old) or f"t{len(mapping)}"
            mapping[old] = new
        body.append(copy)
    results = [mapping[o] for o in outputs]
    for i, value in enumerate(outputs):
        if value in layouts:
            body.append(_transpose(results[i], layouts[value], f"y{i}"))
            results[i] = body[-1].outputs[0]
    graph = ir.Graph(parameters, results, nodes=body, opset_imports={"": model.opset_imports[""]}, name="body")
    declared = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in sorted(attributes)]
    function = ir.Function(FUSED_DOMAIN, op_type, graph=graph, attributes=declared)
    function.overload = _content(function)
    return function


def _transpose(x: ir.Value, layout: Layout, name: str) -> ir.Node:
    node = ir.Node("", "Transpose", [x], [ir.AttrInt64s("perm", layout.order)])
    node.outputs[0].name = name
    return node


def _literals(values: Iterable[ir.Value | None], mapping: dict[ir.Value, ir.Value]) -> list[ir.Node]:
    """Constant nodes for literals that the body does not have yet; extends ``mapping``."""
    made = []
    for value in values:
        if value is not None and value not in mapping:
            tensor = constant_tensor(value)
            assert tensor is not None
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(tensor.numpy()))])
            node.outputs[0].name = f"c{len(mapping)}"
            mapping[value] = node.outputs[0]
            made.append(node)
    return made


def _copy(node: ir.Node, mapping: Mapping[ir.Value, ir.Value]) -> ir.Node:
    inputs = [None if v is None else mapping[v] for v in node.inputs]
    attributes = [node.attributes[name] for name in sorted(node.attributes)]
    return ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs))


def _content(function: ir.Function) -> str:
    proto = ir.to_proto(function)
    assert isinstance(proto, onnx.FunctionProto)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()[:12]


# -- back ----------------------------------------------------------------------------------------------------------


def inline_fused(model: ir.Model, only: Collection[ir.Node] | None = None) -> None:
    """Put the bodies of fused nodes (all, or ``only`` these) back in their place; types are inferred for them."""
    rewriter = Rewriter(model)
    for node in list(model.graph):
        if node.domain == FUSED_DOMAIN and (only is None or node in only):
            _inline(node, rewriter)
    used = {n.op_identifier() for n in model.graph}
    for identifier in [i for i in model.functions if i[0] == FUSED_DOMAIN and i not in used]:
        del model.functions[identifier]


def _inline(node: ir.Node, rewriter: Rewriter) -> None:
    body = body_of(rewriter.model, node)
    assert body is not None
    mapping: dict[ir.Value, ir.Value | None] = dict(zip(body.inputs, node.inputs, strict=True))
    for inner in body:
        inputs = [None if v is None else mapping[v] for v in inner.inputs]
        copy = ir.Node(inner.domain, inner.op_type, inputs, inner.attributes.values(), num_outputs=len(inner.outputs))
        for old, new in zip(inner.outputs, copy.outputs, strict=True):
            new.name = rewriter.unique(f"{node.outputs[0].name}_{old.name}")
            mapping[old] = new
        copy.name = copy.outputs[0].name
        set_layers(copy, layers_of(node))
        node.prepend(copy)
        infer_node(rewriter.model, copy)
    for old, formal in zip(list(node.outputs), body.outputs, strict=True):
        result = mapping[formal]
        assert result is not None
        rewriter.replace(old, result)
