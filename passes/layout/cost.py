"""What layouts cost: the questions that the choice of layouts asks, and the answer from a memory's speed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class LayoutCost(Protocol):
    """Seconds, for sizes in bytes. The driver hands one in that knows a target; :class:`Traffic` is the default."""

    def conversion(self, size: float) -> float:
        """A kernel of its own that copies ``size`` bytes into another layout."""

    def across(self, size: float) -> float:
        """What it costs a kernel more to read or write ``size`` bytes in another order than that of its loops."""

    def window(self, size: float, reuse: float, channels: float) -> float:
        """What it costs a window operator more that its channels are not neighbours in memory.

        It reads ``size`` bytes, each ``reuse`` times, for sums (or lanes) over ``channels`` channels.
        """


@dataclass(frozen=True, slots=True)
class Traffic:
    """Every extra second is memory traffic.

    A copy reads and writes each byte and is one more launch. A kernel that goes across memory order touches a line for
    each element; lines that stay in a cache until their other elements are used make that about one more pass over the
    data. A window operator does so on each of its passes; for fewer channels than a vector has lanes there is nothing
    to gain: the neighbours in memory are no vector in either layout.

    Attributes:
        bandwidth: bytes a second. Default: two cores of a server of 2020 on one memory channel.
        launch: seconds of a kernel that does nothing. Default: some cache misses and a barrier.
        lanes: elements of a vector. Default: 256 bits of f32.
    """

    bandwidth: float = 2.0e10
    launch: float = 2.0e-6
    lanes: int = 8

    def conversion(self, size: float) -> float:
        """Read and written once, one launch."""
        return self.launch + 2 * size / self.bandwidth

    def across(self, size: float) -> float:
        """One more pass."""
        return size / self.bandwidth

    def window(self, size: float, reuse: float, channels: float) -> float:
        """One more pass for each time a byte is read."""
        return size * max(1.0, reuse) / self.bandwidth if channels >= self.lanes else 0.0
