"""Memory with a clock for every block of 32 bytes: who wrote it last, who has read it since, and in whose name.

Order is known only through flags and barriers: an access that is not ordered after a conflicting earlier one is a race,
whatever order the pipes happened to run in here. The memories of a core are accessed from multiples of 32 bytes on, so
two accesses meet in a block of 32 bytes if and only if they meet in a byte; which bytes were written is kept bit by
bit. Global memory is accessed from anywhere: there a block is cut smaller as soon as an access does not fill it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import Geometry, Index, Touch, parts, units

Array = np.ndarray[Any, Any]
Clock = np.ndarray[Any, np.dtype[np.int64]]
Where = Index | slice

UNIT = 32
_ALL = np.uint32(0xFFFFFFFF)


class State:
    """Bytes of one memory, with the state that races and stale reads are told from.

    ``writer``/``tick``: pipe and statement number of the last write (-1: none); ``readers``: per pipe, the statement
    number of its last read since; ``owner``: the buffer in whose name a block was written (-1: nobody wrote it);
    ``valid``: which of its bytes. A ``fixed`` memory is never written and has none of these.
    """

    def __init__(self, size: int, *, core: bool, fixed: bool = False):
        self.data = np.zeros(size, np.uint8)
        self.core, self.fixed, self.size, self.unit = core, fixed, size, UNIT
        count = 0 if fixed else -(-size // UNIT)
        self.writer = np.full(count, -1, np.int16)
        self.tick = np.zeros(count, np.int64)
        self.owner = np.full(count, -1, np.int16)
        self.valid = np.zeros(count, np.uint32)
        self.readers: dict[int, Clock] = {}

    def place(self, t: Touch, g: Geometry) -> tuple[Where, Array | None]:
        """The blocks of an access, and which bytes of each (``None``: all of them)."""
        if self.core:
            return units(t, g, UNIT), parts(t, g, UNIT)
        while self.unit > 1 and parts(t, g, self.unit) is not None:
            self._refine()
        return units(t, g, self.unit), None

    def _refine(self) -> None:
        self.unit //= 2
        count = -(-self.size // self.unit)
        self.writer, self.owner = np.repeat(self.writer, 2)[:count], np.repeat(self.owner, 2)[:count]
        self.tick, self.valid = np.repeat(self.tick, 2)[:count], np.repeat(self.valid, 2)[:count]
        self.readers = {pipe: np.repeat(a, 2)[:count] for pipe, a in self.readers.items()}

    def behind(self, size: int, value: int, owner: int) -> None:
        """The bytes from ``size`` on have a value from the start, in the name of ``owner``."""
        self.data[size:] = value
        if not self.fixed:
            while size % self.unit:
                self._refine()
            self.owner[size // self.unit :], self.valid[size // self.unit :] = owner, _ALL

    # -- order ---------------------------------------------------------------------------------------------------

    def late_writer(self, where: Where, clock: Clock) -> tuple[int, int] | None:
        """A last write of ``where`` that ``clock`` does not know to have ended: (pipe, statement number)."""
        writer, tick = self.writer[where], self.tick[where]
        # Index -1 (nobody) reads the last entry of the clock, but its tick is 0, which is always known.
        late = tick > clock[writer]
        if late.any():
            at = int(np.argmax(late))
            return int(writer[at]), int(tick[at])
        return None

    def late_reader(self, where: Where, clock: Clock) -> tuple[int, int] | None:
        """A read of ``where`` since its last write that ``clock`` does not know to have ended."""
        for pipe, ticks in self.readers.items():
            latest = int(ticks[where].max())
            if latest > clock[pipe]:
                return pipe, latest
        return None

    def record_read(self, where: Where, pipe: int, tick: int) -> None:
        if pipe not in self.readers:
            self.readers[pipe] = np.zeros(len(self.writer), np.int64)
        self.readers[pipe][where] = tick

    def record_write(self, where: Where, part: Array | None, pipe: int, tick: int, owner: int) -> None:
        """A write of the bytes ``part``: the rest of a block stays what it was, unless it was another buffer's."""
        if part is None:
            self.valid[where] = _ALL
        else:
            self.valid[where] = np.where(self.owner[where] == owner, self.valid[where] | part, part)
        self.writer[where] = pipe
        self.tick[where] = tick
        self.owner[where] = owner
        for ticks in self.readers.values():
            ticks[where] = 0

    # -- what is there -------------------------------------------------------------------------------------------

    def unwritten(self, where: Where, part: Array | None) -> bool:
        """Whether some of the bytes were written by nobody, or became undefined."""
        wanted = _ALL if part is None else part
        return bool(((self.valid[where] & wanted) != wanted).any())

    def spoiler(self, where: Where, part: Array | None) -> tuple[int, int] | None:
        """Who wrote last where bytes are undefined, if anybody did: (pipe, statement number)."""
        wanted = _ALL if part is None else part
        at = int(np.argmax((self.valid[where] & wanted) != wanted))
        pipe = int(self.writer[where][at])
        return None if pipe < 0 else (pipe, int(self.tick[where][at]))

    def foreign(self, where: Where, owner: int) -> tuple[int, int, int] | None:
        """A block that is another buffer's, if there is one: its owner, and who wrote it (pipe, statement number)."""
        owners = self.owner[where]
        others = (owners != owner) & (owners != -1)
        if not others.any():
            return None
        at = int(np.argmax(others))
        return int(owners[at]), int(self.writer[where][at]), int(self.tick[where][at])

    def spoil(self, where: Where, part: Array | None) -> None:
        """These bytes become undefined."""
        self.valid[where] &= ~(_ALL if part is None else part)

    def defined(self, owner: int, size: int) -> Array:
        """For each element of ``size`` bytes of the memory, whether it was written in the name of ``owner``."""
        if not self.core:
            whole = (self.owner == owner) & (self.valid == _ALL)
            return np.ascontiguousarray(np.repeat(whole, self.unit)[: self.size : size].astype(np.uint8))
        mine = np.where(self.owner == owner, self.valid, np.uint32(0)).astype("<u4")
        return np.ascontiguousarray(np.unpackbits(mine.view(np.uint8), bitorder="little")[::size])

    def define(self, where: Where, elements: Array, size: int) -> None:
        """Keep as written only those of ``elements`` (as :meth:`defined` gives them) within ``where``."""
        bits = np.packbits(np.repeat(elements, size), bitorder="little").view("<u4")
        self.valid[where] = bits[where]
