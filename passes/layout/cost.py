"""What layouts cost: what the choice of layouts asks, and the answer from the speed of a target's memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tilewright.cost.predict import Level, rates_of
from tilewright.target import Target

#: Bytes of the element by which vectors are counted.
_ELEMENT = 4


class LayoutCost(Protocol):
    """Seconds, for sizes in bytes. The driver hands one in that knows the targets (:func:`traffic_on`)."""

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
    """Every extra second is memory traffic, at the bandwidth of the level that holds the value: the same one for a copy
    as for a walk across memory, so that which of the two is cheaper does not hang on where caches end.

    A copy reads and writes each byte and is one more launch. A kernel that goes across memory order touches a line for
    each element; lines that stay in a cache until their other elements are used make that about one more pass over the
    data. A window operator does so on each of its passes; for fewer channels than a vector has lanes there is nothing
    to gain: the neighbours in memory are no vector in either layout.

    Attributes:
        levels: memory, fastest first. Default: a server of 2020 with two cores on one memory channel.
        launch: seconds of a kernel that does nothing. Default: some cache misses and a barrier.
        lanes: elements of a vector. Default: 256 bits of f32.
        share: of a bandwidth, what a mere copy reaches.
    """

    levels: tuple[Level, ...] = (Level("memory", 0, 2.0e10),)
    launch: float = 2.0e-6
    lanes: int = 8
    share: float = 1.0

    def conversion(self, size: float) -> float:
        """Read and written once, one launch."""
        return self.launch + 2 * size / (self.share * self._bandwidth(size))

    def across(self, size: float) -> float:
        """One more pass."""
        return size / self._bandwidth(size)

    def window(self, size: float, reuse: float, channels: float) -> float:
        """One more pass for each time a byte is read."""
        return max(1.0, reuse) * self.across(size) if channels >= self.lanes else 0.0

    def _bandwidth(self, size: float) -> float:
        return next((v.bandwidth for v in self.levels if v.size == 0 or size <= v.size), self.levels[-1].bandwidth)


@dataclass(frozen=True, slots=True)
class Together:
    """Targets that share a graph: the sum, so that no target pays much for what another one gains little by."""

    parts: tuple[LayoutCost, ...]

    def conversion(self, size: float) -> float:
        """See :class:`LayoutCost`."""
        return sum(p.conversion(size) for p in self.parts)

    def across(self, size: float) -> float:
        """See :class:`LayoutCost`."""
        return sum(p.across(size) for p in self.parts)

    def window(self, size: float, reuse: float, channels: float) -> float:
        """See :class:`LayoutCost`."""
        return sum(p.window(size, reuse, channels) for p in self.parts)


def traffic_on(targets: Iterable[Target]) -> LayoutCost:
    """The cost on ``targets`` together, each with one of its units, from their data."""
    parts = []
    for target in targets:
        rates = rates_of(target)
        lanes = max(1, target.vector_bytes // _ELEMENT)
        parts.append(Traffic(rates.levels, rates.launch, lanes, rates.memory.get("movement", 1.0)))
    return Together(tuple(parts))
