"""Memory with a vector clock for every byte: who wrote it last, who has read it since, and in whose name.

Order is known only through flags and barriers: an access that is not ordered after a conflicting earlier one is a race,
whatever order the pipes happened to run in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import Index
from tilewright.errors import InternalError

Where = Index | slice
Clock = np.ndarray[Any, np.dtype[np.int64]]


class Refused(InternalError):
    """The checker refuses a placed program. ``kind`` names the rule; ``first`` and ``second`` the statements."""

    def __init__(self, kind: str, message: str, first: str = "", second: str = ""):
        text = f"{kind}: {message}"
        if first:
            text += f"\n  first:  {first}"
        if second:
            text += f"\n  second: {second}"
        super().__init__(text)
        self.kind, self.first, self.second = kind, first, second


@dataclass(slots=True)
class Memory:
    """Bytes of one memory, with the state that races and stale reads are told from.

    ``writer``/``tick``: pipe and statement number of the last write (-1: none); ``readers``: per pipe, the statement
    number of its last read since; ``owner``: the buffer in whose name a byte was written (-1: nobody wrote it).
    """

    name: str
    size: int
    data: np.ndarray[Any, np.dtype[np.uint8]] = field(init=False)
    writer: np.ndarray[Any, np.dtype[np.int16]] = field(init=False)
    tick: Clock = field(init=False)
    owner: np.ndarray[Any, np.dtype[np.int16]] = field(init=False)
    readers: dict[int, Clock] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.data = np.zeros(self.size, np.uint8)
        self.writer = np.full(self.size, -1, np.int16)
        self.tick = np.zeros(self.size, np.int64)
        self.owner = np.full(self.size, -1, np.int16)

    def unordered_writer(self, where: Where, clock: Clock) -> tuple[int, int] | None:
        """A last write of ``where`` that ``clock`` does not know to have ended: (pipe, statement number)."""
        writer = self.writer[where]
        # Index -1 (nobody) reads the last entry of the clock, but its tick is 0, which is always known.
        late = self.tick[where] > clock[writer]
        if late.any():
            at = int(np.argmax(late))
            return int(writer[at]), int(self.tick[where][at])
        return None

    def unordered_reader(self, where: Where, clock: Clock) -> tuple[int, int] | None:
        """A read of ``where`` since its last write that ``clock`` does not know to have ended."""
        for pipe, ticks in self.readers.items():
            latest = int(ticks[where].max())
            if latest > clock[pipe]:
                return pipe, latest
        return None

    def record_read(self, where: Where, pipe: int, tick: int) -> None:
        if pipe not in self.readers:
            self.readers[pipe] = np.zeros(self.size, np.int64)
        self.readers[pipe][where] = tick

    def record_write(self, where: Where, pipe: int, tick: int, owner: int) -> None:
        self.writer[where] = pipe
        self.tick[where] = tick
        self.owner[where] = owner
        for ticks in self.readers.values():
            ticks[where] = 0
