"""``modules.bin`` read back; :mod:`tilewright.backends.cuda.modules` writes it and says what is in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC, VERSION = 0x444D5754, 1
_HEADER = struct.Struct("<6IQ")
_FIXED = 15
_ALIGNMENT = 64

#: Kinds of parameters, the low byte of their words.
BUFFER, DIM32, DIM64, GLOBAL_SCRATCH, PROFILE_SCRATCH, WORKSPACE, FAULT = range(7)


@dataclass(frozen=True, slots=True)
class Code:
    """One kernel as it is stored. ``parameters`` are pairs of a kind and a position; sizes are in bytes."""

    entry: str
    threads: int
    shared: int
    global_scratch: int
    profile_scratch: int
    counters: int
    cubin: bytes
    ptx: bytes
    parameters: tuple[tuple[int, int], ...]


def decode_modules(data: bytes) -> tuple[int, tuple[Code, ...]]:
    """The architecture (90) and the kernels of a ``modules.bin``. Raises ``ValueError`` for anything else."""
    try:
        magic, version, arch, count, words, strings, blobs = _HEADER.unpack_from(data)
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError("it does not start as a modules.bin of version 1 does")
        text_start = _HEADER.size + 4 * words
        start = text_start + strings
        start += -start % _ALIGNMENT
        if len(data) != start + blobs:
            raise ValueError("its parts do not add up to its size")
        word = struct.unpack_from(f"<{words}I", data, _HEADER.size)
        return arch, _codes(word, data[text_start : text_start + strings], data[start:], count)
    except (struct.error, IndexError) as error:
        raise ValueError(f"damaged: {error}") from error


def _codes(word: tuple[int, ...], strings: bytes, blobs: bytes, count: int) -> tuple[Code, ...]:
    codes: list[Code] = []
    at = 0
    for _ in range(count):
        fixed = word[at : at + _FIXED]
        entry, threads, shared, scratch, profile, counters = fixed[:6]
        wide = [low | high << 32 for low, high in zip(fixed[6:14:2], fixed[7:14:2], strict=True)]
        parameters = word[at + _FIXED : at + _FIXED + fixed[14]]
        if len(parameters) != fixed[14] or wide[0] + wide[1] > len(blobs) or wide[2] + wide[3] > len(blobs):
            raise ValueError(f"kernel {len(codes)} reaches beyond the file")
        codes.append(
            Code(
                strings[entry : strings.index(b"\0", entry)].decode(),
                *(threads, shared, scratch, profile, counters),
                blobs[wide[0] : wide[0] + wide[1]],
                blobs[wide[2] : wide[2] + wide[3]],
                tuple((p & 0xFF, p >> 8) for p in parameters),
            )
        )
        at += _FIXED + fixed[14]
    return tuple(codes)
