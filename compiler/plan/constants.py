"""One name for each distinct constant of several entry points, so that what they share is stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, type_of


def constant_names(values: Iterable[ir.Value]) -> Mapping[ir.Value, str]:
    """The name of each constant among the weights: its own, that of an equal one before it, or ``name~2``.

    Equal are constants of one type whose bytes have one SHA-256; each is stored in every layout that a kernel reads.
    What is given in the same order gets the same names.
    """
    names: dict[ir.Value, str] = {}
    by_content: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for value in values:
        if value in names:
            continue
        content = (str(type_of(value)), _hash(value))
        if content not in by_content:
            by_content[content] = _free(str(value.name), taken)
            taken.add(by_content[content])
        names[value] = by_content[content]
    return names


def _hash(value: ir.Value) -> str:
    elements = np.ascontiguousarray(constant_array(value)).reshape(-1)
    return hashlib.sha256(elements.view(np.uint8).data).hexdigest()


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}~{number}"
    return free
