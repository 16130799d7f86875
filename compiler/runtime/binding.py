"""Names and memory of a run, checked the same way whatever runs the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np
from tilewright.runtime.device_tensor import DeviceTensor
from tilewright.runtime.errors import InputError
from tilewright.runtime.manifest import EntryInfo, TensorInfo
from tilewright.runtime.tensors import Array, as_input

#: What a run reads or writes: memory of the host, or of a GPU.
Operand = Union[Array, DeviceTensor]


def unknown(where: str, what: str, name: str, known: Sequence[str]) -> InputError:
    """The error that there is no ``what`` of this name."""
    return InputError(
        f"unknown-{what.replace(' ', '-')}",
        where=where,
        cause=f"there is no {what} {name!r}",
        fix=f"use one of {', '.join(map(repr, known))}",
    )


def given_inputs(info: EntryInfo, inputs: Mapping[str, Any], where: str) -> list[tuple[TensorInfo, Any]]:
    """Each input with what was given for it. Raises :class:`InputError` for names that do not fit."""
    names = [i.name for i in info.inputs]
    for name in inputs:
        if name not in names:
            raise unknown(where, "input", name, names)
    if len(inputs) < len(names):
        missing = [name for name in names if name not in inputs]
        raise InputError(
            "input-missing",
            where=f"entry {info.name!r}",
            cause=f"no input {', '.join(map(repr, missing))}",
            fix=f"give {'; '.join(map(str, info.inputs))}",
        )
    return [(i, inputs[i.name]) for i in info.inputs]


def input_arrays(info: EntryInfo, inputs: Mapping[str, Any], where: str) -> list[Array]:
    """An array for each input, of its element type. Raises :class:`InputError` for names or types that do not fit."""
    return [as_input(i, value) for i, value in given_inputs(info, inputs, where)]


def check_output_names(info: EntryInfo, given: Mapping[str, Any] | Sequence[str], where: str) -> None:
    """Raise :class:`InputError` for an output that the entry point does not have."""
    names = [o.name for o in info.outputs]
    for name in given:
        if name not in names:
            raise unknown(where, "output", name, names)


def refuse_overlap(info: EntryInfo, operands: Sequence[Operand], out: Mapping[str, Operand]) -> None:
    """Memory given for an output may be an input's only where they are one state."""
    for name, target in out.items():
        for i, operand in zip(info.inputs, operands, strict=True):
            same_state = (i.name, name) in info.states and address_of(target) == address_of(operand)
            if not same_state and _may_overlap(target, operand):
                raise InputError(
                    "output-memory",
                    where=f"output {name!r}",
                    cause=f"its memory overlaps input {i.name!r}",
                    fix="give memory of its own",
                )


def address_of(operand: Operand) -> int:
    """Where the first element is; addresses of the host and of GPUs are all different."""
    return operand.pointer if isinstance(operand, DeviceTensor) else operand.ctypes.data


def _may_overlap(a: Operand, b: Operand) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.may_share_memory(a, b)
    return address_of(a) < address_of(b) + b.nbytes and address_of(b) < address_of(a) + a.nbytes
