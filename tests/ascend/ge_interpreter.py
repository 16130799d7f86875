"""GE graphs read and computed in NumPy: by what GE's pages say of its operators, knowing nothing of the exporter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Array = np.ndarray[Any, Any]

#: Element types of messages, and of GE's enumeration in attributes.
PROTO = dict(zip(range(1, 13), "f4 f2 i1 u1 i2 u2 i4 i8 u4 u8 ? f8".split(), strict=True))
ENUM = {0: "f4", 1: "f2", 2: "i1", 3: "i4", 4: "u1", 6: "i2", 7: "u2", 8: "u4", 9: "i8", 10: "u8", 11: "f8", 12: "?"}


def dtype_of(number: int, table: Mapping[int, str]) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if number == 27 else np.dtype(table[number])


def model_class(serialized: bytes) -> Any:
    """The class ``ModelDef`` of a serialized file descriptor."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(serialized)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ge.proto.ModelDef"))


def descriptor_of(fields: Mapping[str, Mapping[str, tuple[int, str]]], repeated: set[tuple[str, str]]) -> bytes:
    """A file descriptor of messages as a table of the exporter has them, to read with protobuf itself."""
    kinds = {"int": 3, "float": 2, "bytes": 12, "text": 9}
    file = descriptor_pb2.FileDescriptorProto(name="ge.proto", package="ge.proto", syntax="proto3")
    for name, own in fields.items():
        message = file.message_type.add(name=name)
        for field, (number, form) in own.items():
            label = 3 if (name, field) in repeated else 1
            made = message.field.add(name=field, number=number, label=label, type=kinds.get(form, 11))
            if form not in kinds:
                made.type_name = f".ge.proto.{form}"
    return bytes(file.SerializeToString())


def run(model: Any, feed: Mapping[str, Array], entries: Callable[[Any], Mapping[str, Any]]) -> list[Array]:
    """The outputs of a graph; ``entries`` gives the attributes of an operator by name."""
    values: dict[str, Array] = {}
    (graph,) = model.graph
    for op in graph.op:
        attributes = entries(op)
        if op.type == "Data":
            values[f"{op.name}:0"] = feed[op.name]
            continue
        if op.type == "Const":
            tensor = attributes["value"].t
            dtype = dtype_of(tensor.desc.dtype, PROTO)
            values[f"{op.name}:0"] = np.frombuffer(tensor.data, dtype).reshape(list(tensor.desc.shape.dim))
            continue
        if op.type == "NetOutput":
            return [values[source] for source in op.input]
        inputs = [values[source] if source else None for source in op.input]
        results = OPERATORS[op.type](inputs, attributes)
        results = results if isinstance(results, list) else [results]
        for index, (result, desc) in enumerate(zip(results, op.output_desc, strict=False)):
            assert np.asarray(result).dtype == dtype_of(desc.dtype, PROTO), (op.name, op.type)
            sizes = list(desc.shape.dim)
            assert all(want in (-1, n) for want, n in zip(sizes, np.shape(result), strict=True)), (op.name, sizes)
            values[f"{op.name}:{index}"] = np.asarray(result)
    raise AssertionError("there is no NetOutput")


def _ints(attributes: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return tuple(attributes[name].list.i) if name in attributes else ()


def _int(attributes: Mapping[str, Any], name: str, default: int) -> int:
    return int(attributes[name].i) if name in attributes else default


def _windows(x: Array, kernel: Sequence[int], a: Mapping[str, Any], fill: float) -> Array:
    """Windows as the last two axes."""
    top, bottom, left, right = _ints(a, "pads")
    _, _, down, along = _ints(a, "strides")
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return view[:, :, ::down, ::along]


def _conv(i: list[Any], a: Mapping[str, Any]) -> Array:
    x, w, *rest = i
    assert a["data_format"].s == b"NCHW" and _ints(a, "dilations") == (1, 1, 1, 1)
    groups, view = _int(a, "groups", 1), _windows(x, w.shape[2:], a, 0)
    parts = zip(np.split(view, groups, 1), np.split(w, groups, 0), strict=True)
    y = np.concatenate([np.einsum("nchwyx,ocyx->nohw", v, k, optimize=True) for v, k in parts], 1)
    return (y + rest[0].reshape(1, -1, 1, 1) if rest and rest[0] is not None else y).astype(x.dtype)


def _max_pool(i: list[Any], a: Mapping[str, Any]) -> Array:
    assert a["padding_mode"].s == b"CALCULATED" and not a["ceil_mode"].b
    return _windows(i[0], _ints(a, "ksize")[2:], a, -np.inf).max((-2, -1))


def _matmul(left: str, right: str) -> Callable[[list[Any], Mapping[str, Any]], Array]:
    def product(i: list[Any], a: Mapping[str, Any]) -> Array:
        x, y = i[:2]
        x = x.swapaxes(-1, -2) if left in a and a[left].b else x
        y = y.swapaxes(-1, -2) if right in a and a[right].b else y
        found = np.matmul(x, y)
        return found + i[2] if len(i) > 2 and i[2] is not None else found

    return product


def _reduce(function: Any) -> Callable[[list[Any], Mapping[str, Any]], Array]:
    def reduced(i: list[Any], a: Mapping[str, Any]) -> Array:
        keep = bool(a["keep_dims"].b) if "keep_dims" in a else False
        return np.asarray(function(i[0], axis=tuple(map(int, i[1])), keepdims=keep)).astype(i[0].dtype)

    return reduced


def _layer_norm(i: list[Any], a: Mapping[str, Any]) -> list[Array]:
    x, gamma, beta = i
    begin = _int(a, "begin_norm_axis", 0) % x.ndim
    axes = tuple(range(begin, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return [((x - mean) / np.sqrt(variance + a["epsilon"].f) * gamma + beta).astype(x.dtype)]


def _rms_norm(i: list[Any], a: Mapping[str, Any]) -> list[Array]:
    x, gamma = i
    axes = tuple(range(x.ndim - gamma.ndim, x.ndim))
    return [(x / np.sqrt((x * x).mean(axes, keepdims=True) + a["epsilon"].f) * gamma).astype(x.dtype)]


def _softmax(i: list[Any], a: Mapping[str, Any]) -> Array:
    axes = _ints(a, "axes")
    e = np.exp(i[0] - i[0].max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


def _slice(i: list[Any], a: Mapping[str, Any]) -> Array:
    x, begin, end, *rest = i
    axes = rest[0] if rest and rest[0] is not None else range(len(begin))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else [1] * len(begin)
    cut = [slice(None)] * x.ndim
    for axis, b, e, s in zip(axes, begin, end, steps, strict=True):
        cut[int(axis)] = slice(int(b), int(e), int(s))
    return x[tuple(cut)]


def _concat(i: list[Any], a: Mapping[str, Any]) -> Array:
    *parts, axis = i
    assert _int(a, "N", 0) == len(parts)
    return np.concatenate(parts, int(axis))


def _split(i: list[Any], a: Mapping[str, Any]) -> list[Array]:
    x, sizes, axis = i
    assert len(sizes) == _int(a, "num_split", 0)
    return list(np.split(x, np.cumsum(sizes)[:-1], int(axis)))


def _scatter(i: list[Any], a: Mapping[str, Any]) -> Array:
    data, indices, updates = i
    found = data.copy()
    np.put_along_axis(found, indices, updates, _int(a, "axis", 0))
    return found


def _squeeze(i: list[Any], a: Mapping[str, Any]) -> Array:
    return i[0].squeeze(_ints(a, "axis") or None)


def _gelu(i: list[Any], a: Mapping[str, Any]) -> Array:
    x = i[0]
    if a["approximate"].s == b"tanh":
        return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))).astype(x.dtype)
    return (0.5 * x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / np.sqrt(2)))).astype(x.dtype)


def _average_pool(i: list[Any], a: Mapping[str, Any]) -> Array:
    assert a["exclusive"].b and not any(_ints(a, "pads"))
    return _windows(i[0], _ints(a, "ksize")[2:], a, 0).mean((-2, -1))


def _pad(i: list[Any], a: Mapping[str, Any]) -> Array:
    assert not a["paddings_contiguous"].b and a["mode"].s == b"constant"
    return np.pad(i[0], i[1].reshape(2, -1).T)  # all before, then all after


def _cumsum(i: list[Any], a: Mapping[str, Any]) -> Array:
    assert not a["exclusive"].b
    axis = int(i[1])
    return np.flip(np.flip(i[0], axis).cumsum(axis), axis) if a["reverse"].b else i[0].cumsum(axis)


def _top_k(i: list[Any], a: Mapping[str, Any]) -> list[Array]:
    assert a["largest"].b and a["sorted"].b
    axis = _int(a, "dim", -1)
    order = np.argsort(-i[0], axis, kind="stable").take(range(int(i[1].reshape(()))), axis)
    return [np.take_along_axis(i[0], order, axis), order.astype(np.int32)]


def _range(i: list[Any], a: Mapping[str, Any]) -> Array:
    start, limit, delta = (v.reshape(()) for v in i)
    return np.arange(start, limit, delta, dtype=i[0].dtype)


OPERATORS: Mapping[str, Callable[[list[Any], Mapping[str, Any]], Any]] = {
    "ArgMaxV2": lambda i, a: np.argmax(i[0], int(i[1])),
    "ArgMin": lambda i, a: np.argmin(i[0], int(i[1])),
    "AvgPoolV2": _average_pool,
    "Cumsum": _cumsum,
    "Div": lambda i, a: np.trunc(i[0] / i[1]).astype(i[0].dtype),
    "Fill": lambda i, a: np.full(tuple(i[0]), i[1]),
    "Maximum": lambda i, a: np.maximum(i[0], i[1]),
    "PadV3": _pad,
    "TopKV2": _top_k,
    "Tril": lambda i, a: np.tril(i[0], _int(a, "diagonal", 0)),
    "Add": lambda i, a: i[0] + i[1],
    "BatchMatMulV2": _matmul("adj_x1", "adj_x2"),
    "BroadcastTo": lambda i, a: np.broadcast_to(i[0], tuple(i[1])),
    "Cast": lambda i, a: i[0].astype(dtype_of(_int(a, "dst_type", 0), ENUM)),
    "ClipByValue": lambda i, a: np.clip(i[0], i[1], i[2]),
    "ConcatV2": _concat,
    "Conv2D": _conv,
    "Cos": lambda i, a: np.cos(i[0]),
    "Expand": lambda i, a: np.broadcast_to(i[0], np.broadcast_shapes(i[0].shape, tuple(i[1]))),
    "GatherV2": lambda i, a: np.take(i[0], i[1], int(i[2])),
    "GeluV2": _gelu,
    "LayerNorm": _layer_norm,
    "LessEqual": lambda i, a: i[0] <= i[1],
    "LogicalAnd": lambda i, a: i[0] & i[1],
    "MatMulV2": _matmul("transpose_x1", "transpose_x2"),
    "MaxPoolV3": _max_pool,
    "Mul": lambda i, a: i[0] * i[1],
    "Range": _range,
    "RealDiv": lambda i, a: i[0] / i[1],
    "ReduceMean": _reduce(np.mean),
    "Relu": lambda i, a: np.maximum(i[0], 0),
    "Reshape": lambda i, a: i[0].reshape(tuple(i[1])),
    "RmsNorm": _rms_norm,
    "ScatterElements": _scatter,
    "SelectV2": lambda i, a: np.where(i[0], i[1], i[2]),
    "Shape": lambda i, a: np.array(i[0].shape, dtype_of(_int(a, "dtype", 3), ENUM)),
    "Sin": lambda i, a: np.sin(i[0]),
    "SoftmaxV2": _softmax,
    "SplitV": _split,
    "Squeeze": _squeeze,
    "StridedSliceV2": _slice,
    "Sub": lambda i, a: i[0] - i[1],
    "Swish": lambda i, a: (i[0] / (1 + np.exp(-a["scale"].f * i[0]))).astype(i[0].dtype),
    "Tanh": lambda i, a: np.tanh(i[0]),
    "Transpose": lambda i, a: i[0].transpose(tuple(i[1])),
    "Unsqueeze": lambda i, a: np.expand_dims(i[0], _ints(a, "axes")),
}
