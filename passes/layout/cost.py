"""What layouts cost: what the choice of layouts asks, and the answer from the speed of a target's memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tilewright.cost.predict import Level, rates_of
from tilewright.target import Target

#: Bytes of the element by which vectors are counted.
_ELEMENT = 4
#: Seconds that no other cost comes near.
_NEVER = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """What a window operator reads: each byte ``reuse`` times, for sums (or lanes) over ``channels`` channels of
    ``dtype``. ``product``: each filter is summed over all channels; ``pointwise``: its windows are single pixels, every
    one of them."""

    reuse: float
    channels: float
    dtype: str = "f32"
    product: bool = False
    pointwise: bool = False


class LayoutCost(Protocol):
    """Seconds, for sizes in bytes. The driver hands one in that knows the targets (:func:`traffic_on`)."""

    def conversion(self, size: float) -> float:
        """A kernel of its own that copies ``size`` bytes into another layout."""

    def across(self, size: float) -> float:
        """What it costs a kernel more to read or write ``size`` bytes in another order than that of its loops."""

    def window(self, size: float, window: Window) -> float:
        """What it costs a window operator more that the channels of the ``size`` bytes it reads are no neighbours."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Every extra second is memory traffic, at the bandwidth of the level that holds the value: the same one for a copy
    as for a walk across memory, so that which of the two is cheaper does not hang on where caches end.

    A copy reads and writes each byte and is one more launch. A kernel that goes across memory order touches a line for
    each element; lines that stay in a cache until their other elements are used make that about one more pass over the
    data. A window operator does so on each of its passes; for fewer channels than a vector has lanes there is nothing
    to gain: the neighbours in memory are no vector in either layout.

    A matrix unit may have no way at all to read convolutions from planes (``[layout]`` of a target's data).

    Attributes:
        levels: memory, fastest first. Default: a server of 2020 with two cores on one memory channel.
        launch: seconds of a kernel that does nothing. Default: some cache misses and a barrier.
        lanes: elements of a vector. Default: 256 bits of f32.
        share: of a bandwidth, what a mere copy reaches.
        planes: most channels of a convolution that are read from planes; ``None`` where there may be any number.
        turned: types of which a product takes pixels from planes nevertheless.
    """

    levels: tuple[Level, ...] = (Level("memory", 0, 2.0e10),)
    launch: float = 2.0e-6
    lanes: int = 8
    share: float = 1.0
    planes: int | None = None
    turned: frozenset[str] = frozenset()

    def conversion(self, size: float) -> float:
        """Read and written once, one launch."""
        return self.launch + 2 * size / (self.share * self._bandwidth(size))

    def across(self, size: float) -> float:
        """One more pass."""
        return size / self._bandwidth(size)

    def window(self, size: float, window: Window) -> float:
        """One more pass for each time a byte is read; more than anything else where there is no way."""
        passes = max(1.0, window.reuse) * self.across(size) if window.channels >= self.lanes else 0.0
        if self.planes is None or not window.product or window.channels <= self.planes:
            return passes
        return passes if window.pointwise and window.dtype in self.turned else passes + _NEVER

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

    def window(self, size: float, window: Window) -> float:
        """See :class:`LayoutCost`."""
        return sum(p.window(size, window) for p in self.parts)


def traffic_on(targets: Iterable[Target]) -> LayoutCost:
    """The cost on ``targets`` together, each with one of its units, from their data."""
    parts = []
    for target in targets:
        rates = rates_of(target)
        lanes = max(1, target.vector_bytes // _ELEMENT)
        read = target.extra.get("layout", {})
        planes, turned = read.get("planes"), frozenset(read.get("turned", ()))
        parts.append(Traffic(rates.levels, rates.launch, lanes, rates.memory.get("movement", 1.0), planes, turned))
    return Together(tuple(parts))
