"""The kernels of an artifact, for a reader: work, predicted time, and measured time beside the machine's limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.cli.screen import duration, size

if TYPE_CHECKING:
    from tilewright.benchmark.records import KernelUse, RunRecord


def look(
    file: Path,
    entries: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    target: str | None,
    threads: int,
    measure: bool,
) -> list[RunRecord]:
    """A record of each entry point; with ``measure`` the artifact is run and the machine's roofs are measured."""
    from tilewright.benchmark import records
    from tilewright.benchmark.roofline import measure as measure_roofline
    from tilewright.feeds import samples, sizes

    if measure and target is None:
        from tilewright.runtime import load

        target = load(file, threads=threads).target
    found = [records.describe(file, sizes(file, shapes, e), threads=threads, entry=e, target=target) for e in entries]
    if not measure:
        return found
    machine = measure_roofline(threads) if found[0].threads else None
    feeds = [samples(file, shapes, count=1, entry=e)[0] for e in entries]
    return [records.measure(r, file, feed, machine) for r, feed in zip(found, feeds, strict=True)]


def lines(record: RunRecord) -> Iterator[tuple[str, str]]:
    """The record, kernels that take longest first."""
    at = "  ".join(f"{name}={value}" for name, value in record.sizes.items())
    threads = f", {record.threads} thread{'s' * (record.threads > 1)}" if record.threads else ""
    yield "run", f"{record.entry}  {at}  on {record.target}{threads}"
    for k in sorted(record.kernels, key=lambda k: -(k.measured or k.predicted)):
        yield "", _line(k)
    written = sorted({k.source for k in record.kernels if k.source != "tile-ir"})
    by_hand = f"; work not counted: {', '.join(written)}" if written else ""
    yield (
        "total",
        f"{record.launches} launches, {record.conversions} layout conversions, {record.flops / 1e9:.3f} GFLOP "
        f"({record.scheduled:.0%} from scheduled tile IR{by_hand}), {size(record.constants)} of constants",
    )
    least = ", at least: by peak rates and bandwidth, no device here" if not record.threads else ""
    yield "predicted", f"{duration(sum(k.predicted for k in record.kernels))}{least}"
    yield "arena", f"{size(record.arena)}, {record.arena_ratio:.2f} × the live maximum {size(record.live_maximum)}"
    if any(k.measured is not None for k in record.kernels):
        took = sum(k.measured or 0.0 for k in record.kernels)
        limit = sum(k.limit or 0.0 for k in record.kernels)
        roof = "this machine allows" if record.threads else f"the data of {record.target} allow"
        share = f" ({limit / took:.0%} of what {roof})" if took else ""
        yield "measured", f"{duration(took)} in kernels{share}"


def _line(k: KernelUse) -> str:
    if k.source != "tile-ir":  # nobody has said how much it does
        text = f"{k.launches:3} × {k.name:32} {k.kind:11} {'work and time not predicted':>25}"
        return text if k.measured is None else f"{text}  measured {duration(k.measured):>9}"
    text = f"{k.launches:3} × {k.name:32} {k.kind:11} {k.flops / 1e6:10.2f} MFLOP {size(k.bytes):>9}"
    text += f"  predicted {duration(k.predicted):>9}"
    if k.measured is None or k.share is None:
        return f"{text} ({k.bound})"
    return f"{text}  measured {duration(k.measured):>9}, {k.share:.0%} of its limit ({k.bound})"
