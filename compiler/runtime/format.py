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
#: SHA-256 of the manifest in hexadecimal; the manifest has those of everything else.
MANIFEST_HASH = "manifest.sha256"
WEIGHTS = "weights"
#: What each kernel has to do, by its name, as JSON (``tilewright.cost.record``). Nothing needs it to run a model: it is
#: absent in artifacts written before it was thought of, and a reader leaves members alone that it does not know.
KERNELS = "kernels.json"
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


def local_header(name: str, offset: int, size: int, crc: int, *, large: bool) -> bytes:
    """The header of a member at ``offset``, padded so that its data starts at a multiple of :data:`PAGE`."""
    extra = SIZES64.pack(1, SIZES64.size - 4, size, size) if large else b""
    # An extra field is at least an identifier, a length and the alignment it stands for.
    padding = -(offset + LOCAL.size + len(name) + len(extra) + 6) % PAGE
    extra += struct.pack("<3H", PADDING, 2 + padding, PAGE) + bytes(padding)
    shown, version = (LARGE, 45) if large else (size, 20)
    head = LOCAL.pack(b"PK\3\4", version, 0, 0, 0, DOS_DATE, crc, shown, shown, len(name), len(extra))
    return head + name.encode("ascii") + extra


def directory_record(name: str, offset: int, size: int, crc: int, *, large: bool) -> bytes:
    """The central directory's record of a member whose header is at ``offset``."""
    extra = PLACE64.pack(1, PLACE64.size - 4, size, size, offset) if large else b""
    shown, place, version = (LARGE, LARGE, 45) if large else (size, offset, 20)
    head = CENTRAL.pack(
        *(b"PK\1\2", version, version, 0, 0, 0, DOS_DATE, crc, shown, shown),
        *(len(name), len(extra), 0, 0, 0, 0, place),
    )
    return head + name.encode("ascii") + extra


def end_records(count: int, start: int, end: int, *, large: bool) -> bytes:
    """What follows a central directory of ``count`` records in ``[start, end)``."""
    if not large:
        return END.pack(b"PK\5\6", 0, 0, count, count, end - start, start, 0)
    return (
        END64.pack(b"PK\6\6", END64.size - 12, 45, 45, 0, 0, count, count, end - start, start)
        + LOCATOR.pack(b"PK\6\7", 0, end, 1)
        + END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, LARGE, LARGE, 0)
    )


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
    """Reads names, sizes and sums, and compares every other byte with what the writer would have written."""

    def __init__(self, data: memoryview):
        self._data = data

    def members(self) -> dict[str, Member]:
        start, end, count, large = self._find()
        _require(self._data[end:] == end_records(count, start, end, large=large), "its end is damaged")
        self._start, at = start, start
        found: dict[str, Member] = {}
        expected = 0
        for _ in range(count):
            _require(end - at >= CENTRAL.size, "its directory is cut short")
            member, at = self._member(at, end, expected)
            _require(member.name not in found, f"member {member.name} occurs twice")
            found[member.name] = member
            expected = member.offset + member.size
        _require(at == end, "its directory holds more than its members")
        _require(expected == start, "bytes lie between its members and its directory")
        return found

    def _find(self) -> tuple[int, int, int, bool]:
        """Start and end of the central directory, the number of its records, and whether the end is zip64."""
        data = self._data
        _require(len(data) >= END.size, "it is too short")
        end = len(data) - END.size
        magic, _, _, _, count, _, start, _ = END.unpack_from(data, end)
        _require(magic == b"PK\5\6", "its last bytes are missing")
        large = start == LARGE
        if large:
            end -= LOCATOR.size + END64.size
            _require(end >= 0, "it is too short")
            _, _, _, _, _, _, _, count, _, start = END64.unpack_from(data, end)
        _require(start <= end, "its directory is not where its end says")
        return start, end, count, large

    def _member(self, at: int, limit: int, expected: int) -> tuple[Member, int]:
        """The member whose record is at ``at`` and whose header is at ``expected``, and where the next record is."""
        data = self._data
        record = CENTRAL.unpack_from(data, at)
        crc, size, name_size, extra_size = record[7], record[9], record[10], record[11]
        name_at = at + CENTRAL.size
        after = name_at + name_size + extra_size
        _require(after <= limit, "its directory is cut short")
        name = bytes(data[name_at : name_at + name_size]).decode("ascii", "replace")
        _require(is_member_name(name), f"a member has the name {name!r}")
        large = size == LARGE
        if large:
            _require(extra_size == PLACE64.size, "a zip64 field is missing")
            size = PLACE64.unpack_from(data, name_at + name_size)[2]
        wanted = directory_record(name, expected, size, crc, large=large)
        _require(data[at:after] == wanted, "its members overlap, leave gaps, are compressed or are damaged")
        header = local_header(name, expected, size, crc, large=large)
        start = expected + len(header)
        _require(start + size <= self._start, "a member lies outside of it")
        _require(data[expected:start] == header, "a member's header is damaged")
        return Member(name, start, size), after
