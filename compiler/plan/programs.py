"""What a graph target runs: programs of static shapes and, between them, entry points of the host part's plan.

It is written as JSON (``program.json``), which both runtimes read. Expressions over symbols are in postfix order: an
integer is pushed, ``"$S"`` pushes the symbol ``S``, and ``+ - * // % min max`` replace the two values on top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, Operation, Symbol
from tilewright.ir.types import DType
from tilewright.plan.plan import Constant, Plan, Signature

#: Version of ``program.json``.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor that goes into or comes out of a step. Dimension expressions are over the entry's symbols."""

    dtype: DType
    shape: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """A program for one bucket.

    Attributes:
        sizes: the static size of each symbol of the entry point that the step uses.
        module: the member with the portable program.
        executable: the member with the compiled one; empty where there is none.
    """

    sizes: Mapping[str, int]
    module: str
    executable: str = ""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a tensor lies on a mesh: for each dimension the mesh axes (positions) that it is cut along, maybe none.

    Device ``i`` stands on the mesh where ``i`` is in row-major order. A dimension that is cut along axes ``a, b`` (the
    slowest first) has ``mesh[a] × mesh[b]`` equal parts; the device at position ``p`` holds part ``p[a] × mesh[b] +
    p[b]``. Devices that differ only along axes that no dimension names hold copies. Sizes of a program (the static
    ones of a bucket) and of weights can always be divided. In ``program.json`` it is a list of lists: on the mesh
    ``[2, 2]`` a matrix that is cut in two along its columns, one half for each position along the second axis, has
    ``[[], [1]]``.
    """

    dims: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class RunProgram:
    """Run a program on slots.

    Attributes:
        inputs, outputs: slots.
        padded: symbols whose true size is an operand, after the inputs and before the weights. A run uses the variant
            whose sizes are the least that hold it; symbols that are not among them have to be met exactly.
        weights: names among the artifact's weights. Those of types of less than 8 bits are passed as ``u8[bytes]``, as
            they lie in the artifact: row-major, the first element in the lowest bits of a byte.
        variants: by rising sizes.
        shardings: of inputs, operands of sizes, weights, then outputs; empty on one device.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    padded: tuple[str, ...]
    weights: tuple[str, ...]
    variants: tuple[Variant, ...]
    shardings: tuple[Sharding, ...] = ()


@dataclass(frozen=True, slots=True)
class RunHost:
    """Run entry point ``entry`` of the host part's plan on slots. Sizes that only it finds are read off its outputs."""

    entry: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


ProgramStep = Union[RunProgram, RunHost]


@dataclass(frozen=True, slots=True)
class ProgramEntry:
    """One way into the model, as :class:`tilewright.plan.plan.EntryPoint` has it.

    ``slots`` begin with the inputs; ``results`` are the slots of the outputs, or the name of a constant.
    ``asserts``: expressions that have to be equal, and what to say when they are not.
    """

    name: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    states: tuple[tuple[int, int], ...]
    symbols: tuple[tuple[str, Range], ...]
    slots: tuple[Slot, ...]
    results: tuple[int | str, ...]
    steps: tuple[ProgramStep, ...]
    asserts: tuple[tuple[Expr, Expr, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Programs:
    """The entry points of a graph target, the constants that they and the host part read, and the host part's plan.

    ``mesh`` is the number of devices along each axis; empty for one device.
    """

    entries: tuple[ProgramEntry, ...]
    constants: tuple[Constant, ...]
    host: Plan | None = None
    mesh: tuple[int, ...] = ()


def encode_programs(programs: Programs) -> bytes:
    """``program.json``; equal programs give equal bytes."""
    value = {
        "entries": [_entry(e) for e in programs.entries],
        "host": programs.host is not None,
        "mesh": list(programs.mesh),
        "version": VERSION,
    }
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _entry(entry: ProgramEntry) -> dict[str, Any]:
    return {
        "asserts": [[postfix(a), postfix(b), message] for a, b, message in entry.asserts],
        "name": entry.name,
        "results": list(entry.results),
        "slots": [{"dtype": str(s.dtype), "shape": [postfix(e) for e in s.shape]} for s in entry.slots],
        "steps": [_step(s) for s in entry.steps],
    }


def _step(step: ProgramStep) -> dict[str, Any]:
    told: dict[str, Any] = {"inputs": list(step.inputs), "outputs": list(step.outputs)}
    if isinstance(step, RunHost):
        return told | {"host": step.entry}
    return told | {
        "padded": list(step.padded),
        "shardings": [[list(axes) for axes in s.dims] for s in step.shardings],
        "variants": [{"executable": v.executable, "module": v.module, "sizes": dict(v.sizes)} for v in step.variants],
        "weights": list(step.weights),
    }


def postfix(expr: Expr) -> list[int | str]:
    """An expression as a list for a stack machine."""
    out: list[int | str] = []
    for n, (monomial, coefficient) in enumerate(expr.terms):
        out.append(coefficient)
        for atom, power in monomial:
            for _ in range(power):
                out += [*_atom(atom), "*"]
        if n:
            out.append("+")
    return out or [0]


def _atom(atom: Symbol | Operation) -> Sequence[int | str]:
    if isinstance(atom, Symbol):
        return [f"${atom.name}"]
    out = list(postfix(atom.args[0]))
    for other in atom.args[1:]:
        out += [*postfix(other), atom.op]
    return out
