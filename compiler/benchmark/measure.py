"""An artifact measured: alone under a load scenario, or in turns with its peers, and against the machine's roof."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright.benchmark import scenarios
from tilewright.benchmark.disturbance import others_busy
from tilewright.benchmark.interleave import Interleaved, Ratio, interleave, percentiles
from tilewright.benchmark.roofline import Roofline
from tilewright.benchmark.roofline import measure as measure_roofline
from tilewright.benchmark.scenarios import Load
from tilewright.benchmark.work import Work, count_work
from tilewright.engines import Engine, open_engine
from tilewright.errors import UsageError
from tilewright.verification import require_inputs, with_constants

Array = NDArray[Any]
OURS = "tilewright"
PEERS = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another engine's side of an interleaved measurement.

    Attributes:
        ratio: our time over its time, per round: below 1 we are faster.
        max_error: largest difference of outputs, relative to the largest value of the peer's.
    """

    name: str
    version: str
    latency: Mapping[str, float]
    ratio: Ratio
    max_error: float


@dataclass(frozen=True, slots=True)
class Roof:
    """The machine's roof as measured now, and where we are below it.

    Attributes:
        least_seconds: the least time for the model's work.
        share: of the roof that the median run reaches.
        bound_by: ``compute`` or ``memory``, whichever roof is the lower here.
    """

    machine: Roofline
    work: Work
    least_seconds: float
    share: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Result of :func:`bench`.

    Attributes:
        load: our side.
        threads: per run.
        shapes: of the inputs it ran on.
        peers: the others' side.
        roof: where it was asked for.
        others: CPUs that other processes kept busy meanwhile, on average; ``None`` where that cannot be told. Times
            measured beside much of it are not those of a quiet machine.
        jit_seconds: spent on compiling before anything was measured; ``jit_by`` by what.
        place: where it ran, and ``note`` why not elsewhere.
        device_latency: on a GPU, percentiles of the device's own time of runs whose inputs and outputs stay there;
            ``device_least`` the least that its target's data allow: a prediction (0 where there is none).
    """

    load: Load
    threads: int
    shapes: Mapping[str, tuple[int, ...]]
    peers: tuple[Peer, ...] = ()
    roof: Roof | None = None
    others: float | None = None
    jit_seconds: float = 0.0
    jit_by: str = ""
    place: str = ""
    note: str = ""
    device_latency: Mapping[str, float] = field(default_factory=dict)
    device_least: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def bench(
    artifact: Path | str,
    feed: Mapping[str, Array],
    *,
    entry: str | None = None,
    scenario: str = "single-stream",
    against: Mapping[str, Path | str] | None = None,
    roofline: bool = False,
    threads: int | None = None,
    streams: int | None = None,
    rate: float | None = None,
    seconds: float = 5.0,
    device: str = "auto",
    allow_jit: bool | None = None,
    cache: bool = True,
) -> Benchmark:
    """Measure an artifact from inputs in host memory to outputs in host memory.

    Args:
        artifact: a ``.tw`` file.
        feed: the inputs of every run.
        entry: the entry point to run; the first when ``None``.
        scenario: key of :data:`tilewright.benchmark.scenarios.JUDGED_BY`.
        against: the model's file by peer (``single-stream`` only): an ONNX file, a ``torch.export`` archive for torch.
        roofline: measure the machine's roof as well.
        threads: per run, of us and of each peer; ``None`` is 1 where runs are concurrent, else the CPUs there are.
        streams: runs at the same time (``multi-stream``, ``server``, ``offline``); ``None`` is CPUs over threads.
        rate: queries a second (``server``).
        seconds: to measure, about, per engine.
        device, allow_jit, cache: as of :func:`tilewright.runtime.load`.

    Raises:
        UsageError: arguments that do not go together.
        DeviceError: a peer, or the toolchain that ``roofline`` needs, is not installed.
    """
    peers = dict(against or {})
    _check(scenario, peers, roofline, rate)
    if scenario == "single-stream" and streams is not None:
        cause, fix = "single-stream is one run at a time", "leave --streams out, or give --scenario multi-stream"
        raise UsageError("bench-arguments", where="bench", cause=cause, fix=fix)
    (full,) = with_constants(artifact, entry, [feed])
    for model in {Path(path) for name, path in peers.items() if name != "torch"}:
        require_inputs(model, full)
    busy = others_busy()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = threads or (cpus if scenario == "single-stream" else 1)
    streams = streams or max(1, cpus // threads)
    ours = open_engine(OURS, Path(artifact), threads, entry, device=device, allow_jit=allow_jit, cache=cache)
    if roofline and ours.on_device is not None:
        cause, fix = "--roofline measures this machine's processor, and the model runs on a GPU", "leave it out"
        raise UsageError("bench-arguments", where="bench", cause=cause, fix=fix)
    shapes = {name: tuple(array.shape) for name, array in feed.items()}
    work = count_work(Path(artifact), shapes, entry) if roofline else None
    machine = measure_roofline(threads) if roofline else None
    if scenario != "single-stream":
        load = _load(scenario, _runner(ours, feed), seconds, streams, rate or 0.0)
        return _told(Benchmark(load, threads, shapes, others=busy()), ours)
    engines = {OURS: ours} | {name: open_engine(name, Path(path), threads) for name, path in peers.items()}
    runners = {n: _runner(e, feed if e is ours else full) for n, e in engines.items()}
    measured = interleave(runners, seconds * len(engines))
    runs = measured.runs[OURS]
    load = Load(scenario, len(runs), percentiles(runs), 1 / float(np.mean(runs)))
    told = tuple(_peer(engines[name], ours, measured, feed, full) for name in peers)
    roof = None
    if machine and work:  # once more: other load on the machine lowers what is measured, never raises it
        roof = _roof(machine.best(measure_roofline(threads)), work, load.latency["p50"])
    found = _told(Benchmark(load, threads, shapes, told, roof, busy()), ours)
    if ours.on_device is None:
        return found
    least = _least(Path(artifact), ours.target, shapes, entry)
    return replace(found, device_latency=percentiles(ours.on_device(feed, seconds)), device_least=least)


def _least(artifact: Path, target: str, shapes: Mapping[str, tuple[int, ...]], entry: str | None) -> float:
    """The least seconds of a run by the data of a device's target; 0 where the artifact does not say what it does."""
    from tilewright.benchmark.records import describe, sizes_of

    try:
        return sum(k.predicted for k in describe(artifact, sizes_of(artifact, shapes, entry), target=target).kernels)
    except UsageError:
        return 0.0


def _told(found: Benchmark, ours: Engine) -> Benchmark:
    """With what our own runtime tells of itself."""
    return replace(found, jit_seconds=ours.jit_seconds(), jit_by=ours.jit_by, place=ours.place, note=ours.note)


def _check(scenario: str, peers: Mapping[str, object], roofline: bool, rate: float | None) -> None:
    def wrong(cause: str, fix: str) -> UsageError:
        return UsageError("bench-arguments", where="bench", cause=cause, fix=fix)

    if scenario not in scenarios.JUDGED_BY:
        raise wrong(f"no scenario {scenario!r}", f"one of {', '.join(scenarios.JUDGED_BY)}")
    for name in peers:
        if name not in PEERS:
            raise wrong(f"no peer {name!r}", f"one of {', '.join(PEERS)}")
    if scenario != "single-stream" and (peers or roofline):
        raise wrong(f"peers and the roofline are measured single-stream, not {scenario}", "leave the scenario out")
    if (scenario == "server") != (rate is not None):
        raise wrong("the server scenario, and only it, needs the rate of its queries", "give --rate with server")


def _runner(engine: Engine, feed: Mapping[str, Array]) -> scenarios.Run:
    return lambda: engine.run(feed)


def _load(scenario: str, run: scenarios.Run, seconds: float, streams: int, rate: float) -> Load:
    if scenario == "multi-stream":
        return scenarios.multi_stream(run, seconds, streams)
    if scenario == "server":
        return scenarios.server(run, seconds, streams, rate)
    return scenarios.offline(run, seconds, streams)


def _peer(
    engine: Engine, ours: Engine, measured: Interleaved, feed: Mapping[str, Array], full: Mapping[str, Array]
) -> Peer:
    mine, theirs = ours.run(feed), engine.run(full)
    pairs: Sequence[tuple[Array, Array]] = [
        (mine[n], theirs[n] if n in theirs else list(theirs.values())[i]) for i, n in enumerate(mine)
    ]
    error = max(_relative(a, b) for a, b in pairs)
    latency = percentiles(measured.runs[engine.name])
    return Peer(engine.name, engine.version, latency, measured.ratio(OURS, engine.name), error)


def _relative(got: Array, want: Array) -> float:
    if got.shape != want.shape:
        return float("inf")
    error = np.abs(got.astype(np.float64) - want).max(initial=0.0)
    return float(error / (np.abs(want.astype(np.float64)).max(initial=0.0) or 1.0))


def _roof(machine: Roofline, work: Work, median: float) -> Roof:
    compute = machine.compute(work.operations, work.integers)
    memory = work.weight_bytes / machine.bandwidth
    least = machine.seconds(work.operations, work.weight_bytes, work.integers)
    return Roof(machine, work, least, least / median, "compute" if compute >= memory else "memory")
