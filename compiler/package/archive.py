"""Writes the container (see :mod:`tilewright.runtime.format`): the same members give the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from tilewright.errors import InternalError
from tilewright.runtime.format import LARGE, directory_record, end_records, is_member_name, local_header


@dataclass(frozen=True, slots=True)
class Written:
    """A member in the archive; ``offset`` is that of its local header."""

    name: str
    offset: int
    size: int
    crc: int
    sha256: str


class Archive:
    """A container being written to a seekable stream that is at offset 0.

    Args:
        stream: where the bytes go.
        force_zip64: use 64-bit fields even where 32 bits do.
    """

    def __init__(self, stream: BinaryIO, *, force_zip64: bool = False):
        self._stream, self._force = stream, force_zip64
        self.members: list[Written] = []

    def add(self, name: str, chunks: Iterable[bytes | memoryview], size: int) -> Written:
        """Append a member of ``size`` bytes from pieces that are read once, one at a time."""
        if not is_member_name(name) or any(m.name == name for m in self.members):
            raise InternalError(f"artifact member {name!r}: a bad name, or named twice")
        offset = self._stream.tell()
        self._stream.write(self._local(name, offset, size, 0))
        crc, digest, count = 0, hashlib.sha256(), 0
        for chunk in chunks:
            crc, count = zlib.crc32(chunk, crc), count + len(chunk)
            digest.update(chunk)
            self._stream.write(chunk)
        if count != size:
            raise InternalError(f"artifact member {name!r}: {count} bytes instead of {size}")
        end = self._stream.tell()
        self._stream.seek(offset)
        self._stream.write(self._local(name, offset, size, crc))
        self._stream.seek(end)
        member = Written(name, offset, size, crc, digest.hexdigest())
        self.members.append(member)
        return member

    def close(self) -> None:
        """Write the directory."""
        start = self._stream.tell()
        for m in self.members:
            large = self._large(m.size, m.offset)
            self._stream.write(directory_record(m.name, m.offset, m.size, m.crc, large=large))
        end, count = self._stream.tell(), len(self.members)
        self._stream.write(end_records(count, start, end, large=self._large(start, end) or count >= 0xFFFF))

    def _large(self, *values: int) -> bool:
        return self._force or any(v >= LARGE for v in values)

    def _local(self, name: str, offset: int, size: int, crc: int) -> bytes:
        return local_header(name, offset, size, crc, large=self._large(size, offset))
