"""Initializers of a model as tensors: mapped from its files where they are large, and checked before use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from tilewright.errors import CompileError
from tilewright.frontend.files import ExternalFolder
from tilewright.frontend.wire import KEPT_BYTES

if TYPE_CHECKING:
    import onnx

#: A 64-bit number in decimal has at most this many digits.
_DIGITS = 19


def take_weights(
    graph: onnx.GraphProto, mapped: Mapping[int, memoryview], folder: ExternalFolder | None, where: str
) -> dict[str, ir.TensorProtocol]:
    """Every initializer of more than :data:`KEPT_BYTES`, by name, and removed from ``graph``; smaller ones stay in it.

    ``mapped`` holds raw data that was cut out of the message. Raises :class:`CompileError` for lengths that disagree,
    repeated names and unsafe or missing external data.
    """
    import onnx

    names: set[str] = set()
    large: dict[str, ir.TensorProtocol] = {}
    small: list[onnx.TensorProto] = []
    for index, proto in enumerate(graph.initializer):
        at = f"{where}: initializer {proto.name!r}"
        if not proto.name or proto.name in names:
            raise CompileError(
                "duplicate-name",
                where=at,
                cause="the name is empty or taken by another initializer",
                fix="export the model again",
            )
        names.add(proto.name)
        data = mapped.get(index)
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            data = _external(proto, folder, at)
        length = expected_length(proto, at)
        if data is None:
            _check_inline(proto, length, at)
            if length <= KEPT_BYTES:
                small.append(proto)
                continue
            large[proto.name] = ir.serde.deserialize_tensor(_detached(proto))
            continue
        if len(data) != length:
            raise _length_error(at, len(data), length)
        if length <= KEPT_BYTES:
            small.append(_inline(proto, data))
        else:
            large[proto.name] = mapped_tensor(proto, data)
    del graph.initializer[:]
    graph.initializer.extend(small)
    return large


def mapped_tensor(proto: onnx.TensorProto, data: memoryview) -> ir.TensorProtocol:
    """A tensor over mapped bytes; nothing is copied. Elements narrower than a byte stay packed."""
    dtype = ir.DataType(proto.data_type)
    shape = tuple(proto.dims)
    if dtype.bitwidth < 8:
        return ir.PackedTensor(np.frombuffer(data, np.uint8), dtype, shape=shape, name=proto.name)
    array = np.frombuffer(data, dtype=dtype.numpy()).reshape(shape)
    return ir.Tensor(array, dtype, name=proto.name)


def expected_length(proto: onnx.TensorProto, where: str) -> int:
    """Bytes that a tensor's elements take. Raises :class:`CompileError` for negative sizes and unknown types."""
    try:
        bits = ir.DataType(proto.data_type).bitwidth
    except (ValueError, TypeError):
        raise CompileError(
            "unsupported-element-type",
            where=where,
            cause=f"element type {proto.data_type} has no fixed size",
            fix="export the model with numeric tensors only",
        ) from None
    if any(d < 0 for d in proto.dims):
        raise CompileError(
            "invalid-model", where=where, cause=f"negative size in {list(proto.dims)}", fix="export the model again"
        )
    return int(math.prod(proto.dims) * bits + 7) // 8


def _external(proto: onnx.TensorProto, folder: ExternalFolder | None, where: str) -> memoryview:
    # Only the three keys that matter are read (CVE-2026-34445 came from setting whatever the file named).
    entries = {e.key: e.value for e in proto.external_data if e.key in ("location", "offset", "length")}
    if folder is None:
        raise CompileError(
            "external-data-missing",
            where=where,
            cause="the data is in another file, and a model in memory has no folder",
            fix="give the path of the model instead, or load it with its external data",
        )
    if "location" not in entries:
        raise CompileError(
            "external-data-missing", where=where, cause="no location is given", fix="export the model again"
        )
    expected = expected_length(proto, where)
    offset = _number(entries.get("offset", "0"), "offset", where)
    length = _number(entries["length"], "length", where) if "length" in entries else expected
    if length != expected:
        raise _length_error(where, length, expected)
    return folder.read(entries["location"], offset, length, where)


def _number(text: str, what: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise CompileError(
            "external-data-range", where=where, cause=f"{what} is {text[:40]!r}", fix="export the model again"
        )
    return int(text)


def _check_inline(proto: onnx.TensorProto, length: int, where: str) -> None:
    if proto.HasField("raw_data"):
        if len(proto.raw_data) != length:
            raise _length_error(where, len(proto.raw_data), length)
        return
    counts = [len(f) for f in _typed_fields(proto) if len(f)]
    dtype, elements = ir.DataType(proto.data_type), math.prod(proto.dims)
    # Narrow elements are packed into bytes, one per entry; complex ones take two entries.
    wanted = length if dtype.bitwidth < 8 else elements * (2 if dtype.name.startswith("COMPLEX") else 1)
    if len(counts) > 1 or sum(counts) != wanted:
        raise _length_error(where, sum(counts), wanted)


def _typed_fields(proto: onnx.TensorProto) -> list[Any]:
    numbers = [proto.float_data, proto.int32_data, proto.int64_data, proto.double_data, proto.uint64_data]
    return [*numbers, proto.string_data]


def _inline(proto: onnx.TensorProto, data: memoryview) -> onnx.TensorProto:
    import onnx

    return onnx.TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims, raw_data=bytes(data))


def _detached(proto: onnx.TensorProto) -> onnx.TensorProto:
    """A copy that does not keep the whole model's memory alive."""
    import onnx

    copy = onnx.TensorProto()
    copy.CopyFrom(proto)
    return copy


def _length_error(where: str, have: int, want: int) -> CompileError:
    return CompileError(
        "tensor-length",
        where=where,
        cause=f"{have} bytes or elements of data where type and shape need {want}",
        fix="the model is damaged: export or copy it again",
    )
