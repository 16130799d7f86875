"""A GE graph to read: an operator a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tilewright.backends.ascend.graph_route.ge_message import NAMES, PROTO, Message

_TYPES: Mapping[int, str] = {number: NAMES[dtype] for dtype, number in PROTO.items()}


def listing(operators: Sequence[Message]) -> str:
    """``name = Type(port=source …) {attribute=value …} : port TYPE[sizes] …`` of each operator; no weights."""
    return "".join(f"{line}\n" for line in map(_line, operators))


def _line(message: Message) -> str:
    fields: dict[str, list[Any]] = {}
    for name, value in message:
        fields.setdefault(name, []).append(value)
    sources = fields.get("input", [])
    ports = [dict(d).get("name", "?") for d in fields.get("input_desc", [])]
    inputs = ", ".join(f"{p}={s or '-'}" for p, s in zip(ports, sources, strict=False))
    attributes = " ".join(_attribute(dict(a)) for a in fields.get("attr", []))
    outputs = ", ".join(map(_tensor, fields.get("output_desc", [])))
    told = f" {{{attributes}}}" if attributes else ""
    return f"{fields['name'][0]} = {fields['type'][0]}({inputs}){told}" + (f" : {outputs}" if outputs else "")


def _attribute(entry: Mapping[str, Any]) -> str:
    ((kind, value), *_) = entry["value"]
    if kind == "t":
        return f"{entry['key']}={len(dict(value)['data'])} bytes"
    if kind == "list":
        return f"{entry['key']}=[{','.join(str(v) for n, v in value if n != 'val_type')}]"
    return f"{entry['key']}={value.decode(errors='replace') if isinstance(value, bytes) else value}"


def _tensor(desc: Message) -> str:
    return " ".join(_parts(desc))


def _parts(desc: Message) -> Iterator[str]:
    fields: dict[str, Any] = dict(desc)
    yield str(fields["name"])
    if "dtype" in fields:
        sizes = ",".join(str(size[1]) for size in fields.get("shape", ()))
        yield f"{_TYPES[int(fields['dtype'])]}[{sizes}]"
