"""Writes the container (see :mod:`tilewright.runtime.format`): the same members give the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from tilewright.errors import InternalError
from tilewright.runtime.format import (
    CENTRAL,
    DOS_DATE,
    END,
    END64,
    LARGE,
    LOCAL,
    LOCATOR,
    PADDING,
    PAGE,
    PLACE64,
    SIZES64,
    is_member_name,
)


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
        for member in self.members:
            self._stream.write(self._central(member))
        end = self._stream.tell()
        count, size = len(self.members), end - start
        if self._large(start, size) or count >= 0xFFFF:
            self._stream.write(END64.pack(b"PK\6\6", END64.size - 12, 45, 45, 0, 0, count, count, size, start))
            self._stream.write(LOCATOR.pack(b"PK\6\7", 0, end, 1))
            count, size, start = 0xFFFF, LARGE, LARGE
        self._stream.write(END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0))

    def _large(self, *values: int) -> bool:
        return self._force or any(v >= LARGE for v in values)

    def _local(self, name: str, offset: int, size: int, crc: int) -> bytes:
        large = self._large(size, offset)
        extra = SIZES64.pack(1, SIZES64.size - 4, size, size) if large else b""
        # An extra field is at least an identifier, a length and the alignment it stands for.
        padding = -(offset + LOCAL.size + len(name) + len(extra) + 6) % PAGE
        extra += PADDING.to_bytes(2, "little") + (2 + padding).to_bytes(2, "little") + PAGE.to_bytes(2, "little")
        extra += bytes(padding)
        shown, version = (LARGE, 45) if large else (size, 20)
        head = LOCAL.pack(b"PK\3\4", version, 0, 0, 0, DOS_DATE, crc, shown, shown, len(name), len(extra))
        return head + name.encode("ascii") + extra

    def _central(self, m: Written) -> bytes:
        large = self._large(m.size, m.offset)
        extra = PLACE64.pack(1, PLACE64.size - 4, m.size, m.size, m.offset) if large else b""
        shown, place, version = (LARGE, LARGE, 45) if large else (m.size, m.offset, 20)
        head = CENTRAL.pack(
            *(b"PK\1\2", version, version, 0, 0, 0, DOS_DATE, m.crc, shown, shown),
            *(len(m.name), len(extra), 0, 0, 0, 0, place),
        )
        return head + m.name.encode("ascii") + extra
