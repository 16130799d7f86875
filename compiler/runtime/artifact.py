"""An artifact that was opened: its members, checked before anything of them is used. Nothing here runs its code."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
from tilewright.runtime.errors import ArtifactError, InputError, ResourceError
from tilewright.runtime.format import CHECKSUMS, MANIFEST, MANIFEST_HASH, SEGMENT, WEIGHTS, Member, read_directory
from tilewright.runtime.manifest import Manifest, parse_manifest

Source = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview]


class Artifact:
    """A whole artifact with an intact manifest.

    Attributes:
        where: what messages call it: its path.
        manifest: what it says.
        members: where its members are in ``data``.
        data: all its bytes; mapped, unless asked not to be.
    """

    def __init__(self, where: str, data: memoryview):
        self.where, self.data = where, data
        self.members: Mapping[str, Member] = read_directory(data, where)
        for name in (MANIFEST, MANIFEST_HASH, WEIGHTS, CHECKSUMS):
            if name not in self.members:
                raise self.damaged(name, "it is missing")
        text = bytes(self.bytes_of(MANIFEST))
        if hashlib.sha256(text).hexdigest().encode() != bytes(self.bytes_of(MANIFEST_HASH)):
            raise self.damaged(MANIFEST, "its SHA-256 does not match")
        self.manifest: Manifest = parse_manifest(text, where)
        sizes = {name: m.size for name, m in self.members.items() if name not in (MANIFEST, MANIFEST_HASH)}
        if sizes != dict(self.manifest.sizes):
            raise self.damaged(MANIFEST, "it lists other members than there are")
        if self.members[CHECKSUMS].size != 4 * -(-self.members[WEIGHTS].size // SEGMENT):
            raise self.damaged(CHECKSUMS, "it has another length than the weights need")

    def bytes_of(self, name: str) -> memoryview:
        """A member's bytes, unchecked. Raises :class:`ArtifactError` when there is none of that name."""
        member = self.members.get(name)
        if member is None:
            raise self.damaged(name, "it is missing")
        return self.data[member.offset : member.offset + member.size]

    def checked(self, name: str) -> memoryview:
        """A member's bytes after its SHA-256 was checked. Raises :class:`ArtifactError`."""
        data = self.bytes_of(name)
        if hashlib.sha256(data).hexdigest() != self.manifest.hashes.get(name):
            raise self.damaged(name, "its SHA-256 does not match the manifest")
        return data

    def verify(self) -> None:
        """Check the SHA-256 of every member, weights too. Raises :class:`ArtifactError` for the first that differs."""
        for name in self.manifest.hashes:
            self.checked(name)

    def damaged(self, member: str, cause: str) -> ArtifactError:
        """The error that a member is damaged."""
        return ArtifactError(
            "artifact-damaged",
            where=f"{self.where}, {member}",
            cause=cause,
            fix="copy or compile the artifact again",
        )


def open_artifact(source: Source, *, use_mmap: bool = True) -> Artifact:
    """Open an artifact: a path, or its bytes.

    Args:
        source: a regular file, or bytes that stay as they are while the artifact is used.
        use_mmap: map the file (it must then not be changed in place); otherwise read it into memory.

    Raises:
        ArtifactError: not an artifact, damaged, truncated or of another version (exit 9).
        InputError: no such file (exit 2).
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return Artifact("artifact in memory", memoryview(source).cast("B").toreadonly())
    path = Path(source)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(
                    "no-such-file", where=str(path), cause="not a regular file", fix="name an artifact file"
                )
            if use_mmap and status.st_size:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            else:
                data = aligned_copy(file.read()).data.toreadonly()
    except OSError as error:
        fix = "check the path and its permissions"
        raise InputError("no-such-file", where=str(path), cause=str(error.strerror or error), fix=fix) from None
    except MemoryError:
        fix = "map the file instead of reading it"
        raise ResourceError("out-of-memory", where=str(path), cause="no memory for the file", fix=fix) from None
    return Artifact(str(path), data)


def aligned_copy(data: bytes | memoryview) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A copy of ``data`` at an address that is a multiple of 64, so that offsets in the file keep their alignment."""
    raw = np.empty(len(data) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    result = raw[start : start + len(data)]
    result[:] = np.frombuffer(data, np.uint8)
    return result
