"""What the timing of a launch found: cycles, shares of the pipes, waits, and what happened when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.backends.ascend.simulator.traffic import Rates


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a pipe does, or waits for, from one cycle to another."""

    core: int
    pipe: str
    start: float
    end: float
    name: str
    where: str
    stall: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """What a launch takes on the model.

    Attributes:
        cycles: from the first issue to the end of the last pipe, of the slowest simulated group.
        mhz: cycles a microsecond.
        macs, peak: multiply-adds of the launch, and those possible in ``cycles`` on all cube cores of the device.
        busy: share of ``cycles`` in which a pipe works, by (kind of core, pipe), averaged over the simulated cores.
        stalls: cycles waited by (kind of core, pipe, reason), summed over the simulated cores, largest first.
        spans: what happened, for a timeline; empty unless asked for.
        cores: kinds of the simulated cores, by number.
        groups, simulated, blocks: groups of cores of the launch, how many of them were simulated, its blocks.
        statements: statements issued by the simulated cores.
        rates: bytes a cycle of the tensors.
    """

    cycles: float
    mhz: float
    macs: float
    peak: float
    busy: Mapping[tuple[str, str], float]
    stalls: tuple[tuple[str, str, str, float], ...]
    spans: tuple[Span, ...]
    cores: tuple[str, ...]
    groups: int
    simulated: int
    blocks: int
    statements: int
    rates: Rates

    @property
    def microseconds(self) -> float:
        return self.cycles / self.mhz

    @property
    def utilisation(self) -> float:
        """Multiply-adds done over those that the device's cube units could have done in the time."""
        return self.macs / self.peak if self.peak else 0.0

    @property
    def waits(self) -> tuple[tuple[str, str, str, float], ...]:
        """What is waited for, in shares of the time of a core: first what holds up the cube unit, or where there is no
        product the busiest pipe, then the rest; largest first."""
        first = ("cube", "M") if ("cube", "M") in self.busy else ("fused", "M")
        if first not in self.busy:
            first = max(self.busy, key=lambda k: self.busy[k], default=first)
        kinds = {kind: self.cores.count(kind) for kind in self.cores}
        shares = [(k, p, why, cycles / kinds[k] / self.cycles) for k, p, why, cycles in self.stalls]
        return tuple(sorted(shares, key=lambda s: ((s[0], s[1]) != first, -s[3])))
