"""Import: an ONNX model of any usual opset becomes one canonical graph with a type for every value.

The order matters. Local functions are inlined before the version converter runs, which silently drops them; the weights
are taken out before anything native sees the graph, which keeps it below protobuf's 2 GB and the weights mapped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Union

import onnx_ir as ir
from tilewright.errors import CompileError
from tilewright.frontend.canonical import CANONICAL_OPSET, canonical_proto
from tilewright.frontend.constants import bind_constants
from tilewright.frontend.expand import Expander
from tilewright.frontend.files import ExternalFolder, ModelFile
from tilewright.frontend.input_shapes import InputShapes, apply_input_shapes, name_dimensions
from tilewright.frontend.weights import take_weights
from tilewright.frontend.wire import WireError, split_weights
from tilewright.ir.given import set_constant_inputs
from tilewright.ir.graph import FUSED_DOMAIN
from tilewright.ir.types import DType
from tilewright.ops.infer import infer_model, unsupported_error
from tilewright.ops.problem import Survey
from tilewright.options import ConstantInput

if TYPE_CHECKING:
    import onnx

Source = Union[str, "os.PathLike[str]", "onnx.ModelProto"]

__all__ = ["CANONICAL_OPSET", "Source", "import_model"]

#: How files that are not models begin, and what they are.
_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint or a Tilewright artifact?)",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with git lfs pull",
    b"\x80\x02": "a Python pickle (a PyTorch checkpoint?)",
    b"\x89HDF": "an HDF5 file (a Keras model?)",
    b"{": "JSON",
    b"<": "XML or HTML: was a web page saved instead of the model?",
}


def import_model(
    source: Source,
    input_shapes: InputShapes | None = None,
    *,
    constants: Mapping[str, ConstantInput] | None = None,
    every_shape: bool = True,
    survey: Survey | None = None,
) -> ir.Model:
    """The canonical graph of ``source``, an ONNX file or a ``ModelProto`` (which is not changed).

    ``input_shapes`` gives sizes per input, see :data:`~tilewright.frontend.input_shapes.InputShapes`; those of inputs
    that the model lacks are left alone unless ``every_shape`` must fit. ``constants`` are inputs that become
    initializers; those that the model lacks are left alone. In the result
    every value has a type whose symbols are the named dimensions of the inputs (sizes that depend on run-time values
    have symbols of their own); weights are mapped from the files. Raises :class:`CompileError` (codes ``not-a-model``,
    ``model-truncated``, ``invalid-model``, ``external-data-…``, ``shape-mismatch`` …), :class:`UnsupportedError` that
    lists all nodes without support, and :class:`UsageError` for the file and the shapes. With ``survey`` what is not
    supported is told there instead, as far as it can be seen.
    """
    where, proto, mapped, folder = _read(source)
    try:
        weights = take_weights(proto.graph, mapped, folder, where)
        return import_proto(
            proto, weights, input_shapes or {}, where, constants=constants, every_shape=every_shape, survey=survey
        )
    except UnicodeDecodeError:
        raise _invalid(where, "a name is not UTF-8") from None
    except RecursionError:
        raise _invalid(where, "expressions or graphs are nested too deeply") from None


def input_names(source: Source) -> list[str]:
    """Names of a model's inputs, read without importing it. Raises what :func:`import_model` does for the file."""
    _, proto, mapped, _ = _read(source)
    weights = {w.name for w in proto.graph.initializer}
    del mapped
    return [v.name for v in proto.graph.input if v.name not in weights]


def operators(source: Source) -> frozenset[str]:
    """Types of a model's operators, of its functions and subgraphs as well, read without importing it."""
    _, proto, mapped, _ = _read(source)
    pending = [n for body in (proto.graph, *proto.functions) for n in body.node]
    found = set()
    while pending:
        node = pending.pop()
        found.add(node.op_type)
        graphs = [g for a in node.attribute for g in (a.g, *a.graphs)]
        pending += [n for g in graphs for n in g.node]
    del mapped
    return frozenset(found)


def import_proto(
    proto: onnx.ModelProto,
    weights: Mapping[str, ir.TensorProtocol],
    shapes: InputShapes,
    where: str,
    *,
    constants: Mapping[str, ConstantInput] | None = None,
    every_shape: bool = True,
    survey: Survey | None = None,
) -> ir.Model:
    """The canonical graph of a message (which is used up) and of the initializers that were taken out of it.

    ``where`` names the model in errors, which are those of :func:`import_model`.
    """
    positions = {v.name: i for i, v in enumerate(proto.graph.input)}
    bound = bind_constants(proto, constants or {})
    if not every_shape:
        own = {v.name for v in proto.graph.input}
        shapes = {name: sizes for name, sizes in shapes.items() if name in own}
    placeholders = {n: (t.dtype.value, tuple(t.shape.numpy())) for n, t in weights.items()}
    ranks = {n: len(sizes) for n, sizes in shapes.items()}
    proto = canonical_proto(proto, placeholders, ranks, where, every_operator=survey is None)
    model = _deserialized(proto, where)
    _restore(model, weights)
    _tidy(model)
    _require_element_types(model, where)
    set_constant_inputs(model, bound, positions)
    name_dimensions(model)
    apply_input_shapes(model, shapes)
    infer_model(model, Expander(model), survey)
    return model


def _read(source: Source) -> tuple[str, onnx.ModelProto, dict[int, memoryview], ExternalFolder | None]:
    import onnx

    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return "model in memory", copy, {}, None
    file = ModelFile(source)
    where = str(file.path)
    data = file.data
    for magic, what in _OTHER_FILES.items():
        if bytes(data[: len(magic)]) == magic:
            raise _no_model(where, f"it is {what}")
    try:
        skeleton, mapped = split_weights(data)
    except WireError as error:
        if error.progressed:
            raise CompileError(
                "model-truncated",
                where=where,
                cause=f"{error}; the file has {len(data)} bytes",
                fix="copy or download the model again",
            ) from None
        raise _no_model(where, str(error) if data else "the file is empty") from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except Exception as error:  # protobuf's DecodeError, whose module differs between its versions
        raise _no_model(where, str(error)) from None
    return where, proto, mapped, ExternalFolder(file.path)


def _deserialized(proto: onnx.ModelProto, where: str) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except (ir.serde.SerdeError, TypeError, ValueError) as error:
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise _invalid(where, f"{str(reason)[:200]}") from error


def _restore(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Turn the inputs that stood for weights into initializers again."""
    for value in list(model.graph.inputs):
        tensor = weights.get(value.name or "")
        if tensor is not None:
            model.graph.inputs.remove(value)
            value.const_value = tensor
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            model.graph.register_initializer(value)


def _tidy(model: ir.Model) -> None:
    """Constants as initializers, nothing that no output needs, a name for every node."""
    from onnx_ir.passes import common

    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.NameFixPass()(model)
    model.opset_imports.setdefault("", CANONICAL_OPSET)
    if model.functions:
        model.opset_imports.setdefault(FUSED_DOMAIN, 1)
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.shape = ir.Shape(value.const_value.shape.numpy())
            value.type = ir.TensorType(value.const_value.dtype)


def _require_element_types(model: ir.Model, where: str) -> None:
    known = {d.onnx for d in DType}
    problems = [
        f"element type {v.dtype.name if v.dtype is not None else v.type} (of {v.name!r})"
        for v in [*model.graph.inputs, *model.graph.initializers.values()]
        if not isinstance(v.type, ir.TensorType) or v.dtype is None or v.dtype.value not in known
    ]
    if problems:
        raise unsupported_error(problems, where)


def _no_model(where: str, cause: str) -> CompileError:
    return CompileError(
        "not-a-model", where=where, cause=cause, fix="give an ONNX file, as torch.onnx.export writes it"
    )


def _invalid(where: str, cause: str) -> CompileError:
    return CompileError("invalid-model", where=where, cause=cause, fix="export the model again")
