"""Artifacts with members changed and every hash made right again: what a hostile writer would send."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from tilewright.package.archive import Archive
from tilewright.package.checksum import segment_sums
from tilewright.runtime.format import CHECKSUMS, MANIFEST, MANIFEST_HASH, WEIGHTS, read_directory


def members(artifact: bytes) -> dict[str, bytes]:
    """Contents by member name, in file order."""
    found = read_directory(memoryview(artifact), "test")
    return {name: artifact[m.offset : m.offset + m.size] for name, m in found.items()}


def pack(contents: Mapping[str, bytes]) -> bytes:
    """A container of these members."""
    stream = io.BytesIO()
    archive = Archive(stream)
    for name, data in contents.items():
        archive.add(name, [data], len(data))
    archive.close()
    return stream.getvalue()


def rewrite(
    artifact: bytes, changes: Mapping[str, bytes], edit: Callable[[dict[str, Any]], None] | None = None
) -> bytes:
    """``artifact`` with members replaced, its manifest edited, and all hashes and sums recomputed."""
    contents = {**members(artifact), **changes}
    contents[CHECKSUMS] = segment_sums(contents[WEIGHTS])
    manifest = json.loads(contents.pop(MANIFEST))
    contents.pop(MANIFEST_HASH)
    manifest["members"] = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in contents.items()}
    if edit is not None:
        edit(manifest)
    return seal(contents, json.dumps(manifest).encode())


def seal(contents: Mapping[str, bytes], manifest: bytes) -> bytes:
    """A container of members and a manifest with its right hash."""
    digest = hashlib.sha256(manifest).hexdigest().encode()
    return pack({**contents, MANIFEST: manifest, MANIFEST_HASH: digest})
