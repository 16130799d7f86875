"""The zoo beside ONNX Runtime and OpenVINO; writes models/results/zoo-cpu.md and models/results/zoo-layers.md.

``.venv/bin/python scripts/bench_zoo.py [--only NAME] [--threads N] [--seconds S]`` after ``./scripts/test`` has made
the environment. One artifact a model serves every size; it is compiled for this machine's level. Models are written to
``build/zoo`` once. All of it takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import tilewright as tw
from tilewright.benchmark import Benchmark, bench
from tilewright.benchmark.records import RunRecord, describe, measure, sizes_of, totals
from tilewright.benchmark.roofline import measure as measure_roofline
from tilewright.errors import TilewrightError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from scripts.bench_minilm import processor  # noqa: E402

RESULTS = ROOT / "models" / "results"
PEERS = zoo.PEERS
IMAGE_BATCHES = (1, 4)
TOKENS = 128
LAYERS = 10  # rows of a model's table


def sizes(model: zoo.Model) -> tuple[zoo.Size, ...]:
    """What is measured of a model: images in two batches, else one row of :data:`TOKENS` (cached) tokens."""
    lengths = {length for _, length in model.benches}
    if len(lengths) == 1:
        (length,) = lengths
        return tuple((batch, length) for batch in IMAGE_BATCHES)
    return ((1, TOKENS),)


def main() -> int:
    """Measure, print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(zoo.zoo()), help="a model; may be repeated")
    parser.add_argument("--threads", type=int, action="append", help="threads of a run; may be repeated [1 and 2]")
    parser.add_argument("--seconds", type=float, default=1.5, help="per engine and size")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "zoo", help="folder of the ONNX files")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    threads = options.threads or [1, 2]
    versions = ", ".join(f"{p} {version(p)}" for p in PEERS)
    where = f"`{' '.join(['scripts/bench_zoo.py', *sys.argv[1:]])}`, {datetime.now(UTC):%Y-%m-%d}, {processor()}"
    table, layers = [*table_head(f"{where}, {versions}.")], [*layers_head(f"{where}.")]
    print("\n".join(table), flush=True)
    for name in options.only or zoo.zoo():
        model = zoo.zoo()[name]
        path = options.models / f"{name}.onnx"
        artifact = ROOT / "build" / "bench" / f"{name}.tw"
        artifact.parent.mkdir(parents=True, exist_ok=True)
        tw.compile(
            path if path.exists() else model.build(options.models),
            targets=("cpu:native",),
            input_shapes=model.input_shapes,
            states=model.in_place,
            verify=False,  # each row below tells the error beside the peers
        ).save(artifact)
        for count in threads:
            for batch, length in sizes(model):
                row = measured_row(model, artifact, path, (batch, length), count, options.seconds)
                table.append(row)
                print(row, flush=True)
        layers += layer_table(model, artifact, sizes(model)[0], threads[0])
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "zoo-cpu.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    (options.results / "zoo-layers.md").write_text("\n".join(layers) + "\n", encoding="utf-8")
    return 0


def table_head(where: str) -> Iterator[str]:
    """The text above the rows."""
    yield from ("# The zoo (fp32) on a CPU", "", where)
    yield "Milliseconds are medians of runs in turns within one process; a ratio is our time over the peer's per round,"
    yield "median (10th to 90th percentile); below 1 we are faster. The roof is what this machine's multiply-adds"
    yield "and memory reads allow for the run's operations and constants, measured in the same run. The error is the"
    yield "largest beside ONNX Runtime, relative to its largest value. `others` is how many CPUs others kept busy."
    yield "A peer that lacks an operator of the model cannot run it."
    yield from (
        "",
        "| model | threads | batch × length | ours, ms | / ONNX Runtime | / OpenVINO | roof | error | others |",
    )
    yield "|---|---|---|---|---|---|---|---|---|"


def measured_row(model: zoo.Model, artifact: Path, path: Path, size: zoo.Size, threads: int, seconds: float) -> str:
    """One row of the table; what went wrong, where it did."""
    batch, length = size
    label = [model.name, str(threads), f"{batch} × {length}"]
    try:
        found = bench(
            artifact,
            model.feed(batch, length),
            against=dict.fromkeys(model.peers, path),
            roofline=True,
            threads=threads,
            seconds=seconds,
        )
    except TilewrightError as error:
        return f"| {' | '.join([*label, f'failed: {error.code}', *[''] * 5])} |"
    return f"| {' | '.join([*label, *cells(found)])} |"


def cells(found: Benchmark) -> Iterator[str]:
    """Time, ratios, share of the roof, error, and how disturbed it was."""
    yield f"{found.load.latency['p50'] * 1e3:.2f}"
    told = {p.name: f"{p.ratio.median:.2f} ({p.ratio.low:.2f}–{p.ratio.high:.2f})" for p in found.peers}
    yield from (told.get(name, "cannot") for name in PEERS)
    yield f"{found.roof.share:.0%}" if found.roof else ""
    yield f"{found.peers[0].max_error:.1e}"
    yield "" if found.others is None else f"{found.others:.1f}"


def layers_head(where: str) -> Iterator[str]:
    """The text above the models' tables."""
    yield from ("# Where the zoo falls short of this machine", "", where)
    yield "Per model the kernels that lose most time: measured time of all their launches (the least of several runs of"
    yield "each; MFLOP and kB are of one launch), the limit (operations at the measured peak, or touched bytes at the"
    yield "rate of the cache that holds them), and which of the two it is. Predictions need the target's data alone."


def layer_table(model: zoo.Model, artifact: Path, size: zoo.Size, threads: int) -> Iterator[str]:
    """The kernels of one model that lose most."""
    feed = model.feed(*size)
    shapes = {name: array.shape for name, array in feed.items()}
    target = tw.load(artifact, threads=threads).target
    record = describe(artifact, sizes_of(artifact, shapes), threads=threads, target=target)
    record = measure(record, artifact, feed, measure_roofline(threads))
    yield from ("", f"## {model.name}, {size[0]} × {size[1]}, {threads} thread{'s' * (threads > 1)}", "")
    yield summary(record)
    yield from (
        "",
        "| kernel | class | launches | MFLOP | kB | measured, ms | limit, ms | share | bound by | predicted, ms |",
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    kernels = [k for k in record.kernels if k.measured is not None and k.limit is not None]
    for k in sorted(kernels, key=lambda k: (k.limit or 0.0) - (k.measured or 0.0))[:LAYERS]:
        times = (f"{(k.measured or 0) * 1e3:.3f}", f"{(k.limit or 0) * 1e3:.3f}", f"{k.share or 0:.0%}")
        work = (f"{k.flops / k.launches / 1e6:.1f}", f"{k.bytes / k.launches / 1e3:.0f}")
        row: Sequence[str] = (re.sub(r"_[0-9a-f]{8}$", "", k.name), k.kind, str(k.launches), *work, *times, k.bound)
        yield f"| {' | '.join(row)} | {k.predicted * 1e3:.3f} |"


def summary(record: RunRecord) -> str:
    """One line of facts, and predicted over measured time by class."""
    took, least = (sum(getattr(k, n) or 0.0 for k in record.kernels) for n in ("measured", "limit"))
    classes = ", ".join(f"{kind} {p / m:.2f}" for kind, (p, m) in sorted(totals(record.kernels).items()) if m)
    return (
        f"{record.launches} launches, {record.conversions} layout conversions, {record.flops / 1e9:.2f} GFLOP, "
        f"arena {record.arena / 1e6:.1f} MB ({record.arena_ratio:.2f} × live); {took * 1e3:.2f} ms in kernels, "
        f"{least / took:.0%} of the limit. Predicted over measured: {classes}."
    )


if __name__ == "__main__":
    sys.exit(main())
