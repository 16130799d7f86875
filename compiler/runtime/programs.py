"""What a part of programs says (``program.json``), checked before anything of it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Union

from tilewright.runtime.devices.mesh import Cut, Mesh, check_cut
from tilewright.runtime.errors import ArtifactError

VERSION = 1
#: Devices and axes of a mesh that are believed; slices of TPUs have up to 9,216 chips.
MOST_DEVICES = 16384
MOST_AXES = 8
#: A postfix expression: integers, ``"$S"`` for symbols, operators.
Expression = tuple[Union[int, str], ...]

_OPERATORS = ("+", "*", "//", "%", "min", "max")


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor between steps."""

    dtype: str
    shape: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """A program for one bucket: sizes by symbol, the member with portable bytes, that with the executable or none."""

    sizes: Mapping[str, int]
    module: str
    executable: str


@dataclass(frozen=True, slots=True)
class StepCuts:
    """How the tensors of a step lie on the mesh."""

    inputs: tuple[Cut, ...]
    weights: tuple[Cut, ...]
    outputs: tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A program, or an entry point of the host part when ``host`` is not empty.

    ``shardings`` are those of inputs, operands of sizes, weights, then outputs; empty on one device
    (:mod:`tilewright.runtime.devices.mesh`).
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    host: str = ""
    padded: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    shardings: tuple[Cut, ...] = ()

    @property
    def cuts(self) -> StepCuts:
        """How inputs, weights and outputs lie on the mesh; nothing is cut on one device."""
        told = iter(self.shardings or [()] * (sum(map(len, (self.inputs, self.padded, self.weights, self.outputs)))))
        inputs, _, weights, outputs = (
            tuple(next(told) for _ in part) for part in (self.inputs, self.padded, self.weights, self.outputs)
        )
        return StepCuts(inputs, weights, outputs)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry point: see :class:`tilewright.plan.programs.ProgramEntry`."""

    name: str
    slots: tuple[Slot, ...]
    results: tuple[int | str, ...]
    steps: tuple[Step, ...]
    asserts: tuple[tuple[Expression, Expression, str], ...]


@dataclass(frozen=True, slots=True)
class Programs:
    """Everything that a part of programs runs."""

    entries: tuple[Entry, ...]
    host: bool
    mesh: Mesh


def parse_programs(text: bytes, where: str) -> Programs:
    """Read ``program.json``. Raises :class:`ArtifactError` for anything but what a compiler writes."""
    try:
        raw = json.loads(text)
        if _integer(raw["version"]) != VERSION:
            fix = "use the version of Tilewright that wrote it, or compile the model again"
            cause = f"version {raw['version']}, this runtime reads {VERSION}"
            raise ArtifactError("artifact-version", where=f"{where}, program.json", cause=cause, fix=fix)
        mesh = _mesh(raw["mesh"])
        return Programs(tuple(_entry(e, mesh) for e in _list(raw["entries"])), _flag(raw["host"]), mesh)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause, fix = f"{type(error).__name__}: {error}"[:500], "copy or compile the artifact again"
        raise ArtifactError("artifact-damaged", where=f"{where}, program.json", cause=cause, fix=fix) from None


def evaluate(expression: Expression, symbols: Mapping[str, int]) -> int:
    """The value of an expression. Raises ``KeyError`` for a symbol without a value, ``ZeroDivisionError``."""
    stack: list[int] = []
    for item in expression:
        if isinstance(item, int):
            stack.append(item)
        elif item.startswith("$"):
            stack.append(symbols[item[1:]])
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(_apply(item, left, right))
    return stack[0]


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "+":
        return left + right
    if operator == "*":
        return left * right
    if operator == "//":
        return left // right
    if operator == "%":
        return left % right
    return min(left, right) if operator == "min" else max(left, right)


def lone_symbol(expression: Expression) -> str | None:
    """The symbol that an expression is, where it is nothing else."""
    if len(expression) == 1 and isinstance(expression[0], str):
        return expression[0][1:]
    if len(expression) == 3 and expression[0] == 1 and expression[2] == "*" and isinstance(expression[1], str):
        return expression[1][1:]
    return None


def symbols_of(expression: Expression) -> set[str]:
    """The symbols of an expression."""
    return {item[1:] for item in expression if isinstance(item, str) and item.startswith("$")}


def _expression(raw: Any) -> Expression:
    depth = 0
    for item in _list(raw):
        if isinstance(item, str) and not item.startswith("$"):
            if item not in _OPERATORS:
                raise ValueError(f"unknown operator {item!r}")
            depth -= 1
        else:
            depth += 1
            if not isinstance(item, str):
                _integer(item)
        if depth < 1:
            raise ValueError("an operator without operands")
    if depth != 1:
        raise ValueError("a malformed expression")
    return tuple(raw)


def _mesh(raw: Any) -> Mesh:
    mesh = tuple(map(_count, _list(raw)))
    if 0 in mesh or len(mesh) > MOST_AXES or prod(mesh) > MOST_DEVICES:
        raise ValueError(f"a mesh of {mesh}")
    return mesh


def _entry(raw: Any, mesh: Mesh) -> Entry:
    slots = tuple(Slot(_text(s["dtype"]), tuple(map(_expression, _list(s["shape"])))) for s in _list(raw["slots"]))

    def slot(index: Any) -> int:
        if _count(index) >= len(slots):
            raise ValueError(f"there is no slot {index}")
        return int(index)

    def step(told: Any) -> Step:
        inputs, outputs = tuple(map(slot, _list(told["inputs"]))), tuple(map(slot, _list(told["outputs"])))
        if "host" in told:
            return Step(inputs, outputs, _name(told["host"]))
        shardings = tuple(
            tuple(tuple(map(_count, _list(axes))) for axes in _list(dims)) for dims in _list(told["shardings"])
        )
        variants = tuple(
            Variant(
                {_text(k): _count(v) for k, v in told_variant["sizes"].items()},
                _text(told_variant["module"]),
                _text(told_variant["executable"]),
            )
            for told_variant in _list(told["variants"])
        )
        padded, weights = tuple(map(_text, _list(told["padded"]))), tuple(map(_text, _list(told["weights"])))
        if not variants or any(set(v.sizes) != set(variants[0].sizes) for v in variants):
            raise ValueError("a step without variants, or with different symbols")
        ranks = [len(slots[i].shape) for i in inputs] + [0] * len(padded) + [None] * len(weights)
        ranks += [len(slots[o].shape) for o in outputs]
        if len(shardings) != (len(ranks) if mesh else 0):
            raise ValueError(f"{len(shardings)} shardings on a mesh of {mesh}")
        for cut, rank in zip(shardings, ranks, strict=False):
            check_cut(cut, len(cut) if rank is None else rank, mesh)
        return Step(inputs, outputs, "", padded, weights, variants, shardings)

    return Entry(
        name=_text(raw["name"]),
        slots=slots,
        results=tuple(r if isinstance(r, str) else slot(r) for r in _list(raw["results"])),
        steps=tuple(map(step, _list(raw["steps"]))),
        asserts=tuple((_expression(a), _expression(b), _text(m)) for a, b, m in _list(raw["asserts"])),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # a lone surrogate raises
    return value


def _name(value: Any) -> str:
    if not _text(value):
        raise ValueError("an empty name")
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true or false")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise TypeError(f"{value!r} is no integer")
    return value


def _count(value: Any) -> int:
    if _integer(value) < 0:
        raise ValueError(f"{value} is negative")
    return int(value)
