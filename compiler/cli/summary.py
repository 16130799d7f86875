"""The summary block: only lines whose facts were established in this run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from tilewright.cli import precision, programs
from tilewright.cli.screen import duration, size
from tilewright.tuning.choice import HEURISTIC

if TYPE_CHECKING:
    from tilewright.accuracy import Comparison
    from tilewright.report import MeshFacts, ModelFacts, Report, TargetFacts
    from tilewright.verification import Judged, Verification

Line = tuple[str, str]
#: Nodes of a host part that are named of each reason; ``--json`` has all.
NAMED = 6


def summary(
    report: Report,
    checked: Verification | None,
    reason: str = "",
    verbose: bool = False,
    placement: bool = True,
) -> Iterator[Line]:
    """Label and text of each line.

    ``reason`` says why nothing was checked, ``placement`` whether nodes of a host part are listed and not counted only.
    """
    for entry, model in (report.entries or {"main": report.model}).items():
        named = f"{entry}: " if len(report.entries) > 1 else ""
        yield "model", f"{named}{_model(model)}"
        kinds = dict.fromkeys(kind for _, kind in model.inputs)
        yield "inputs", "  ".join(f"{' '.join(n for n, k in model.inputs if k == kind)}: {kind}" for kind in kinds)
        if model.constants:
            yield "", f"constant inputs: {', '.join(f'{name}={value}' for name, value in model.constants)}"
    for target in report.targets:
        yield "target", _target(target)
        yield from (("", f"on the host: {line}") for line in _placed(target) if placement)
        if target.mesh is not None:
            yield from _mesh(target, target.mesh, verbose)
        yield from programs.lines(target.programs, verbose)
    counts = ", ".join(f"{dtype} {count}" for dtype, count in report.precision.items())
    if report.requested is None:
        yield "precision", f"requested the model’s own → actual {counts}"
    else:
        yield from precision.lines(report.requested)
        yield "", f"kernels compute in {counts}"
    yield from (("", f"{target.passes} on {target.spelling}") for target in report.targets if target.passes)
    yield from accuracy(checked, reason)
    yield from (("latency", text) for target in report.targets if (text := programs.latency(target)))
    yield from (line for target in report.targets for line in _predicted(target))
    weights = f"weights {size(report.weight_bytes)}" if report.weight_bytes else "no weights"
    yield "artifact", f"{size(report.artifact_bytes)} ({weights})  sha256 {report.sha256[:12]}…"
    if checked is not None:
        part = checked.parts[0]  # the one that is chosen here
        memory = f"peak memory {size(part.peak_rss)}, with Python and NumPy"
        yield "", f"load {duration(part.load_seconds)}  {memory}  ({part.target})"
    yield "build", f"{duration(report.build_seconds)}  peak RSS {size(report.peak_rss)}"
    if verbose:
        yield "stages", "  ".join(f"{name} {duration(seconds)}" for name, seconds in report.seconds.items())
        yield "tools", "  ".join(f"{name} {version}" for name, version in report.tools.items())


def _model(model: ModelFacts) -> str:
    return f"{model.name}  sha256 {model.sha256[:12]}…  as opset {model.opset}, {model.nodes} nodes after fusion"


def _target(target: TargetFacts) -> str:
    what = "nodes" if target.programs else "kernels"
    placed = f"{target.launches - len(target.fallback)}/{target.launches} {what} on device"
    count = (
        f"{target.distinct} program{'s' * (target.distinct > 1)}" if target.programs else f"{target.distinct} distinct"
    )
    beside = f"{len(target.fallback)} {'on the host' if target.host else 'fallback'}"
    parts = [target.spelling, f"{placed}, {beside}", count]
    if target.code_bytes:
        parts.append(f"code {size(target.code_bytes)}")
    if target.arena:
        parts.append(f"arena {target.arena}")
    return "  ".join(parts)


def _predicted(target: TargetFacts) -> Iterator[Line]:
    """What is predicted of a device's kernels: never a measured time."""
    if target.schedules:
        told = ", ".join(f"{count} {origin}" for origin, count in target.schedules.items())
        yield (
            "schedules",
            f"{told}{', none tuned' if set(target.schedules) == {HEURISTIC} else ''} on {target.spelling}",
        )
    found = target.predicted
    if found is None:
        return
    at = f" at {found.at}" if found.at else ""
    least = f"predicted at least {programs.time_of(found.seconds)}{at} on {target.spelling}"
    yield "latency", f"{least}, by peak rates and bandwidth; no device here"
    bound = ", ".join(f"{name} {share:.0%}" for name, share in found.bound_by.items())
    without = [] if "launch" in found.bound_by else ["what starting a kernel takes"]
    without += [f"{found.left_out} launches of work that nobody knows ahead"] if found.left_out else []
    without += ["the host part and copies to it"] if target.fallback else []
    yield "", f"bound by {bound}{'; not in it: ' if without else ''}{', '.join(without)}"


def _mesh(target: TargetFacts, mesh: MeshFacts, verbose: bool) -> Iterator[Line]:
    """How a model lies on several devices; ``verbose`` shows every weight, else those that are not cut and why."""
    text, count = "x".join(map(str, mesh.sizes)), prod(mesh.sizes)
    kind = f"{count} virtual devices of one processor" if mesh.virtual else f"{count} devices"
    cut = sum(w.is_cut for w in mesh.weights)
    held = f"weights {size(mesh.bytes_per_device)} a device of {size(sum(w.bytes for w in mesh.weights))}"
    yield "mesh", f"{text} {mesh.shard}  {target.spelling} only: {kind}  {held}  {cut}/{len(mesh.weights)} cut"
    yield from (("", note) for note in mesh.notes)
    for program in target.programs:
        if program.collectives:
            told = ", ".join(f"{name} {number}" for name, number in program.collectives.items())
            yield "", f"exchanges of {program.name}: {told}"
    for w in mesh.weights:
        if verbose or w.reason:
            parts = "×".join(map(str, w.parts)) if w.is_cut else "whole"
            reason = f": {w.reason}" if w.reason else ""
            yield "", f"{w.name} {list(w.shape)} {parts}, {size(w.bytes_per_device)} a device{reason}"


def _placed(target: TargetFacts) -> Iterator[str]:
    """Nodes of the host part, those with the same reason together."""
    groups: dict[str, list[str]] = {}
    for line in target.fallback:
        node, _, why = line.partition(": ")
        groups.setdefault(why, []).append(node)
    for why, nodes in groups.items():
        more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
        yield f"{', '.join(nodes[:NAMED])}{more}: {why}"


def numbers(c: Comparison) -> str:
    """A comparison on one line."""
    parts = (
        f"cosine {c.cosine:.7f}",
        f"SNR {decibels(c)}",
        f"max|err| {c.max_error:.2e}",
        f"relative {c.relative:.2e}",
    )
    return c.problem or "  ".join(parts)


def decibels(c: Comparison) -> str:
    """The signal-to-noise ratio for a reader."""
    return decibels_of(c.snr)


def decibels_of(snr: float) -> str:
    """The same of a number."""
    return f"{snr:.1f} dB" if math.isfinite(snr) else "exact" if snr > 0 else "no signal"


def accuracy(checked: Verification | None, reason: str = "") -> Iterator[Line]:
    """The lines of a verification, or the one that says why there was none."""
    if checked is None:
        yield "accuracy", f"not checked: {reason}"
        return
    if checked.judged is not None:
        yield from _judged(checked.judged)
    worst = checked.worst
    agreement = "" if checked.top1 is None else f"  top-1 agreement {checked.top1:.2%}"
    passed = all(c.ok for c in checked.comparisons)
    judged = f"{'PASS' if passed else 'FAIL'} ({worst.limit})"
    yield "" if checked.judged is not None else "accuracy", f"{numbers(worst)}{agreement}   {judged}"
    samples = len(checked.parts[0].comparisons)
    where = " and ".join(part.target for part in checked.parts)
    cost = ""
    if checked.reference_rss:
        cost = f" ({duration(checked.reference_seconds)}, {size(checked.reference_rss)}, in a process of its own)"
    yield "", f"{where} beside {checked.reference} on {samples} sample{'s' * (samples > 1)}{cost}"
    for part in checked.parts:
        if part.jit_seconds:
            yield "", f"compiled by {part.jit_by} for the check, in {duration(part.jit_seconds)} ({part.target})"
    yield from (("", f"not checked on {target}: {why}") for target, why in checked.unchecked)
    if checked.reference_note:
        yield "", f"(not beside onnxruntime: {checked.reference_note})"


def _judged(j: Judged) -> Iterator[Line]:
    """A quantized artifact beside the float model."""
    parts = [f"cosine {j.cosine:.7f}", f"SNR {decibels_of(j.snr)}"]
    if j.top1 is not None:
        parts.append(f"top-1 agreement {j.top1:.2%}")
    bound = f"drop {j.drop:.2g}, may be {j.bound:g}{'' if j.stated else ' by default'}"
    yield "accuracy", f"{'  '.join(parts)}   {'PASS' if j.ok else 'FAIL'} ({bound})"
    yield "", f"beside the float model in {j.reference}, on {j.samples}; and beside its own quantized graph:"
