"""``tilewright bench``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tilewright.cli import arguments, screen
from tilewright.cli.screen import duration
from tilewright.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tilewright.benchmark import Benchmark

SCENARIOS = ["single-stream", "multi-stream", "server", "offline"]


@click.command("bench", short_help="Measure an artifact, alone or beside other engines.")
@click.argument("artifact", type=arguments.FILE)
@arguments.entry("The entry point to measure.")
@click.option(
    "--scenario", type=click.Choice(SCENARIOS), default=SCENARIOS[0], show_default=True, help="MLPerf's names."
)
@click.option("--against", metavar="PEERS", help="onnxruntime,openvino,torch=FILE.pt2 measured in turns with us.")
@click.option("--ref", "reference", type=arguments.FILE, help="The ONNX model that peers run.")
@click.option("--roofline", is_flag=True, help="Measure this machine's roof and tell our share of it.")
@arguments.shapes("Sizes to measure at: x:1,128.")
@click.option("--data", type=arguments.FILE, help="An .npz of inputs. [default: made up]")
@arguments.device
@click.option("--threads", type=click.IntRange(1), help="Per run, for us and each peer.")
@click.option("--streams", type=click.IntRange(1), help="Runs at the same time (not single-stream).")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Queries a second (server).")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="Per engine.")
@click.option("--profile", type=arguments.FILE, help="A trace of one run's kernels, for chrome://tracing or Perfetto.")
@arguments.json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    artifact: Path,
    entry: str | None,
    scenario: str,
    against: str | None,
    reference: Path | None,
    roofline: bool,
    shapes: tuple[str, ...],
    data: Path | None,
    device: str,
    allow_jit: bool,
    cache: bool,
    threads: int | None,
    streams: int | None,
    rate: float | None,
    seconds: float,
    profile: Path | None,
    json_path: Path | None,
) -> int:
    """Measure ARTIFACT from inputs in host memory to outputs in host memory."""
    from tilewright.benchmark import bench
    from tilewright.feeds import samples

    outcome = arguments.begin(ctx, json_path)
    if reference and not against:
        cause, fix = "--ref is for peers", "add --against, or leave it out"
        raise UsageError("bench-arguments", where="bench", cause=cause, fix=fix)
    if profile:
        arguments.require_folder(profile)
    if data:
        feed = arguments.read_samples(data)
    else:
        (feed,) = samples(artifact, arguments.read_sizes(shapes), count=1, entry=entry)
    result = bench(
        artifact,
        feed,
        entry=entry,
        scenario=scenario,
        against=_peers(against, reference),
        roofline=roofline,
        threads=threads,
        streams=streams,
        rate=rate,
        seconds=seconds,
        device=device,
        allow_jit=allow_jit or None,
        cache=cache,
    )
    outcome.data["benchmark"] = result.as_dict()
    screen.block(lines(result))
    if profile:
        from tilewright.benchmark.trace import write_trace

        write_trace(
            artifact, feed, result.threads, profile, entry, device=device, allow_jit=allow_jit or None, cache=cache
        )
        screen.block([("profile", str(profile))])
    return ExitCode.OK


def _peers(text: str | None, reference: Path | None) -> dict[str, Path]:
    peers: dict[str, Path] = {}
    for item in filter(None, (text or "").split(",")):
        name, _, file = item.strip().partition("=")
        path = Path(file) if file else (None if name == "torch" else reference)
        if path is None:
            fix = "write torch=MODEL.pt2, as torch.export.save makes it" if name == "torch" else "give --ref MODEL.onnx"
            raise UsageError("bench-arguments", where=f"--against {name}", cause="there is no model for it", fix=fix)
        peers[name] = path
    return peers


#: CPUs kept busy by others from which on a reader is told that the times are not those of a quiet machine.
DISTURBED = 0.1


def lines(result: Benchmark) -> Iterator[tuple[str, str]]:
    """The measurement, for a reader."""
    load = result.load
    shapes = "  ".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in result.shapes.items())
    yield "inputs", shapes
    if result.jit_seconds:
        yield "compiled", f"{duration(result.jit_seconds)} by {result.jit_by}, here, before what was measured"
    if result.place:
        yield "on", result.place
    if result.note:
        yield "", result.note
    threads = f"{result.threads} thread{'s' * (result.threads > 1)} per run"
    offered = f", {load.offered:.1f} offered a second" if load.offered else ""
    yield "scenario", f"{load.scenario}, {threads}, {load.queries} queries{offered}"
    if load.latency:
        told = "  ".join(f"{name} {duration(load.latency[name])}" for name in ("p50", "p90", "p99"))
        transfers = ", transfers included" if result.device_latency else ""
        yield "latency", f"{told}   host to host{transfers}"
    if result.device_latency:
        told = "  ".join(f"{name} {duration(result.device_latency[name])}" for name in ("p50", "p90", "p99"))
        yield "", f"{told}   the device alone, inputs and outputs there"
        if result.device_least:
            share = result.device_least / result.device_latency["p50"]
            yield (
                "",
                f"{share:.0%} of what the target's data allow (predicted: at least {duration(result.device_least)})",
            )
    yield "rate", f"{load.samples_per_second:.1f} samples/s"
    for peer in result.peers:
        spread = f"{peer.ratio.low:.2f}–{peer.ratio.high:.2f}"
        yield "beside", f"{peer.name} {peer.version}  p50 {duration(peer.latency['p50'])}"
        yield "", f"time ours/theirs {peer.ratio.median:.2f} (p10–p90 {spread})  outputs differ by {peer.max_error:.1e}"
    if result.roof:
        roof, machine = result.roof, result.roof.machine
        whole = f", {machine.integers / 1e9:.0f} GOP/s of 8-bit integers" if roof.work.integers else ""
        peak = f"{machine.operations / 1e9:.0f} GFLOP/s{whole}"
        yield "roof", f"{peak}, {machine.bandwidth / 1e9:.1f} GB/s read, measured now"
        whole = f"{roof.work.integers / 1e9:.2f} GOP of integers, " if roof.work.integers else ""
        work = f"{roof.work.operations / 1e9:.2f} GFLOP, {whole}{roof.work.weight_bytes / 1e6:.1f} MB of constants"
        yield "", f"{work}: at least {duration(roof.least_seconds)}"
        yield "bound by", f"{roof.bound_by}, {roof.share:.0%} of the roof reached"
    if result.others is not None and result.others >= DISTURBED:
        yield "disturbed", f"other processes kept {result.others:.1f} CPUs busy meanwhile"
