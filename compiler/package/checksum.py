"""CRC32C of the weights' segments, in NumPy: many segments at a time, so that no compiled code is needed to write."""

from __future__ import annotations

import numpy as np
from tilewright.runtime.format import SEGMENT

#: Castagnoli's polynomial, reflected (RFC 3720, appendix B.4).
POLYNOMIAL = 0x82F63B78
#: Segments summed together; their transposed copy stays within the caches.
BLOCK = 2048


def _tables() -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Four tables: the effect of a byte that is 0 to 3 bytes before the last one."""
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = np.where(first & 1, first >> 1 ^ np.uint32(POLYNOMIAL), first >> 1)
    tables = [first]
    for _ in range(3):
        tables.append(tables[-1] >> 8 ^ first[tables[-1] & 255])
    return np.stack(tables)


_TABLES = _tables()


def segment_sums(data: bytes | bytearray | memoryview) -> bytes:
    """Little-endian CRC32C of each :data:`SEGMENT` bytes of ``data``; the last segment may be shorter."""
    octets = np.frombuffer(data, np.uint8)
    whole = len(octets) // SEGMENT
    sums = [_sum_rows(octets[: whole * SEGMENT].reshape(whole, SEGMENT)[i : i + BLOCK]) for i in range(0, whole, BLOCK)]
    if len(octets) % SEGMENT:
        sums.append(_sum_rows(octets[whole * SEGMENT :].reshape(1, -1)))
    return b"".join(s.astype("<u4").tobytes() for s in sums)


def _sum_rows(rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    words = rows.shape[1] // 4
    columns = np.ascontiguousarray(np.ascontiguousarray(rows[:, : words * 4]).view("<u4").T)
    t0, t1, t2, t3 = _TABLES
    for column in columns:
        x = crc ^ column
        crc = t3[x & 255] ^ t2[x >> 8 & 255] ^ t1[x >> 16 & 255] ^ t0[x >> 24]
    for i in range(words * 4, rows.shape[1]):
        crc = t0[(crc ^ rows[:, i]) & 255] ^ crc >> 8
    return ~crc
