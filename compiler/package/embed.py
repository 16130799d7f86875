"""Adds an artifact to a linked ELF library or program, as one more loadable segment, and tells it where that is.

The linker is not run on the weights: they are appended as they are, at a page boundary, so that the system maps them
like any part of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tilewright.errors import InternalError

#: The largest page size of the supported systems (aarch64).
PAGE = 65536
#: ``tw_embedded_place`` in ``embed.c``.
MARKER = b"TILEWRIGHT-PLACE-MARKER\0"

# System V ABI, edition 4.1, chapters 4 and 5 (64-bit, little-endian).
_HEADER = struct.Struct("<16s2HI3QI6H")
_SEGMENT = struct.Struct("<2I6Q")
_LOAD, _READ = 1, 4
#: Segments that only debuggers and unwinding read, and that may give their place to the artifact.
_SPARE = (0x6474E550, 4)  # PT_GNU_EH_FRAME, PT_NOTE


@dataclass(frozen=True, slots=True)
class _Segment:
    at: int  # of its record in the file
    kind: int
    offset: int
    address: int
    file_size: int
    memory_size: int


def embed_artifact(stub: bytes, artifact: bytes) -> bytes:
    """``stub`` with ``artifact`` inside. Raises ``InternalError`` when it has no marker or no segment to spare."""
    segments = _segments(stub)
    spare = [s for s in segments if s.kind in _SPARE]
    marker = stub.find(MARKER)
    if not spare or marker < 0 or stub.find(MARKER, marker + 1) >= 0:
        raise InternalError("the stub of an export has no room for an artifact")
    loaded = [s for s in segments if s.kind == _LOAD]
    home = next(s for s in loaded if s.offset <= marker < s.offset + s.file_size)
    offset = -(-len(stub) // PAGE) * PAGE
    address = max(-(-(s.address + s.memory_size) // PAGE) * PAGE for s in loaded)
    result = bytearray(stub)
    # Loadable segments are in ascending order of address: this one comes after the others and is the highest.
    _SEGMENT.pack_into(result, spare[0].at, _LOAD, _READ, offset, address, address, len(artifact), len(artifact), PAGE)
    distance = address - (home.address + marker - home.offset)
    struct.pack_into("<qQ", result, marker + len(MARKER), distance, len(artifact))
    if spare[0].at < max(s.at for s in loaded):
        raise InternalError("the stub of an export has its segments in an unexpected order")
    return bytes(result) + bytes(offset - len(stub)) + artifact


def _segments(stub: bytes) -> list[_Segment]:
    ident, *fields = _HEADER.unpack_from(stub)
    if ident[:6] != b"\x7fELF\2\1":
        raise InternalError("the stub of an export is no 64-bit ELF file")
    start, size, count = fields[4], fields[8], fields[9]
    found = []
    for at in range(start, start + size * count, size):
        kind, _, offset, address, _, file_size, memory_size, _ = _SEGMENT.unpack_from(stub, at)
        found.append(_Segment(at, kind, offset, address, file_size, memory_size))
    return found
