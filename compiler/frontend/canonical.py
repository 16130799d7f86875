"""The steps that bring a model to the canonical form while it is still a protobuf message without weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from tilewright.errors import CompileError
from tilewright.frontend import contrib
from tilewright.frontend.blocks import is_block_operator
from tilewright.frontend.control import CONTROL_FLOW
from tilewright.frontend.definition import has_definition
from tilewright.frontend.legacy import park, unpark
from tilewright.ir.graph import FUSED_DOMAIN
from tilewright.ops.infer import unsupported_error
from tilewright.ops.registry import find_shape_rule

if TYPE_CHECKING:
    import onnx

#: The opset of the graph: the first that has every operator the passes build (Gelu 20, RMSNormalization and
#: RotaryEmbedding 23, Attention with its later fixes and Swish 24), and that ONNX Runtime runs. A model of a newer
#: opset keeps its own, since converters only go up reliably.
CANONICAL_OPSET = 24

#: The first IR version with overloaded functions, which fused operators are.
IR_VERSION = 10

#: The converter turns these into operators that have rules.
_CONVERTED = {"Upsample", "Scatter"}

#: Nodes after inlining; a few kilobytes of nested functions could otherwise stand for billions.
_NODE_LIMIT = 1_000_000

#: What a weight is while it is away: element type and shape.
Placeholder = tuple[int, tuple[int, ...]]


def canonical_proto(
    proto: onnx.ModelProto,
    weights: Mapping[str, Placeholder],
    ranks: Mapping[str, int],
    where: str,
    *,
    every_operator: bool = True,
) -> onnx.ModelProto:
    """Inline, check and convert ``proto`` (changed in place or replaced); ``weights`` are inputs in the result.

    ``ranks`` tells how many axes an input has where the model does not. Operators that nothing is known of are errors
    unless ``every_operator`` is false.

    Raises :class:`CompileError` (``invalid-model``, ``opset-unsupported``, ``model-too-large``) and
    :class:`~tilewright.errors.UnsupportedError`.
    """
    import onnx
    from onnx import inliner, version_converter

    version = _opset(proto, where)
    _hide_weights(proto, weights)
    _give_ranks(proto, ranks)
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    convert = version < CANONICAL_OPSET
    _require_text(proto, where)
    _check_functions(proto, where)
    _check(proto, where)
    if every_operator:
        require_operators(proto, where)
    _require_inner(proto, version, where)
    _require_sizes(proto, where)
    kept = [] if convert else [(f.domain, f.name) for f in proto.functions if f.domain == FUSED_DOMAIN]
    try:
        if len(kept) < len(proto.functions):
            proto = inliner.inline_selected_functions(proto, kept, exclude=True)
            _check(proto, where)  # a call may ask a function for more than it gives
        if convert:
            park(proto, version, where)
            proto = version_converter.convert_version(proto, CANONICAL_OPSET)
            unpark(proto)
    except (RuntimeError, IndexError, ValueError, TypeError, version_converter.ConvertError) as error:
        raise CompileError(
            "opset-unsupported",
            where=where,
            cause=f"converting opset {version} to {CANONICAL_OPSET} failed: {_first_line(error)}",
            fix=f"export the model with opset 18 to {onnx.defs.onnx_opset_version()}",
        ) from None
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    return proto


def require_operators(proto: onnx.ModelProto, where: str) -> None:
    """Raise one error for all operators that nothing is known of, those of local functions and subgraphs included."""
    functions = {(f.domain, f.name) for f in proto.functions}
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    opsets[""] = max(opsets.get("", 0), CANONICAL_OPSET)
    problems: dict[str, list[str]] = {}
    for node in _nodes([proto.graph, *proto.functions]):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) in functions or (not domain and node.op_type in _CONVERTED | CONTROL_FLOW):
            continue
        if contrib.is_expanded(domain, node.op_type) or is_block_operator(domain, node.op_type):
            continue
        opset = opsets.get(domain, 0)
        if find_shape_rule(domain, node.op_type) is None and not has_definition(domain, node.op_type, opset):
            name = f"{domain}::{node.op_type}" if domain else node.op_type
            problems.setdefault(name, []).append(node.name or (node.output[0] if node.output else "?"))
    if problems:
        reasons = {f"{contrib.DOMAIN}::{name}": f": {reason}" for name, reason in contrib.REFUSED.items()}
        lines = [f"{name} ({len(at)}: {_listed(at)}){reasons.get(name, '')}" for name, at in problems.items()]
        raise unsupported_error(lines, where)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (" …" if len(names) > 3 else "")


def _nodes(containers: Iterable[onnx.GraphProto | onnx.FunctionProto]) -> Iterator[onnx.NodeProto]:
    """Every node, those of graphs inside nodes included."""
    for container in containers:
        for node in container.node:
            yield node
            if node.attribute:
                yield from _nodes(g for a in node.attribute for g in (a.g, *a.graphs))


def _require_text(proto: onnx.ModelProto, where: str) -> None:
    """Names that are not UTF-8 arrive as bytes, which nothing after this expects."""
    texts: list[str] = []
    for node in _nodes([proto.graph, *proto.functions]):
        texts += (node.op_type, node.domain, node.name, *node.input, *node.output, *(a.name for a in node.attribute))
    for value in (*proto.graph.input, *proto.graph.output):
        texts += (value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim))
    for text in texts:
        if not isinstance(text, str):
            raise CompileError(
                "invalid-model", where=where, cause=f"the name {text!r} is not UTF-8", fix="export the model again"
            )


def _require_inner(proto: onnx.ModelProto, opset: int, where: str) -> None:
    """What is inside nodes: no data in other files, and loops as they are since opset 9."""
    import onnx

    for node in _nodes([proto.graph, *proto.functions]):
        at = f"{where}: node {node.name or (node.output[0] if node.output else '?')!r}"
        if opset < 9 and node.op_type == "Scan" and node.domain in ("", "ai.onnx"):
            raise unsupported_error([f"Scan of opset {opset}, which scans a batch at once ({at})"], where)
        graphs = [g for a in node.attribute for g in (a.g, *a.graphs)]
        tensors = [t for a in node.attribute for t in (a.t, *a.tensors)]
        tensors += [t for g in graphs for t in g.initializer]
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
            raise CompileError(
                "external-data-unsafe",
                where=at,
                cause="only the weights of the graph may be in another file, not what is inside a node",
                fix="save the model with convert_attribute=False",
            )


def _require_sizes(proto: onnx.ModelProto, where: str) -> None:
    """No negative sizes: native code that is used after this ends the process on them."""
    inner = [g for n in _nodes([proto.graph, *proto.functions]) for a in n.attribute for g in (a.g, *a.graphs)]
    for graph in (proto.graph, *inner):
        for value in (*graph.input, *graph.output, *graph.value_info):
            sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
            if min(sizes, default=0) < 0:
                raise CompileError(
                    "invalid-model",
                    where=f"{where}: {value.name!r}",
                    cause=f"negative size in {sizes}",
                    fix="export the model again",
                )


def _opset(proto: onnx.ModelProto, where: str) -> int:
    import onnx

    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if not versions and proto.opset_import and all(n.domain not in ("", "ai.onnx") for n in _nodes([proto.graph])):
        proto.opset_import.add(version=CANONICAL_OPSET)  # nothing in it is of that domain
        return CANONICAL_OPSET
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not 1 <= versions[0] <= newest:
        raise CompileError(
            "opset-unsupported",
            where=where,
            cause=f"it asks for opset {versions[0]}" if len(versions) == 1 else "it does not name one ONNX opset",
            fix=f"export the model with opset 7 to {newest}",
        )
    return int(versions[0])


def _hide_weights(proto: onnx.ModelProto, weights: Mapping[str, Placeholder]) -> None:
    """Declare the weights as inputs, so that the graph stays valid without them; drop stale types."""
    from onnx import helper

    del proto.graph.value_info[:]
    constant = set(weights) | {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constant]
    inputs += [helper.make_tensor_value_info(n, dtype, shape) for n, (dtype, shape) in weights.items()]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)


def _give_ranks(proto: onnx.ModelProto, ranks: Mapping[str, int]) -> None:
    for value in proto.graph.input:
        if not _lacks_shape(value):
            continue
        if value.name not in ranks:
            raise CompileError(
                "input-rank-unknown",
                where=f"input {value.name!r}",
                cause="the model does not say how many axes it has",
                fix=f"give its shape: --input-shape {value.name}:1x3x224x224",
            )
        value.type.tensor_type.shape.SetInParent()
        for _ in range(ranks[value.name]):
            value.type.tensor_type.shape.dim.add()


def _check(proto: onnx.ModelProto, where: str) -> None:
    import onnx

    # The checker wants a shape on outputs, which inference does not need.
    shapeless = [o.type.tensor_type for o in proto.graph.output if _lacks_shape(o)]
    for tensor_type in shapeless:
        tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        require_operators(proto, where)  # the checker stops at the first operator it does not know
        raise CompileError(
            "invalid-model",
            where=where,
            cause=_first_line(error),
            fix="export the model again; onnx.checker.check_model says more",
        ) from None
    for tensor_type in shapeless:
        tensor_type.ClearField("shape")


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Refuse functions that call themselves or multiply beyond reason."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    active: list[tuple[str, str, str]] = []

    def expanded(container: onnx.GraphProto | onnx.FunctionProto) -> int:
        total = 0
        for node in _nodes([container]):
            key = (node.domain, node.op_type, node.overload)
            total += size(key) if key in functions else 1
        return total

    def size(key: tuple[str, str, str]) -> int:
        if key in active:
            raise CompileError(
                "invalid-model",
                where=f"{where}: function {key[0]}::{key[1]}",
                cause="it calls itself",
                fix="export the model again",
            )
        if key not in sizes:
            active.append(key)
            sizes[key] = expanded(functions[key])
            active.pop()
        return sizes[key]

    count = expanded(proto.graph)
    if max(count, *sizes.values(), 0, 0) > _NODE_LIMIT:
        raise CompileError(
            "model-too-large",
            where=where,
            cause=f"{count} nodes with its functions inlined, of at most {_NODE_LIMIT}",
            fix="export the model without nested functions",
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
