"""Is a graph state legal? ONNX's checker, and what this compiler promises beyond it.

A failure is a bug of the pass that ran last, so it is an :class:`InternalError`. That the types are also *right* is
checked by :func:`tilewright.ops.infer.verify_types`, which knows the shape rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.facts import facts
from tilewright.ir.graph import has_type, type_of
from tilewright.ir.layout import verify_layouts

#: Larger initializers are not handed to the checker, which would copy them.
_LARGE_BYTES = 1024


def verify(model: ir.Model) -> None:
    """Raise :class:`InternalError` unless ``model`` passes ``onnx.checker``, every value has a type, every constant has
    the type of its tensor, every dimension symbol is either bounded in the facts or not used, and every recorded layout
    is the one that is used.
    """
    with _without_weights(model):
        proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise InternalError(f"the graph is not valid ONNX: {str(error).strip()}") from error
    known = facts(model).keys()
    for value in _values(model):
        if not has_type(value):
            raise InternalError(f"value {value.name!r} has no type")
        inferred = type_of(value)
        unknown = {s for size in inferred.shape for s in size.symbols} - known
        if unknown:
            raise InternalError(f"value {value.name!r} {inferred} uses {sorted(unknown)}, which no fact bounds")
        tensor = value.const_value
        if tensor is not None and value.is_initializer():
            actual = (tensor.dtype.value, tuple(tensor.shape.numpy()))
            if actual != (inferred.dtype.onnx, tuple(s.value if s.is_constant else None for s in inferred.shape)):
                raise InternalError(f"initializer {value.name!r} is {tensor.dtype}{actual[1]}, declared {inferred}")
    verify_layouts(model)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from (v for v in node.outputs if v.name)


@contextmanager
def _without_weights(model: ir.Model) -> Iterator[None]:
    """Declare large initializers as inputs while the block runs."""
    graph = model.graph
    large = [
        v for v in graph.initializers.values() if v.const_value is not None and v.const_value.nbytes > _LARGE_BYTES
    ]
    order = list(graph.initializers.values())
    present = set(graph.inputs)
    for value in large:
        del graph.initializers[value.name or ""]
        if value not in present:
            graph.inputs.append(value)
    try:
        yield
    finally:
        for value in large:
            if value not in present:
                graph.inputs.remove(value)
        for value in order:  # all of them, so that their order stays as it was
            graph.initializers.pop(value.name or "", None)
        for value in order:
            graph.register_initializer(value)
