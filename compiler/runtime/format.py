"""The container of an artifact: a stored zip in one canonical form, so that reading it strictly is simple.

Members lie one after another from offset 0, each starting at a multiple of :data:`PAGE` (an extra field pads the
local header), followed by the central directory and its end records, and nothing else: no comments, no compression,
no gaps, no flags. Sizes and offsets that do not fit 32 bits use zip64. ``tilewright.h`` reads the same form.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.runtime.errors import ArtifactError

#: Version of everything in an artifact; a reader refuses others.
FORMAT_VERSION = 1
#: Version of the executor's C interface (``TW_ABI_VERSION``).
ABI_VERSION = 1
#: Alignment of members.
PAGE = 4096
#: Bytes of the weights that one CRC32C covers.
SEGMENT = 4096
#: Alignment of each tensor in the weights.
TENSOR_ALIGNMENT = 64

MANIFEST = "manifest.json"
WEIGHTS = "weights"
CHECKSUMS = "weights.crc32c"

# PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16.
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
SIZES64 = struct.Struct("<2H2Q")
PLACE64 = struct.Struct("<2H3Q")
#: 1980-01-01, the first day a zip can say: artifacts have no times.
DOS_DATE = 0x21
#: Marks a 32-bit field whose value is in a zip64 field.
LARGE = 0xFFFFFFFF
#: Extra field of the padding (the identifier that Android's zipalign uses).
PADDING = 0xD935

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes are in the file."""

    name: str
    offset: int
    size: int


def is_member_name(name: str) -> bool:
    """Whether ``name`` may name a member: a relative path of plain ASCII pieces, none starting with a dot."""
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def read_directory(data: memoryview, where: str) -> Mapping[str, Member]:
    """The members of an artifact, in the order of the file.

    Raises:
        ArtifactError: the bytes are not an artifact in canonical form; ``where`` names it in the message.
    """
    try:
        return _Directory(data).members()
    except (_MalformedError, struct.error) as error:
        raise ArtifactError(
            "artifact-damaged",
            where=where,
            cause=f"not a whole artifact: {error}",
            fix="copy or compile it again; an artifact may not be repacked with other zip programs",
        ) from None


class _MalformedError(Exception):
    pass


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _MalformedError(message)


class _Directory:
    def __init__(self, data: memoryview):
        self._data = data

    def members(self) -> dict[str, Member]:
        start, end, count = self._find()
        found: dict[str, Member] = {}
        at = expected = 0
        for _ in range(count):
            _require(end - start >= CENTRAL.size, "its directory is cut short")
            start, member, at = self._member(start, end, expected)
            _require(member.name not in found, f"member {member.name} occurs twice")
            found[member.name] = member
            expected = member.offset + member.size
        _require(start == end, "its directory holds more than its members")
        _require(expected == self._directory_start, "bytes lie between its members and its directory")
        del at
        return found

    def _find(self) -> tuple[int, int, int]:
        """Start and end of the central directory, and the number of members."""
        data = self._data
        _require(len(data) >= END.size, "it is too short")
        end = len(data) - END.size
        magic, disk, disk2, count, count2, size, start, comment = END.unpack_from(data, end)
        _require(magic == b"PK\5\6" and disk == disk2 == comment == 0, "its last bytes are missing")
        if start == LARGE:
            end -= LOCATOR.size
            _require(end >= END64.size, "it is too short")
            l_magic, l_disk, at, disks = LOCATOR.unpack_from(data, end)
            end -= END64.size
            _require((l_magic, l_disk, at, disks) == (b"PK\6\7", 0, end, 1), "its zip64 locator is damaged")
            e_magic, e_size, _, _, disk, disk2, count, count2, size, start = END64.unpack_from(data, end)
            _require((e_magic, e_size, disk, disk2) == (b"PK\6\6", END64.size - 12, 0, 0), "its zip64 end is damaged")
        _require(count == count2 and start + size == end, "its directory is not where its end says")
        self._directory_start = start
        return start, end, count

    def _member(self, at: int, limit: int, expected: int) -> tuple[int, Member, int]:
        """The member whose central record is at ``at``; its local header must be at ``expected``."""
        data = self._data
        record = CENTRAL.unpack_from(data, at)
        magic, _, _, flags, method, _, date, crc, stored, size, name_size, extra_size, comment, disk = record[:14]
        _, _, offset = record[14:]
        _require(magic == b"PK\1\2", "its directory is damaged")
        _require(method == 0 and stored == size, "a member is compressed")
        _require((flags, date, comment, disk) == (0, DOS_DATE, 0, 0), "a directory record is not in canonical form")
        after = at + CENTRAL.size + name_size + extra_size
        _require(after <= limit, "its directory is cut short")
        name_at = at + CENTRAL.size
        name = bytes(data[name_at : name_at + name_size])
        if size == LARGE:
            _require(extra_size == PLACE64.size, "a zip64 field is missing")
            kind, length, size, stored, offset = PLACE64.unpack_from(data, name_at + name_size)
            _require((kind, length, stored) == (1, PLACE64.size - 4, size), "a zip64 field is damaged")
        else:
            _require(extra_size == 0, "a directory record is not in canonical form")
        _require(offset == expected, "its members overlap or leave gaps")
        text = name.decode("ascii", "replace")
        _require(is_member_name(text), f"a member has the name {text!r}")
        start = self._local(offset, name, crc, size, record[9] == LARGE)
        return after, Member(text, start, size), start

    def _local(self, at: int, name: bytes, crc: int, size: int, large: bool) -> int:
        """Checks a local header against the directory; returns where the data starts."""
        data = self._data
        _require(at + LOCAL.size <= self._directory_start, "a member lies outside of it")
        magic, _, flags, method, _, date, crc2, stored, size2, name_size, extra_size = LOCAL.unpack_from(data, at)
        same = (magic, flags, method, date, crc2, stored, size2, name_size)
        wanted = LARGE if large else size
        _require(same == (b"PK\3\4", 0, 0, DOS_DATE, crc, wanted, wanted, len(name)), "a member's header is damaged")
        start = at + LOCAL.size + name_size + extra_size
        _require(start % PAGE == 0 and start + size <= self._directory_start, "a member lies outside of it")
        _require(bytes(data[at + LOCAL.size : at + LOCAL.size + name_size]) == name, "a member's header is damaged")
        return start
