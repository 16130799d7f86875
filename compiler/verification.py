"""An artifact beside its model: both run in processes of their own, on the same inputs, and are compared per output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright import engines, rounding
from tilewright.accuracy import Agreement, Comparison, compare
from tilewright.engines import EngineError
from tilewright.errors import AccuracyError, ExitCode, InternalError, UsageError
from tilewright.ir.given import recorded
from tilewright.runtime import open_artifact

Array = NDArray[Any]
#: Of all outputs, of each, or by element type.
Tolerance = Mapping[str, float] | float | None

#: The code of the error that no reference runs a model: what it computes can then not be checked, here.
NO_REFERENCE = "reference-failed"


@dataclass(frozen=True, slots=True)
class Part:
    """One target's part of an artifact, run.

    Attributes:
        target: its spelling.
        comparisons: per sample, per output.
        totals: per output, over all samples.
        load_seconds: loading it, the runtime being imported already.
        peak_rss: highest memory of the process that ran it, Python and NumPy included; bytes.
        jit_seconds: of all that, spent on compiling what the artifact has in portable form; ``jit_by`` by what.
    """

    target: str
    comparisons: tuple[tuple[Comparison, ...], ...]
    totals: tuple[Comparison, ...]
    load_seconds: float
    peak_rss: int
    jit_seconds: float = 0.0
    jit_by: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """Outputs of a quantized artifact beside those of the float model, by a bound on what quantizing may cost.

    Attributes:
        target: the part that was run; of several the worst.
        reference: the engine that ran the float model.
        metric: what the drop is of.
        drop: how much worse outputs are; ``bound`` what that may be, ``stated`` where somebody said so.
        cosine, snr, top1: mean cosine, signal over noise in decibels, agreement of the largest element.
        samples: which ones.
    """

    target: str
    reference: str
    metric: str
    drop: float
    bound: float
    stated: bool
    cosine: float
    snr: float
    top1: float | None
    samples: str

    @property
    def ok(self) -> bool:
        """Within the bound."""
        return self.drop <= self.bound


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of a check.

    Attributes:
        parts: every part that could be run here.
        unchecked: the others, each with the reason.
        reference: engine that gave the reference, with its version; ``reference_note`` why it was not the first choice.
        reference_seconds: loading and running it, ``reference_rss`` its highest memory (bytes); 0 where that was not
            in a process of its own.
        judged: of a quantized artifact, its outputs beside the float model's; ``parts`` are then beside its own graph.
    """

    parts: tuple[Part, ...]
    unchecked: tuple[tuple[str, str], ...]
    reference: str
    reference_seconds: float
    reference_rss: int
    reference_note: str = ""
    judged: Judged | None = None

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All of them, of every part and sample."""
        return tuple(c for part in self.parts for sample in part.comparisons for c in sample)

    @property
    def ok(self) -> bool:
        """Every output of every sample within tolerance, on every part that could be run."""
        return all(c.ok for c in self.comparisons) and (self.judged is None or self.judged.ok)

    @property
    def worst(self) -> Comparison:
        """The comparison that uses most of what it may."""
        return max(self.comparisons, key=lambda c: (c.used, c.relative))

    @property
    def top1(self) -> float | None:
        """Agreement of the largest element over all rows, where outputs have rows."""
        shares = [c.top1 for c in self.comparisons if c.top1 is not None]
        return float(np.mean(shares)) if shares else None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "ok": self.ok, "top1": self.top1}

    def require(self, where: str) -> None:
        """Raise :class:`AccuracyError` naming every output that is off."""
        if self.judged is not None and not self.judged.ok:
            j = self.judged
            of = "by default" if not j.stated else "as was asked"
            raise AccuracyError(
                "bound-missed",
                where=where,
                cause=f"outputs are worse than the float model's by {j.drop:.3g} ({j.metric}), and may be by "
                f"{j.bound:g} {of}, on {j.samples}",
                fix="ask for auto, leave layers out with --except (the report lists them), or state --max-drop",
            )
        bad = [c for c in self.comparisons if not c.ok]
        if bad:
            told = "; ".join(c.problem or f"{c.name} {c.distance}" for c in bad[:5])
            raise AccuracyError(
                "accuracy-below",
                where=where,
                cause=f"{told}, beside {self.reference}",
                fix="find the tensor and the pass with tilewright bisect, or state --tolerance or --min-accuracy",
            )


@dataclass(frozen=True, slots=True)
class Reference:
    """Outputs of each sample by name, from an engine; seconds and bytes that it took; why it was not another one."""

    engine: str
    version: str
    outputs: tuple[dict[str, Array], ...]
    cost: tuple[float, int]
    note: str = ""

    def __str__(self) -> str:
        name = self.engine.removesuffix(".plain")
        return f"{name} {self.version}{' (nothing fused)' if name != self.engine else ''}"


def verify(
    artifact: Path | str,
    reference: Path | str,
    feeds: Sequence[Mapping[str, Array]],
    *,
    tolerance: float | None = None,
    minimum: float | None = None,
    engine: str = "auto",
    entry: str | None = None,
) -> Verification:
    """Compare an artifact with the ONNX model it was made from.

    Args:
        artifact: a ``.tw`` file.
        reference: an ONNX file.
        feeds: samples, arrays by input name.
        tolerance: largest error relative to the largest reference value; ``None`` is the table of
            :data:`tilewright.accuracy.TOLERANCE`, for a quantized model no less than what its rounding does.
        minimum: smallest cosine of each output of each sample; decides in place of the tolerance.
        engine: ``onnxruntime``, ``onnx.reference`` or ``auto`` (the first that is installed and takes the model).
        entry: the entry point that was made from it; the first when ``None``.

    Raises:
        UsageError: no samples.
        EngineError: no part of the artifact can be run here, inputs do not fit, or (:data:`NO_REFERENCE`) no reference
            runs the model on them.
        InternalError: the artifact fails.
    """
    if not feeds:
        raise UsageError("no-samples", where="verify", cause="no inputs to compare on", fix="give at least one sample")
    full = with_constants(artifact, entry, feeds)
    want = reference_outputs(Path(reference), full, engine)
    return verify_outputs(
        artifact,
        feeds,
        want.outputs,
        str(want),
        cost=want.cost,
        note=want.note,
        tolerance=allowed(Path(reference), full, want) if tolerance is None and minimum is None else tolerance,
        minimum=minimum,
        entry=entry,
    )


def allowed(model: Path, feeds: Sequence[Mapping[str, Array]], want: Reference) -> Mapping[str, float] | None:
    """Tolerances of a quantized model's outputs, ``want`` on ``feeds``; ``None`` for a model whose values keep their
    precision."""
    if not rounding.is_rounded(model):
        return None
    with rounding.unrounded(model) as path:
        plain = None if path is None else reference_outputs(path, feeds, "onnxruntime.plain").outputs
    return rounding.tolerances(want.outputs, plain)


def verify_outputs(
    artifact: Path | str,
    feeds: Sequence[Mapping[str, Array]],
    want: Sequence[Mapping[str, Array]],
    reference: str,
    *,
    cost: tuple[float, int] | None = None,
    note: str = "",
    tolerance: Tolerance = None,
    minimum: float | None = None,
    entry: str | None = None,
) -> Verification:
    """Compare an artifact with outputs that are known.

    Args:
        artifact: a ``.tw`` file; it runs in a process of its own.
        feeds: samples, arrays by input name.
        want: their outputs by name.
        reference: who gave them.
        cost: seconds and bytes of memory that they took, where that was in a process of its own.
        note: why the reference was not another one.
        tolerance, minimum, entry: as for :func:`verify`; the tolerance may be one for each output.

    Raises:
        EngineError: no part of the artifact can be run here, or inputs do not fit.
    """
    parts: list[Part] = []
    unchecked: list[tuple[str, str]] = []
    missing: EngineError | None = None
    for target in (t.target for t in open_artifact(artifact).manifest.targets):
        try:
            parts.append(_part(Path(artifact), target, feeds, want, reference, (tolerance, minimum), entry))
        except EngineError as error:
            if error.exit_code != ExitCode.DEVICE:
                raise
            missing = error
            unchecked.append((target, error.cause))
    if missing and not parts:
        raise missing
    seconds, memory = cost or (0.0, 0)
    return Verification(tuple(parts), tuple(unchecked), reference, seconds, memory, note)


def together(checks: Mapping[str, Verification]) -> Verification:
    """The verifications of several entry points as one; each output is named with its entry point, ``decode: y``.

    Samples count one after the other, times are summed, memory is the highest.
    """
    first, *others = checks.values()
    if not others:
        return first
    named: dict[str, list[tuple[Comparison, ...]]] = {}
    totals: dict[str, tuple[Comparison, ...]] = {}
    for entry, check in checks.items():
        for part in check.parts:
            named.setdefault(part.target, []).extend(_named(entry, sample) for sample in part.comparisons)
            totals[part.target] = (*totals.get(part.target, ()), *_named(entry, part.totals))
    peak = max(p.peak_rss for c in checks.values() for p in c.parts)
    parts = [
        replace(p, comparisons=tuple(named[p.target]), totals=totals[p.target], peak_rss=peak) for p in first.parts
    ]
    return Verification(
        tuple(parts),
        first.unchecked,
        ", ".join(dict.fromkeys(c.reference for c in checks.values())),
        sum(c.reference_seconds for c in checks.values()),
        max(c.reference_rss for c in checks.values()),
        "; ".join(f"{entry}: {c.reference_note}" for entry, c in checks.items() if c.reference_note),
        max((c.judged for c in checks.values() if c.judged is not None), key=lambda j: j.drop, default=None),
    )


def _named(entry: str, comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    return tuple(replace(c, name=f"{entry}: {c.name}") for c in comparisons)


def constant_inputs(artifact: Path | str, entry: str | None) -> dict[str, Array]:
    """Inputs of the model that an entry point was given while it was compiled, which its reference still has.

    Raises :class:`UsageError` for a record that cannot be read.
    """
    try:
        return recorded(_constant_record(artifact, entry))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "no-provenance",
            where=str(artifact),
            cause=f"its record of constant inputs cannot be read ({error})",
            fix="compile the model again",
        ) from None


def constant_positions(artifact: Path | str, entry: str | None) -> list[tuple[int, str]]:
    """Where among the inputs of the model each of :func:`constant_inputs` is, the first first."""
    constant_inputs(artifact, entry)
    record = _constant_record(artifact, entry)
    return sorted((told["position"] if isinstance(told.get("position"), int) else 0, n) for n, told in record.items())


def _constant_record(artifact: Path | str, entry: str | None) -> Mapping[str, Any]:
    manifest = open_artifact(artifact).manifest
    name = manifest.entries[manifest.entry(entry)].name
    models = [m for m in manifest.provenance.get("models", ()) if m["entry"] == name]
    found: Mapping[str, Any] = models[0].get("constants", {}) if models else {}
    return found


def with_constants(
    artifact: Path | str, entry: str | None, feeds: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """Samples of an artifact as its reference takes them."""
    constants = constant_inputs(artifact, entry)
    return [{**feed, **constants} for feed in feeds]


def require_inputs(reference: Path, names: Iterable[str]) -> None:
    """Raise an error for a file that is no model, or one whose inputs are not those of the artifact."""
    from tilewright.frontend.onnx import input_names

    ours, theirs = sorted(names), sorted(input_names(reference))
    if ours != theirs:
        raise UsageError(
            "reference-inputs",
            where=str(reference),
            cause=f"its inputs are {', '.join(theirs)}, those of the artifact {', '.join(ours)}",
            fix="give the model that the artifact was compiled from",
        )


def _part(
    artifact: Path,
    target: str,
    feeds: Sequence[Mapping[str, Array]],
    want: Sequence[Mapping[str, Array]],
    reference: str,
    limits: tuple[Tolerance, float | None],
    entry: str | None,
) -> Part:
    got = engines.run_apart("tilewright", artifact, feeds, target, entry)
    comparisons = []
    tolerance, minimum = limits
    each = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(want[0], tolerance)
    totals = {name: Agreement(name, each.get(name), minimum) for name in want[0]}
    for mine, theirs in zip(got.outputs, want, strict=True):
        if set(mine) != set(theirs):
            raise UsageError(
                "outputs-differ",
                where=reference,
                cause=f"the artifact gives {sorted(mine)}, the reference {sorted(theirs)}",
                fix="give the model that the artifact was compiled from",
            )
        comparisons.append(tuple(compare(n, mine[n], theirs[n], each.get(n), minimum) for n in mine))
        for name, total in totals.items():
            total.add(mine[name], theirs[name])
    return Part(
        target,
        tuple(comparisons),
        tuple(t.result for t in totals.values()),
        got.load_seconds,
        got.peak_rss,
        got.jit_seconds,
        got.jit_by,
    )


def reference_outputs(path: Path, feeds: Sequence[Mapping[str, Array]], engine: str = "auto") -> Reference:
    """What ``engine`` makes of the samples, as for :func:`verify`; ``onnxruntime.plain`` (where nothing is fused) makes
    way for ``onnx.reference`` as ``auto`` does. For a quantized model ``auto`` takes engines that do what it means.

    Raises :class:`EngineError` (:data:`NO_REFERENCE`) where none runs the model.
    """
    if engine not in ("auto", "onnxruntime.plain"):
        return _told(_run_reference(engine, path, feeds))
    order = ("onnxruntime" if engine == "auto" else engine, "onnx.reference")
    if engine == "auto":
        order = rounding.engines_for(path) or order
    first, second = order
    note = f"{first.partition('.')[0]} is not installed"
    if engines.available(first):
        try:
            return _told(_run_reference(first, path, feeds))
        except EngineError as error:
            if error.code != NO_REFERENCE:
                raise
            note = error.cause.splitlines()[-1]
    return _told(_run_reference(second, path, feeds), note)


def _told(runs: engines.Runs, note: str = "") -> Reference:
    cost = (runs.load_seconds + sum(runs.seconds), runs.peak_rss)
    return Reference(runs.engine, runs.version, runs.outputs, cost, note)


def _run_reference(engine: str, path: Path, feeds: Sequence[Mapping[str, Array]]) -> engines.Runs:
    try:
        return engines.run_apart(engine, path, feeds)
    except InternalError as error:
        raise EngineError(
            NO_REFERENCE,
            where=str(path),
            cause=f"{engine} does not run it on these inputs: {str(error).splitlines()[-1]}",
            fix="give inputs that the model takes, with --data",
            exit_code=ExitCode.USAGE,
        ) from None
