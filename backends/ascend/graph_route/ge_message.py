"""Messages of GE's graphs (``ge.proto``) as bytes: the fields that are written, by name, with their numbers.

A message is a list of pairs of a field and its value, in the order of writing; a repeated field stands there once for
each of its elements. Source of names and numbers: the descriptor of ``ge_ir.proto`` that torch-npu 2.14 carries (BSD).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from tilewright.ir.types import DType

Value = Union[int, float, bytes, str, Sequence["tuple[str, Any]"]]
Message = Sequence[tuple[str, Value]]

#: Of each message, its fields: number, and what is in it: ``int``, ``float``, ``bytes``, ``text`` or another message.
FIELDS: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "ModelDef": {"name": (1, "text"), "version": (2, "int"), "graph": (7, "GraphDef"), "attr": (11, "Entry")},
    "GraphDef": {
        "name": (1, "text"),
        "input": (4, "text"),
        "output": (5, "text"),
        "op": (6, "OpDef"),
        "attr": (11, "Entry"),
    },
    "OpDef": {
        "name": (1, "text"),
        "type": (2, "text"),
        "input": (5, "text"),
        "attr": (10, "Entry"),
        "input_desc": (33, "TensorDescriptor"),
        "output_desc": (34, "TensorDescriptor"),
    },
    "Entry": {"key": (1, "text"), "value": (2, "AttrDef")},
    "AttrDef": {
        "list": (1, "ListValue"),
        "s": (2, "bytes"),
        "i": (3, "int"),
        "f": (4, "float"),
        "b": (5, "int"),
        "t": (12, "TensorDef"),
        "dt": (15, "int"),
    },
    "ListValue": {"s": (2, "bytes"), "i": (3, "int"), "f": (4, "float"), "b": (5, "int"), "val_type": (20, "int")},
    "TensorDef": {"desc": (1, "TensorDescriptor"), "data": (2, "bytes")},
    "TensorDescriptor": {
        "name": (1, "text"),
        "dtype": (2, "int"),
        "shape": (3, "ShapeDef"),
        "layout": (4, "text"),
        "device_type": (14, "text"),
    },
    "ShapeDef": {"dim": (1, "int")},
}

#: Fields of repeated numbers, which the third syntax of protobuf packs into one.
_PACKED = {("ShapeDef", "dim"), ("ListValue", "i"), ("ListValue", "b"), ("ListValue", "f")}

#: Element types: their number in messages, and that of GE's own enumeration, which attributes hold.
PROTO = {
    DType.F32: 1,
    DType.F16: 2,
    DType.I8: 3,
    DType.U8: 4,
    DType.I16: 5,
    DType.U16: 6,
    DType.I32: 7,
    DType.I64: 8,
    DType.U32: 9,
    DType.U64: 10,
    DType.BOOL: 11,
    DType.F64: 12,
    DType.BF16: 27,
}
ENUM = {
    DType.F32: 0,
    DType.F16: 1,
    DType.I8: 2,
    DType.I32: 3,
    DType.U8: 4,
    DType.I16: 6,
    DType.U16: 7,
    DType.U32: 8,
    DType.I64: 9,
    DType.U64: 10,
    DType.F64: 11,
    DType.BOOL: 12,
    DType.BF16: 27,
}
#: Their names in signatures, without ``DT_``.
NAMES = {
    DType.F32: "FLOAT",
    DType.F64: "DOUBLE",
    **{d: f"INT{d.bits}" for d in (DType.I8, DType.I16, DType.I32, DType.I64)},
    **{d: f"UINT{d.bits}" for d in (DType.U8, DType.U16, DType.U32, DType.U64)},
    DType.F16: "FLOAT16",
    DType.BF16: "BF16",
    DType.BOOL: "BOOL",
}


def encoded(kind: str, message: Message) -> bytes:
    """The bytes of a message of that kind."""
    return b"".join(_pieces(kind, message))


def _pieces(kind: str, message: Message) -> Iterator[bytes]:
    packed: dict[str, list[bytes]] = {}
    for name, value in message:
        number, form = FIELDS[kind][name]
        if (kind, name) in _PACKED:
            packed.setdefault(name, []).append(_scalar(form, value))
            continue
        if form in ("int", "float"):
            yield _tag(number, 0 if form == "int" else 5) + _scalar(form, value)
            continue
        content = _content(form, value)
        yield _tag(number, 2) + _varint(len(content)) + content
    for name, parts in packed.items():
        content = b"".join(parts)
        yield _tag(FIELDS[kind][name][0], 2) + _varint(len(content)) + content


def _content(form: str, value: Any) -> bytes:
    if form == "text":
        return str(value).encode()
    return bytes(value) if form == "bytes" else encoded(form, value)


def _scalar(form: str, value: Any) -> bytes:
    return struct.pack("<f", value) if form == "float" else _varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF)


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
