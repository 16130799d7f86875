"""Predicted time of a kernel on a target: a roofline with the share of each roof that a class of kernels reaches.

The roofline model: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009; with a ceiling for each level of memory as in Ilic, Pratas and Sousa, "Cache-aware
roofline model", IEEE CAL 13(1), 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.cost.work import Amount, Work, work_of
from tilewright.kernel.tile import Kernel
from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class Level:
    """A memory level as some threads see it together: bytes (0: unbounded), and bytes a second."""

    name: str
    size: int
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What some threads of a target do in a second.

    Attributes:
        operations: plain operations a second at most, by dtype.
        levels: memory, fastest first.
        functions: how many plain operations one call of a function costs, by its name in the tile IR.
        compute: share of ``operations`` that a class of kernels reaches when it computes; 1 where none was measured.
        memory: share of a level's bandwidth that a class reaches.
        launch: seconds to start a kernel.
    """

    operations: Mapping[str, float]
    levels: tuple[Level, ...]
    functions: Mapping[str, float]
    compute: Mapping[str, float]
    memory: Mapping[str, float]
    launch: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted seconds of one launch; the larger of ``compute`` and ``memory`` counts.

    Attributes:
        seconds: of the launch.
        compute: of its operations alone.
        memory: of its bytes alone.
        bound: ``compute``, ``memory`` or ``launch``, whichever is the largest part.
        level: the memory level that inputs and outputs come from.
    """

    seconds: float
    compute: float
    memory: float
    bound: str
    level: str


def rates_of(target: Target, threads: int = 1) -> Rates:
    """The rates of ``threads`` of a target's units, from its data.

    A target's numbers are those of all its units. Of a level that units share (``cost.core``), a unit draws no more
    than its own number there; every other level belongs to a unit, so that threads add up. A target without
    measured shares gets its roofs themselves: predictions are then lower bounds.
    """
    table = target.extra.get("cost", {})
    used = min(threads, target.units)
    alone = table.get("core", {})
    levels = []
    for memory in target.memory.values():
        if memory.bandwidth <= 0:
            continue  # registers: their traffic is part of an operation
        if memory.name in alone:
            levels.append(Level(memory.name, memory.size, min(memory.bandwidth, used * float(alone[memory.name]))))
        else:
            levels.append(Level(memory.name, memory.size * used, memory.bandwidth * used / target.units))
    return Rates(
        operations={dtype: peak * used / target.units for dtype, peak in target.peak.items()},
        levels=tuple(levels),
        functions=table.get("functions", {}),
        compute=table.get("compute", {}),
        memory=table.get("memory", {}),
        launch=float(table.get("launch", 0.0)),
    )


def device_rates(target: Target) -> Rates:
    """The rates of all of a device. Inputs and outputs come from its memory: nothing nearer is sure to keep what one
    launch writes until the next one reads it."""
    rates = rates_of(target, target.units)
    return replace(rates, levels=rates.levels[-1:])


def predict(work: Work, rates: Rates, sizes: Mapping[str, int], resident: int = 0) -> Prediction:
    """Predicted time of one launch at ``sizes``.

    ``launch + max(operations / (peak × share), bytes / (bandwidth × share))``. Inputs and outputs come from the fastest
    level that holds all the kernel touches; constants from the fastest that holds ``resident`` bytes, what one run
    reads of all constants (0: this kernel's alone), since the others of a run drive them out.
    """
    amount = work.at(sizes)
    compute = operations(amount, rates) / (peak(work, rates) * rates.compute.get(work.kind, 1.0))
    level = level_for(amount.bytes, rates)
    far = level_for(max(resident, amount.bytes), rates)
    moved = (amount.read + amount.written) / level.bandwidth + amount.constants / far.bandwidth
    memory = moved / rates.memory.get(work.kind, 1.0)
    parts = {"compute": compute, "memory": memory, "launch": rates.launch}
    bound = max(parts, key=lambda name: parts[name])
    return Prediction(rates.launch + max(compute, memory), compute, memory, bound, level.name)


def predicted_seconds(kernel: Kernel, target: Target, sizes: Mapping[str, int], threads: int = 1) -> float:
    """Predicted seconds of a launch of ``kernel``, its constants as near as its inputs; see :func:`predict`."""
    return predict(work_of(kernel), rates_of(target, threads), sizes).seconds


def operations(amount: Amount, rates: Rates) -> float:
    """Plain operations, functions weighed by what they cost (1 where the target does not say)."""
    return amount.flops + sum(rates.functions.get(name, 1.0) * n for name, n in amount.functions.items())


def peak(work: Work, rates: Rates) -> float:
    """Operations a second in the kernel's dtype; unsigned integers as signed ones, a type without arithmetic of its own
    as the 32-bit one into which it is widened, and where there is none either, as the slowest."""
    signed = work.dtype.replace("u", "i")
    wide = "i32" if signed.startswith("i") else "f32"
    return rates.operations.get(signed) or rates.operations.get(wide) or min(rates.operations.values())


def level_for(count: int, rates: Rates) -> Level:
    """The fastest level that holds ``count`` bytes."""
    for level in rates.levels:
        if level.size == 0 or count <= level.size:
            return level
    return rates.levels[-1]
