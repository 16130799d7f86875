"""What a compilation gives: the parts of an artifact, not yet written, and the report."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.ir.graph import constant_array
from tilewright.kernel.pack import pack_constant
from tilewright.package.writer import Contents, Part, compose_artifact, write_artifact
from tilewright.plan.build import PackedConstant
from tilewright.report import Report


@dataclass(frozen=True)
class Artifact:
    """A compiled model in memory. Weights are read from the model's files again when it is written.

    Attributes:
        parts: one a target.
        constants: contents by name.
        runtimes: executor libraries by processor family.
        provenance: where it comes from.
        facts: the report without what only the written file can tell.
    """

    parts: tuple[Part, ...]
    constants: Mapping[str, Contents]
    runtimes: Mapping[str, bytes]
    provenance: Mapping[str, Any]
    facts: Report

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises ``ResourceError`` for a full disk or a read-only folder."""
        write_artifact(path, self.parts, self.constants, self.runtimes, self.provenance)

    @cached_property
    def report(self) -> Report:
        """What the compilation tells; hashing the file for it takes about a second per gigabyte."""
        stream = _Hashing()
        size = compose_artifact(stream, self.parts, self.constants, self.runtimes, self.provenance)
        return replace(self.facts, artifact_bytes=size.total, weight_bytes=size.weights, sha256=stream.sha256())

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        stream = io.BytesIO()
        compose_artifact(stream, self.parts, self.constants, self.runtimes, self.provenance)
        return stream.getvalue()


class _Hashing(io.BytesIO):
    """A stream that keeps the file, to hash it: the writer goes back to fill in checksums."""

    def sha256(self) -> str:
        return hashlib.sha256(self.getbuffer()).hexdigest()


def contents_of(constants: Sequence[PackedConstant]) -> dict[str, Contents]:
    """What makes each constant's bytes, by name; called when the artifact is written."""
    return {c.constant.name: _Contents(c) for c in constants}


@dataclass(frozen=True, slots=True)
class _Contents:
    constant: PackedConstant

    def __call__(self) -> np.ndarray[Any, np.dtype[Any]]:
        array = constant_array(self.constant.value)
        return np.ascontiguousarray(array if self.constant.pack is None else pack_constant(array, self.constant.pack))
