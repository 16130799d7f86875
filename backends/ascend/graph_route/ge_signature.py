"""The signatures of GE's operators: a table that ``scripts/ge_signatures.py`` writes from the wheel torch-npu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).parent / "signatures" / "ge.txt"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: how often it may stand (``""`` once, ``?`` at most once, ``*`` any number of times), and its
    element types by name; ``None`` for any."""

    name: str
    many: str
    types: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: its form (``Int``, ``ListInt`` …), and whether it has to be given."""

    name: str
    form: str
    required: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """What GE registers of an operator, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: Mapping[str, Attribute]


def signature_of(operator: str) -> Signature | None:
    """The signature of an operator; ``None`` where GE has none of that name."""
    line = _lines().get(operator)
    return None if line is None else _read(line)


@cache
def _text() -> tuple[Mapping[str, frozenset[str] | None], Mapping[str, str]]:
    sets: dict[str, frozenset[str] | None] = {}
    lines: dict[str, str] = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line:
            continue
        name, bar, rest = line.partition("|")
        if bar:
            lines[name] = rest
        else:
            number, _, types = line.partition("=")
            sets[number] = None if types == "*" else frozenset(types.split(","))
    return sets, lines


def _lines() -> Mapping[str, str]:
    return _text()[1]


@cache
def _read(line: str) -> Signature:
    inputs, outputs, attributes = line.split("|")
    found = {}
    for text in attributes.split():
        name, _, rest = text.lstrip("!").partition(":")
        found[name] = Attribute(name, rest.partition("=")[0], text.startswith("!"))
    return Signature(_ports(inputs), _ports(outputs), found)


def _ports(text: str) -> tuple[Port, ...]:
    sets = _text()[0]
    ports = []
    for part in text.split():
        many = part[0] if part[0] in "?*" else ""
        name, _, number = part.removeprefix(many).partition(":")
        ports.append(Port(name, many, sets[number]))
    return tuple(ports)
