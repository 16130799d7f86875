"""The function body of an operator as a small model of its own: attributes bound, at the opset that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from tilewright.ir.types import TensorType
from tilewright.ops.context import Unsupported

if TYPE_CHECKING:
    import onnx


def has_definition(domain: str, operator: str, opset: int) -> bool:
    """Whether the standard defines an operator by others, at ``opset`` of its domain."""
    schema = _schema(domain, operator, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def definition_of(
    node: ir.Node, types: Sequence[TensorType | None], opsets: Mapping[str, int]
) -> onnx.ModelProto | None:
    """What ``node`` stands for, or ``None`` where the standard does not say.

    Inputs and outputs of the model are those of the operator, as many outputs as the node has; an input that the node
    leaves out is not read. ``types`` are those of the node's inputs. Raises
    :class:`~tilewright.ops.context.Unsupported` when the definition cannot be brought to the opset of ``opsets``.
    """
    import onnx

    opset = opsets[""]
    schema = _schema(node.domain, node.op_type, opset if node.domain in ("", "ai.onnx") else opsets[node.domain])
    if schema is None:
        return None
    proto = ir.to_proto(node)
    assert isinstance(proto, onnx.NodeProto)
    function = _function(schema, proto, types)
    if function is None:
        return None
    own = next((o.version for o in function.opset_import if o.domain in ("", "ai.onnx")), opset)
    model = _model(function, schema, proto, types, own)
    return model if own == opset or not _changed(model.graph.node, own, opset) else _converted(model, own, opset)


def _schema(domain: str, operator: str, opset: int) -> Any:  # onnx's stubs do not tell the half of OpSchema
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, opset, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _function(schema: Any, node: onnx.NodeProto, types: Sequence[TensorType | None]) -> onnx.FunctionProto | None:
    """The body for the newest opset that there is one for; nodes of the graph are as new or newer."""
    import onnx

    data = b""
    if schema.has_function:
        data = schema.get_function_with_opset_version(max(schema.function_opset_versions))
    elif schema.has_context_dependent_function:
        given = [_type_proto(t).SerializeToString() for t in types]
        newest = max(schema.context_dependent_function_opset_versions)
        data = schema.get_context_dependent_function_with_opset_version(newest, node.SerializeToString(), given)
    return onnx.FunctionProto.FromString(data) if data else None


def _type_proto(type_: TensorType | None) -> onnx.TypeProto:
    import onnx
    from onnx import helper

    if type_ is None:
        return onnx.TypeProto()
    return helper.make_tensor_type_proto(type_.dtype.onnx, [s.value if s.is_constant else str(s) for s in type_.shape])


def _model(
    function: onnx.FunctionProto,
    schema: Any,
    node: onnx.NodeProto,
    types: Sequence[TensorType | None],
    opset: int,
) -> onnx.ModelProto:
    from onnx import helper

    attributes = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    attributes |= {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
    given = [*types, *[None] * (len(function.input) - len(types))]
    absent = {name for name, type_ in zip(function.input, given, strict=True) if type_ is None}
    _bind(function.node, attributes, absent)
    inputs = [
        helper.make_value_info(name, _type_proto(type_))
        for name, type_ in zip(function.input, given, strict=True)
        if type_ is not None
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in function.output[: len(node.output)]]
    graph = helper.make_graph(function.node, function.name or node.op_type, inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _bind(nodes: Iterable[onnx.NodeProto], attributes: Mapping[str, onnx.AttributeProto], absent: set[str]) -> None:
    """Attributes that refer to those of the call get their values; inputs that the call leaves out are left out."""
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in absent:
                node.input[i] = ""
        bound = [b for a in node.attribute if (b := _bound(a, attributes)) is not None]
        for attribute in bound:
            _bind((n for g in (attribute.g, *attribute.graphs) for n in g.node), attributes, absent)
        del node.attribute[:]
        node.attribute.extend(bound)


def _bound(attribute: onnx.AttributeProto, attributes: Mapping[str, onnx.AttributeProto]) -> onnx.AttributeProto | None:
    """``attribute``, or what it refers to under its name; ``None`` where the call has no such attribute."""
    if not attribute.ref_attr_name:
        return attribute
    found = attributes.get(attribute.ref_attr_name)
    if found is None:
        return None
    copy = type(attribute)()
    copy.CopyFrom(found)
    copy.name = attribute.name
    return copy


def _changed(nodes: Iterable[onnx.NodeProto], old: int, new: int) -> bool:
    """Whether an operator of the body was given a new version between two opsets."""
    for node in nodes:
        if node.domain in ("", "ai.onnx"):
            before, after = _schema("", node.op_type, old), _schema("", node.op_type, new)
            if before is None or after is None or before.since_version != after.since_version:
                return True
        if any(_changed(g.node, old, new) for a in node.attribute for g in (a.g, *a.graphs)):
            return True
    return False


def _converted(model: onnx.ModelProto, old: int, new: int) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, new)
    except (RuntimeError, IndexError, ValueError, TypeError, version_converter.ConvertError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise Unsupported(f"its definition, of opset {old}, cannot be converted to opset {new}: {reason}") from None
