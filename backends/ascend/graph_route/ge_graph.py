"""A GE graph while it is built: every operator is held against its signature, every type against what it allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np
from tilewright.backends.ascend.graph_route.ge_message import ENUM, NAMES, PROTO, Message
from tilewright.backends.ascend.graph_route.ge_signature import Attribute, Port, Signature, signature_of
from tilewright.errors import InternalError
from tilewright.ir.types import DType, TensorType

#: What a field of ``list`` holds, in the field ``val_type``.
_STRINGS, _INTS, _FLOATS, _BOOLS = 1, 2, 3, 4


class Untyped(Exception):
    """GE's operator does not take an element type; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An output of an operator."""

    operator: str
    index: int
    type: TensorType
    layout: str = "ND"

    def __str__(self) -> str:
        return f"{self.operator}:{self.index}"


Given = Union[Ref, None, Sequence[Ref]]


@dataclass(slots=True)
class GeGraph:
    """Operators in order; each a message ``OpDef``."""

    operators: list[Message] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _constants: dict[tuple[str, tuple[int, ...], bytes], Ref] = field(default_factory=dict)

    def unique(self, wanted: str) -> str:
        """A name like ``wanted`` that no operator has, of characters that GE's references can hold."""
        base = re.sub(r"[^A-Za-z0-9_/.\-]", "_", wanted)[:200] or "op"
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    def data(self, index: int, name: str, type_: TensorType, layout: str) -> Ref:
        """An input of the model."""
        ref = Ref(self.unique(name), 0, type_, layout)
        desc = _desc("y", type_, layout)
        self.operators.append(
            [
                ("name", ref.operator),
                ("type", "Data"),
                _entry("index", [("i", index)]),
                ("input_desc", [("name", "x"), *desc[1:]]),
                ("output_desc", desc),
            ]
        )
        return ref

    def constant(self, array: np.ndarray[Any, Any], name: str, layout: str = "ND") -> Ref:
        """A constant; equal short ones are one."""
        dtype, content = DType.from_numpy(array.dtype), np.ascontiguousarray(array).tobytes()
        key = (str(dtype), tuple(array.shape), content)
        if len(content) <= 64 and key in self._constants:
            return self._constants[key]
        ref = Ref(self.unique(name), 0, TensorType.of(dtype, *array.shape), layout)
        desc = _desc("y", ref.type, layout)
        value = [("desc", desc[1:]), ("data", content)]
        self.operators.append(
            [("name", ref.operator), ("type", "Const"), _entry("value", [("t", value)]), ("output_desc", desc)]
        )
        self._constants[key] = ref
        return ref

    def add(
        self,
        operator: str,
        name: str,
        inputs: Mapping[str, Given],
        outputs: Sequence[TensorType],
        attributes: Mapping[str, Any] | None = None,
        layout: str = "ND",
    ) -> list[Ref]:
        """An operator with inputs by name and the types of its first outputs; the others are declared without a type.

        Raises :class:`Untyped` for an element type that its signature does not have, :class:`InternalError` for
        anything else that is not in the signature.
        """
        signature = signature_of(operator)
        if signature is None:
            raise InternalError(f"GE has no operator {operator}")
        unique = self.unique(name)
        message: list[tuple[str, Any]] = [("name", unique), ("type", operator)]
        sources, descs = _inputs(operator, signature, inputs)
        message += [("input", s) for s in sources]
        message += [_entry(k, v) for k, v in _attributes(operator, signature, attributes or {})]
        message += [("input_desc", d) for d in descs]
        refs = [Ref(unique, i, t, layout) for i, t in enumerate(outputs)]
        names = _output_names(operator, signature, len(outputs))
        for i, (told, port) in enumerate(names):
            if i < len(outputs):
                _require_type(operator, port, outputs[i].dtype)
                message.append(("output_desc", _desc(told, outputs[i], layout)))
            else:
                message.append(("output_desc", [("name", told)]))
        self.operators.append(message)
        return refs

    def output(self, refs: Sequence[Ref]) -> None:
        """The outputs of the model, in order."""
        message: list[tuple[str, Any]] = [("name", self.unique("NetOutput")), ("type", "NetOutput")]
        message += [("input", str(r)) for r in refs]
        message += [("input_desc", _desc(f"input{i}", r.type, r.layout)) for i, r in enumerate(refs)]
        self.operators.append(message)


def _inputs(operator: str, signature: Signature, given: Mapping[str, Given]) -> tuple[list[str], list[Message]]:
    if unknown := set(given) - {p.name for p in signature.inputs}:
        raise InternalError(f"{operator} has no input {sorted(unknown)}")
    sources: list[str] = []
    descs: list[Message] = []
    for port in signature.inputs:
        value = given.get(port.name)
        if port.many == "*":
            for i, ref in enumerate(value if isinstance(value, Sequence) else ()):
                _require_type(operator, port, ref.type.dtype)
                sources.append(str(ref))
                descs.append(_desc(f"{port.name}{i}", ref.type, ref.layout))
            continue
        if isinstance(value, Ref):
            _require_type(operator, port, value.type.dtype)
            sources.append(str(value))
            descs.append(_desc(port.name, value.type, value.layout))
        elif port.many == "?":
            sources.append("")
            descs.append([("name", port.name), ("layout", "RESERVED")])
        else:
            raise InternalError(f"{operator} needs its input {port.name}")
    while sources and not sources[-1]:  # what is left out at the end is not declared
        sources.pop()
        descs.pop()
    return sources, descs


def _output_names(operator: str, signature: Signature, count: int) -> list[tuple[str, Port]]:
    names: list[tuple[str, Port]] = []
    for port in signature.outputs:
        if port.many == "*":
            names += [(f"{port.name}{i}", port) for i in range(count - len(names))]
        else:
            names.append((port.name, port))
    if count > len(names):
        raise InternalError(f"{operator} has {len(names)} outputs, not {count}")
    return names


def _require_type(operator: str, port: Port, dtype: DType) -> None:
    if dtype not in PROTO or (port.types is not None and NAMES[dtype] not in port.types):
        raise Untyped(f"{port.name} of GE's {operator} takes no {dtype}")


def _attributes(operator: str, signature: Signature, given: Mapping[str, Any]) -> list[tuple[str, Message]]:
    if unknown := set(given) - set(signature.attributes):
        raise InternalError(f"{operator} has no attribute {sorted(unknown)}")
    if missing := [a.name for a in signature.attributes.values() if a.required and a.name not in given]:
        raise InternalError(f"{operator} needs its attributes {missing}")
    return [(name, _attribute(operator, signature.attributes[name], value)) for name, value in given.items()]


def _attribute(operator: str, declared: Attribute, value: Any) -> Message:
    """The message ``AttrDef`` of a value."""
    form = declared.form.removeprefix("List")
    if declared.form == "ListInt":
        return [("list", [*(("i", int(v)) for v in value), ("val_type", _INTS)])]
    if declared.form == "ListFloat":
        return [("list", [*(("f", float(v)) for v in value), ("val_type", _FLOATS)])]
    if form != declared.form:
        raise InternalError(f"{operator}: lists of {form} are not written")
    if isinstance(value, DType):
        return [("dt" if form == "Type" else "i", ENUM[value])]
    if form in ("Int", "int"):
        return [("i", int(value))]
    if form == "Bool":
        return [("b", bool(value))]
    if form == "Float":
        return [("f", float(value))]
    return [("s", str(value).encode())]


def _entry(key: str, value: Message) -> tuple[str, Message]:
    return "attr", [("key", key), ("value", value)]


def _desc(name: str, type_: TensorType, layout: str) -> list[tuple[str, Any]]:
    """A description of a tensor; sizes that are open are -1."""
    dims = [("dim", s.value if s.is_constant else -1) for s in type_.shape]
    return [("name", name), ("dtype", PROTO[type_.dtype]), ("shape", dims), ("layout", layout), ("device_type", "NPU")]
