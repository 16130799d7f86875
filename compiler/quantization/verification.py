"""The check of a quantized artifact: outputs beside the float model's, by the bound, and beside the quantized graph.

How far two right implementations of one quantized graph may be apart follows from its steps. A value that lies near the
middle between two steps is rounded one way by one and the other way by the other, since sums in another order differ in
their last bits; that moves it by a whole step ``s``. Quantizing itself moves *every* value, by up to half a step, with
mean square ``s²/12``. So if a share ``f`` of the values is rounded otherwise, the difference of the two has ``12 f``
times the power of the quantization noise, and stays below it for all ``f`` below 1/12 (seen are 1e-3 and less). Hence
the tolerance: what the quantized graph itself is off by, beside the float model on the same samples; but at least what
the type has without quantization. A defect of a kernel shows where it is larger than what quantizing already cost; what
is smaller is for the kernels' own tests, which are bit-exact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import engines
from tilewright.accuracy import Agreement, compare
from tilewright.engines import EngineError
from tilewright.errors import ExitCode
from tilewright.observe import save_graph
from tilewright.options import Precision
from tilewright.quantization.request import Metric
from tilewright.quantization.scores import score
from tilewright.runtime import open_artifact
from tilewright.verification import Judged, Part, Reference, Verification, reference_outputs, with_constants

Array = NDArray[Any]
Feeds = Sequence[Mapping[str, Array]]

#: The drop that is allowed where no bound was given: a cosine of 0.99, below which users of quantized encoders and
#: classifiers see results change.
DROP = 0.01


@dataclass(frozen=True)
class Evidence:
    """What a check needs beside the artifact; in memory only.

    Attributes:
        precision: as it was asked for.
        metric: the one that was given, if one was.
        models: the quantized graph of each entry point, by target.
        feeds: samples that were held out, by entry point.
        told: on which samples, by entry point.
    """

    precision: Precision
    metric: Metric | None
    models: Mapping[str, Mapping[str, ir.Model]]
    feeds: Mapping[str, tuple[Mapping[str, Array], ...]]
    told: Mapping[str, str]


def verify_quantized(
    artifact: Path, reference: Path, evidence: Evidence, feeds: Feeds, told: str, entry: str
) -> Verification:
    """Run the artifact, the float model and the quantized graph on ``feeds``, each in a process of its own.

    ``told`` says which samples these are. Raises :class:`EngineError` where no part of the artifact can be run here, or
    no reference runs the model.
    """
    plain = reference_outputs(reference, with_constants(artifact, entry, feeds))
    parts: list[Part] = []
    judged: list[Judged] = []
    unchecked: list[tuple[str, str]] = []
    missing: EngineError | None = None
    seen: dict[int, Reference] = {}
    for target in (t.target for t in open_artifact(artifact).manifest.targets):
        try:
            got = engines.run_apart("tilewright", artifact, feeds, target, entry)
        except EngineError as error:
            if error.exit_code != ExitCode.DEVICE:
                raise
            missing = error
            unchecked.append((target, error.cause))
            continue
        graph = evidence.models[target][entry]
        if id(graph) not in seen:
            seen[id(graph)] = _run_graph(graph, feeds)
        parts.append(_part(target, got, seen[id(graph)], plain))
        judged.append(_judged(evidence, plain, got, told, target))
    if missing and not parts:
        raise missing
    theirs = next(iter(seen.values()))
    name = f"the quantized graph in {theirs.engine} {theirs.version} (nothing fused)"
    worst = max(judged, key=lambda j: j.drop)
    return Verification(tuple(parts), tuple(unchecked), name, *plain.cost, plain.note, worst)


def _run_graph(graph: ir.Model, feeds: Feeds) -> Reference:
    """A quantized graph as ONNX means it: an engine must not fuse, since integer kernels of some machines saturate."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / "quantized.onnx"
        save_graph(graph, path)
        found = reference_outputs(path, feeds, "onnxruntime.plain")
        return replace(found, engine=found.engine.removesuffix(".plain"))


def _part(target: str, got: engines.Runs, theirs: Reference, plain: Reference) -> Part:
    """A target's outputs beside those of the quantized graph, output by output."""
    limits = {name: _tolerance(name, theirs, plain) for name in theirs.outputs[0]}
    totals = {name: Agreement(name, limit) for name, limit in limits.items()}
    samples = []
    for mine, wanted in zip(got.outputs, theirs.outputs, strict=True):
        samples.append(tuple(compare(n, mine[n], wanted[n], limits[n]) for n in wanted))
        for name, total in totals.items():
            total.add(mine[name], wanted[name])
    return Part(target, tuple(samples), tuple(t.result for t in totals.values()), got.load_seconds, got.peak_rss)


def _tolerance(name: str, theirs: Reference, plain: Reference) -> float:
    """What the quantized graph is off by beside the float model; at least what the type has. See the module."""
    found = [compare(name, a[name], b[name]) for a, b in zip(theirs.outputs, plain.outputs, strict=True)]
    return max(max(c.tolerance, c.relative if not c.problem else 0.0) for c in found)


def _judged(evidence: Evidence, plain: Reference, got: engines.Runs, told: str, target: str) -> Judged:
    precision = evidence.precision
    found = score(plain.outputs, got.outputs, precision.metric, evidence.metric)
    return Judged(
        target=target,
        reference=f"{plain.engine} {plain.version}",
        metric=precision.metric,
        drop=found.drop,
        bound=DROP if precision.max_drop is None else precision.max_drop,
        stated=precision.max_drop is not None,
        cosine=found.cosine,
        snr=found.snr,
        top1=found.top1,
        samples=told,
    )
