"""Measuring the kernels of a model in float and quantized, on this machine, into records that builds read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import driver, runtime
from tilewright.calibration import calibration_of, sizes_of
from tilewright.errors import InternalError, UsageError
from tilewright.frontend.onnx import Source, import_model
from tilewright.kernel.canonical import fingerprint
from tilewright.ops.program import Call, Run, Step
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Runner
from tilewright.quantization import request
from tilewright.quantization.apply import candidates
from tilewright.quantization.costs import lowered, name_layers
from tilewright.quantization.records import Record, work_key, write_records
from tilewright.quantization.request import Given
from tilewright.quantization.trials import Quantize, Trials
from tilewright.selection import resolve_targets
from tilewright.target import Target

Array = NDArray[Any]

#: Runs that are timed; of each launch the least counts.
RUNS = 30
#: Runs before that.
WARM = 5


def measure_records(
    model: Source,
    options: Options,
    given: Given,
    path: Path,
    say: Callable[[str, str], None],
    runner: Runner | None = None,
    quantize: Quantize | None = None,
) -> tuple[int, int]:
    """Time every kernel of ``model`` on the target of this machine, in float and by each method that may be asked for.

    One thread, the sizes of the first sample. Returns how many kernels were measured and how many records ``path`` has
    then. Raises :class:`UsageError` without calibration data, whose first sample is what is run.
    """
    precision, source = options.precision, given.calibration.get("main")
    assert precision is not None
    if source is None:
        cause, fix = "there is no sample to run", "give calibration data (--calib)"
        raise UsageError("calibration-missing", where="--measure-records", cause=cause, fix=fix)
    request.check(precision)
    graph = import_model(model, dict(options.input_shapes))
    run_pipeline(graph, canonicalization())
    name_layers(graph)
    data = calibration_of(source, graph)
    if runner is None:
        from tilewright.runner import GraphRunner

        runner = GraphRunner(options.level)
    target = _here(options)
    found: dict[Any, Record] = {}
    for name, state in _states(graph, precision, Capability.of(target), data, runner, quantize):
        say("measure", f"{name} on {target.spelling}, one thread")
        for record in _timed(state, data.feeds[0], sizes_of(data.feeds[0], graph), target, options.level):
            found[record.key] = record
    return len(found), write_records(path, found.values())


def _here(options: Options) -> Target:
    """The target that this machine is. Raises :class:`UsageError` where targets are named and it is none of them."""
    ((_, here),) = resolve_targets(Options(targets=("cpu:native",)))
    named = [target.spelling for _, target in resolve_targets(options, build=False)] if options.targets else []
    if named and here.spelling not in named:
        cause = f"this machine is {here.spelling}, and {', '.join(named)} is asked for"
        fix = f"measure on such a machine, or with -t {here.spelling}"
        raise UsageError("measure-elsewhere", where="--measure-records", cause=cause, fix=fix)
    return here


def _states(
    graph: ir.Model,
    precision: Any,
    capability: Capability,
    data: Calibration,
    runner: Runner,
    quantize: Quantize | None,
) -> Iterator[tuple[str, ir.Model]]:
    """The graph in float, and quantized by each method."""
    yield "float", graph.clone()
    if precision.asked == "auto":
        settings = [request.settings_for(precision, m) for m in candidates(capability, quantize)]
    else:
        settings = [request.settings_of(precision)]
    for each in settings:
        trials = Trials(graph, each, capability, data, runner, None, precision.excepted, quantize)
        if trials.layers:
            yield each.method, trials.state(trials.layers)[0].clone()


def _timed(
    model: ir.Model, feed: Mapping[str, Array], sizes: Mapping[str, int], target: Target, level: int
) -> Iterator[Record]:
    """The kernels of a graph, each with the least time of its launches."""
    _, steps = lowered(model, target, level)
    kernels = [step for step in steps if isinstance(step, Run | Call)]
    artifact = driver.compile(model, options=Options(targets=(target.spelling,), level=level))
    with runtime.load(artifact.to_bytes(), device=target.spelling, threads=1) as session:
        out = dict(zip((o.name for o in session.outputs), session.run(None, feed), strict=True))
        for _ in range(WARM):
            session.run(None, feed, out=out)
        runs = [session.profile(feed, out=out) for _ in range(RUNS)]
    launches = [(names[0][0], min(seconds for _, seconds in names)) for names in zip(*runs, strict=True)]
    _require_same(kernels, launches)
    for step, (name, seconds) in zip(kernels, launches, strict=True):
        if isinstance(step, Run) and all(n in sizes for n, _ in step.kernel.facts):
            own = tuple(sizes[n] for n, _ in step.kernel.facts)
            yield Record(target.spelling, work_key(step.kernel), own, 1, max(seconds, 1e-9), name)


def _require_same(kernels: Sequence[Step], launches: Sequence[tuple[str, float]]) -> None:
    """Raise :class:`InternalError` where launches are not those of the lowered graph, in order."""
    wanted = [fingerprint(s.kernel)[:8] if isinstance(s, Run) else "" for s in kernels]
    same = len(wanted) == len(launches)
    if not same or not all(name.endswith(key) for key, (name, _) in zip(wanted, launches, strict=True)):
        raise InternalError(f"{len(kernels)} kernels were lowered and {len(launches)} others were launched")
