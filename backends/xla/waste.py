"""What padding costs: how much of a program's arithmetic is on elements that no run asked for.

These are shares of work (:mod:`tilewright.backends.xla.work`), not of time: what is small may wait for memory or for
the launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from tilewright.backends.xla.buckets import Bucket
from tilewright.backends.xla.work import evaluated, work_of
from tilewright.ir.ranges import Range
from tilewright.passes.place import Region

#: Sizes of each symbol that an average is taken over.
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Waste:
    """Of one program: the share of its work that is padding at ``worst`` and on average (``mean``) over the sizes that
    run in it, each as often; ``share`` is that of these sizes among all in range."""

    worst: float
    mean: float
    share: float


def waste_of(region: Region, buckets: Sequence[Bucket], known: Mapping[str, Range]) -> list[Waste]:
    """The waste of each of a region's programs. At worst a run is just too large for the next smaller bucket."""
    work = work_of(region)
    rungs = {s: sorted({b.sizes[s] for b in buckets}) for b in buckets[:1] for s in b.sizes}
    counts = []
    found = []
    for b in buckets:
        least = {s: _least(s, b, rungs[s], known) for s in b.padded if s not in b.bound}
        count, total = 1.0, evaluated(work, b.sizes)
        for s, low in least.items():
            count *= b.sizes[s] - low + 1
        each = []
        for sizes in product(*(_sampled(low, b.sizes[s], known[s].divisor) for s, low in least.items())):
            true = {**b.sizes, **dict(zip(least, sizes, strict=True))}
            true |= {s: e.evaluate(true) for s, e in b.bound.items()}
            each.append(1 - evaluated(work, true) / total if total > 0 else 0.0)
        counts.append(count)
        found.append((each[0], sum(each) / len(each)))
    return [Waste(w, m, n / sum(counts)) for (w, m), n in zip(found, counts, strict=True)]


def _least(s: str, bucket: Bucket, rungs: Sequence[int], known: Mapping[str, Range]) -> int:
    """The least size of a symbol that no smaller bucket holds."""
    below = [n for n in rungs if n < bucket.sizes[s]]
    step = known[s].divisor
    return min(max(-(-(below[-1] + 1) // step) * step if below else 0, known[s].lo), bucket.sizes[s])


def _sampled(low: int, high: int, step: int) -> list[int]:
    """Sizes from ``low`` to ``high``, evenly spaced."""
    count = min(SAMPLES, (high - low) // step + 1)
    if count < 2:
        return [high]
    return [low + (high - low) * i // (count - 1) // step * step for i in range(count)]
