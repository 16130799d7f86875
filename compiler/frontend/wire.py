"""Reading an ONNX file without reading its weights: the graph is parsed, the bytes of initializers stay mapped.

A model is a protobuf message (https://protobuf.dev/programming-guides/encoding). Only three levels of it are walked
here: the model, its graph, and the graph's initializers, whose ``raw_data`` is cut out. What is left is small and goes
through the ordinary parser, which also keeps conversion below protobuf's limit of 2 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: Shorter raw data stays in the graph: these are shapes, axes and scalars, which conversion may have to look at.
KEPT_BYTES = 1024


class WireError(Exception):
    """Bytes that are no message. ``progressed`` tells whether it began like a model."""

    def __init__(self, cause: str, progressed: bool = False):
        super().__init__(cause)
        self.progressed = progressed


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number, wire type, and where its tag, its content and its end are."""

    number: int
    wire_type: int
    start: int
    content: int
    end: int


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``data[start:end]``. Raises :class:`WireError`."""
    at = start
    while at < end:
        tag, content = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if not number:
            raise WireError("field number 0")
        if wire_type == _VARINT:
            _, stop = _varint(data, content, end)
        elif wire_type == _BYTES:
            length, content = _varint(data, content, end)
            stop = content + length
        elif wire_type in (_FIXED32, _FIXED64):
            stop = content + (4 if wire_type == _FIXED32 else 8)
        else:
            raise WireError(f"wire type {wire_type}")
        if stop > end:
            raise WireError("the message ends early", progressed=True)
        yield Field(number, wire_type, at, content, stop)
        at = stop


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift >= 70:
            raise WireError("a number of more than ten bytes")
    raise WireError("the message ends early", progressed=True)


def split_weights(data: memoryview) -> tuple[bytes, dict[int, memoryview]]:
    """A model without the raw data of its large initializers, and that data by the initializer's index.

    Raises :class:`WireError`.
    """
    parts: list[bytes | memoryview] = []
    weights: dict[int, memoryview] = {}
    seen_graph = progressed = False
    try:
        for f in fields(data, 0, len(data)):
            if f.number not in _MODEL_FIELDS:
                raise WireError(f"field {f.number}, which models do not have")
            if f.number != _MODEL_GRAPH or f.wire_type != _BYTES:
                parts.append(data[f.start : f.end])
                progressed = True
                continue
            if seen_graph:
                raise WireError("two graphs")
            graph, weights = _split_graph(data, f)
            parts += [_tag(_MODEL_GRAPH), _encoded(len(graph)), graph]
            seen_graph = progressed = True
    except WireError as error:
        raise WireError(str(error), error.progressed and (progressed or seen_graph)) from None
    if not seen_graph:
        raise WireError("no graph in it", progressed)
    return b"".join(parts), weights


def _split_graph(data: memoryview, graph: Field) -> tuple[bytes, dict[int, memoryview]]:
    parts: list[bytes | memoryview] = []
    weights: dict[int, memoryview] = {}
    kept_from, index = graph.content, 0
    for f in fields(data, graph.content, graph.end):
        if f.number != _GRAPH_INITIALIZER or f.wire_type != _BYTES:
            continue
        raw = [t for t in fields(data, f.content, f.end) if t.number == _TENSOR_RAW_DATA and t.wire_type == _BYTES]
        if len(raw) > 1:
            raise WireError("a tensor with two contents")
        if raw and raw[0].end - raw[0].content > KEPT_BYTES:
            rest = bytes(data[f.content : raw[0].start]) + bytes(data[raw[0].end : f.end])
            parts += [data[kept_from : f.start], _tag(_GRAPH_INITIALIZER), _encoded(len(rest)), rest]
            kept_from = f.end
            weights[index] = data[raw[0].content : raw[0].end]
        index += 1
    parts.append(data[kept_from : graph.end])
    return b"".join(parts), weights


def _tag(number: int) -> bytes:
    return _encoded(number << 3 | _BYTES)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
