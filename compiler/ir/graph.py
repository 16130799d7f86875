"""The graph is an ``onnx_ir.Model``: typed ways to ask it what passes, lowering and planning need to know.

The type of a value is kept where ONNX keeps it, in ``value.type`` and ``value.shape``; a symbolic size is a
``dim_param`` that holds the printed expression (``P + S``). So there is one truth, every state is a legal ONNX file,
and a state that was written and read again has the same types. Integer values that are known while compiling
(``Shape`` → ``Gather`` → ``Concat`` → ``Reshape``) are side data in ``value.meta``;
:func:`tilewright.ops.infer.infer_model` computes both anew.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.parse import parse
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType, TensorType

#: An array (dtype object) of :class:`Expr`.
Known = np.ndarray[Any, Any]

#: Domain of fused operators, whose meaning is the function body they carry.
FUSED_DOMAIN = "ai.tilewright"

#: Tensors with more elements than this are never treated as known integers: shapes are short.
KNOWN_LIMIT = 1024

_KNOWN = "tilewright.known"
_ORIGIN = "tilewright.origin"
_LAYERS = "tilewright.layers"


# -- types ---------------------------------------------------------------------------------------------------------


def has_type(value: ir.Value) -> bool:
    """True when element type, rank and every size of ``value`` are known in our terms."""
    if value.dtype is None or value.shape is None or value.dtype.value not in _ONNX_CODES:
        return False
    try:
        type_of(value)
    except (InternalError, ValueError):
        return False
    return True


def type_of(value: ir.Value) -> TensorType:
    """Element type and symbolic shape of ``value``.

    Raises :class:`InternalError` when inference has not been here: every value of an imported graph has a type, and
    whoever inserts a node calls :func:`tilewright.ops.infer.infer_node` on it.
    """
    if value.dtype is None or value.shape is None:
        raise InternalError(f"value {value.name!r} has no type: infer_node was not called on its producer")
    return TensorType(DType.from_onnx(value.dtype.value), tuple(_size(d) for d in value.shape))


def set_type(value: ir.Value, tensor_type: TensorType) -> None:
    """Record the type of ``value``, symbolic sizes as printed expressions."""
    value.type = ir.TensorType(ir.DataType(tensor_type.dtype.onnx))
    value.shape = ir_shape(tensor_type.shape)


def ir_shape(shape: tuple[Expr, ...]) -> ir.Shape:
    """The ``onnx_ir`` shape that prints ``shape``."""
    return ir.Shape([s.value if s.is_constant else str(s) for s in shape])


_ONNX_CODES = {d.onnx for d in DType}
_parse = lru_cache(maxsize=16384)(parse)


def _size(dim: int | ir.SymbolicDim) -> Expr:
    if isinstance(dim, int):
        return constant(dim)
    if dim.value is None:
        raise InternalError("an unknown size in a graph that was imported")
    return _parse(dim.value)


# -- constants and known integers ----------------------------------------------------------------------------------


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of a ``Constant`` node; ``None`` for what is computed or given as an input."""
    if value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return _constant_node_tensor(node)


def is_constant(value: ir.Value) -> bool:
    """True when the elements of ``value`` are in the model."""
    return constant_tensor(value) is not None


def constant_array(value: ir.Value) -> np.ndarray[Any, Any]:
    """The elements of a constant, read-only; mapped from the model's files where they came from one.

    Raises :class:`InternalError` when ``value`` is computed.
    """
    tensor = constant_tensor(value)
    if tensor is None:
        raise InternalError(f"value {value.name!r} is not a constant")
    return np.asarray(tensor.numpy())


def known_value(value: ir.Value) -> Known | None:
    """The elements of an integer or boolean tensor as an array of :class:`Expr` (dtype object), where they are known.

    Booleans are 0 and 1. Known are short constants and whatever shape inference could follow.
    """
    known = value.meta.get(_KNOWN)
    if known is not None:
        return known  # type: ignore[no-any-return]
    tensor = constant_tensor(value)
    if tensor is None:
        return None
    if tensor.size > KNOWN_LIMIT or not _is_integral(tensor.dtype):
        return None
    known = expressions(np.asarray(tensor.numpy()))
    value.meta[_KNOWN] = known
    return known


def set_known_value(value: ir.Value, known: Known | None) -> None:
    """Record (or, with ``None``, forget) the symbolic elements of ``value``."""
    if known is None:
        value.meta.pop(_KNOWN, None)
    else:
        value.meta[_KNOWN] = known


def expressions(array: np.ndarray[Any, Any]) -> Known:
    """An array of integers or expressions as an array of :class:`Expr` of the same shape."""
    known = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        element = array[index]
        known[index] = element if isinstance(element, Expr) else constant(int(element))
    return known


def _is_integral(dtype: ir.DataType) -> bool:
    if dtype.value not in _ONNX_CODES:
        return False
    d = DType.from_onnx(dtype.value)
    return d.is_integer or d is DType.BOOL


_CONSTANT_SCALARS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return attribute.as_tensor()
        if name in _CONSTANT_SCALARS:
            return ir.tensor(np.array(attribute.value, dtype=_CONSTANT_SCALARS[name]))
    return None


# -- structure -----------------------------------------------------------------------------------------------------


def body_of(model: ir.Model, node: ir.Node) -> ir.Function | None:
    """The function body of ``node`` when the model carries one (fused operators do)."""
    return model.functions.get(node.op_identifier())


def origin_of(node: ir.Node) -> str | None:
    """The operator of the model that ``node`` is a part of, where an operator was replaced by its definition."""
    return node.meta.get(_ORIGIN)


def set_origin(node: ir.Node, origin: str) -> None:
    """Record the operator that ``node`` is a part of, as messages are to name it."""
    node.meta[_ORIGIN] = origin


def layers_of(node: ir.Node) -> tuple[str, ...]:
    """The layers (names of nodes before fusion) that ``node`` computes, where :func:`set_layers` said so."""
    return node.meta.get(_LAYERS, ())  # type: ignore[no-any-return]


def set_layers(node: ir.Node, names: tuple[str, ...]) -> None:
    """Record which layers ``node`` computes: fused nodes keep those of what they are made of."""
    if names:
        node.meta[_LAYERS] = names


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """The distinct nodes that read ``value``, in the order of first use. A graph output is not a node: see
    ``value.is_graph_output()``.
    """
    return tuple(dict.fromkeys(use.node for use in value.uses()))


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The single node that reads ``value``, when nothing else does and it is no graph output."""
    readers = consumers(value)
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None
