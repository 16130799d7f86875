"""Names and memory of a run, checked the same way whatever runs the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tilewright.runtime.errors import InputError
from tilewright.runtime.manifest import EntryInfo
from tilewright.runtime.tensors import Array, as_input


def unknown(where: str, what: str, name: str, known: Sequence[str]) -> InputError:
    """The error that there is no ``what`` of this name."""
    return InputError(
        f"unknown-{what.replace(' ', '-')}",
        where=where,
        cause=f"there is no {what} {name!r}",
        fix=f"use one of {', '.join(map(repr, known))}",
    )


def input_arrays(info: EntryInfo, inputs: Mapping[str, Any], where: str) -> list[Array]:
    """An array for each input, of its element type. Raises :class:`InputError` for names or types that do not fit."""
    names = [i.name for i in info.inputs]
    for name in inputs:
        if name not in names:
            raise unknown(where, "input", name, names)
    missing = [name for name in names if name not in inputs]
    if missing:
        raise InputError(
            "input-missing",
            where=f"entry {info.name!r}",
            cause=f"no input {', '.join(map(repr, missing))}",
            fix=f"give {'; '.join(map(str, info.inputs))}",
        )
    return [as_input(i, inputs[i.name]) for i in info.inputs]


def check_output_names(info: EntryInfo, given: Mapping[str, Any] | Sequence[str], where: str) -> None:
    """Raise :class:`InputError` for an output that the entry point does not have."""
    names = [o.name for o in info.outputs]
    for name in given:
        if name not in names:
            raise unknown(where, "output", name, names)


def refuse_overlap(info: EntryInfo, arrays: Sequence[Array], out: Mapping[str, Array]) -> None:
    """Memory given for an output may be an input's only where they are one state."""
    for name, target in out.items():
        for i, array in zip(info.inputs, arrays, strict=True):
            same_state = (i.name, name) in info.states and target.ctypes.data == array.ctypes.data
            if not same_state and np.may_share_memory(target, array):
                raise InputError(
                    "output-memory",
                    where=f"output {name!r}",
                    cause=f"its memory overlaps input {i.name!r}",
                    fix="give memory of its own",
                )
