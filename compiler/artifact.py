"""What a compilation gives: the parts of an artifact, not yet written, and the report."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from tilewright.errors import ResourceError
from tilewright.ir.graph import constant_array
from tilewright.kernel.pack import in_memory, pack_constant
from tilewright.package.atomic import atomic_file
from tilewright.package.writer import ArtifactSize, Contents, Part, compose_artifact
from tilewright.plan.build import PackedConstant
from tilewright.report import Report

if TYPE_CHECKING:
    from tilewright.quantization.verification import Evidence


@dataclass(frozen=True)
class Artifact:
    """A compiled model in memory. Weights are read from the model's files again when it is written.

    Attributes:
        parts: one a target.
        constants: contents by name.
        runtimes: executor libraries by processor family.
        provenance: where it comes from.
        facts: the report without what only the written file can tell.
        kernels: the record of each kernel's work (:func:`tilewright.cost.record_of`) by its name.
        evidence: what a check of a quantized artifact needs beside it; not in the file.
    """

    parts: tuple[Part, ...]
    constants: Mapping[str, Contents]
    runtimes: Mapping[str, bytes]
    provenance: Mapping[str, Any]
    facts: Report
    kernels: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = None

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises ``ResourceError`` for a full disk or a read-only folder."""
        with atomic_file(Path(path)) as stream:
            self._composed.stream.seek(0)
            shutil.copyfileobj(self._composed.stream, stream, _PIECE)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        self._composed.stream.seek(0)
        return self._composed.stream.read()

    @cached_property
    def report(self) -> Report:
        """What the compilation tells, the finished file's size and hash included."""
        done = self._composed
        return replace(self.facts, artifact_bytes=done.size.total, weight_bytes=done.size.weights, sha256=done.sha256)

    @cached_property
    def _composed(self) -> _Composed:
        """The file without a name, so that weights are packed and hashed once and never all in memory."""
        try:
            stream = tempfile.TemporaryFile(prefix="tilewright-")  # noqa: SIM115 (lives as long as the artifact)
            size = compose_artifact(
                stream, self.parts, self.constants, self.runtimes, self.provenance, kernels=self.kernels
            )
            stream.seek(0)
            return _Composed(stream, size, hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise ResourceError(
                "disk-full",
                where=tempfile.gettempdir(),
                cause=f"the artifact cannot be put together there ({error.strerror})",
                fix="free some space, or set TMPDIR to a folder with room for the weights",
            ) from error


@dataclass(frozen=True, slots=True)
class _Composed:
    stream: IO[bytes]
    size: ArtifactSize
    sha256: str


_PIECE = 1 << 20


def contents_of(constants: Sequence[PackedConstant]) -> dict[str, Contents]:
    """What makes each constant's bytes, by name; called when the artifact is written."""
    return {c.constant.name: _Contents(c) for c in constants}


@dataclass(frozen=True, slots=True)
class _Contents:
    constant: PackedConstant

    def __call__(self) -> np.ndarray[Any, np.dtype[Any]]:
        array = constant_array(self.constant.value)
        array = array if self.constant.pack is None else pack_constant(array, self.constant.pack)
        return in_memory(array, self.constant.constant.dtype)
