"""An artifact beside its model: both run in processes of their own, on the same inputs, and are compared per output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright import accuracy, engines
from tilewright.accuracy import Comparison
from tilewright.errors import AccuracyError, InternalError, UsageError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of a check.

    Attributes:
        comparisons: per sample, per output.
        reference: engine that gave the reference, with its version; ``reference_note`` why it was not the first choice.
        reference_seconds: loading and running it, ``reference_rss`` its highest memory (bytes); 0 where that was not
            in a process of its own.
        load_seconds: loading the artifact, the runtime being imported already.
        artifact_rss: highest memory of the process that ran the artifact, Python and NumPy included.
    """

    comparisons: tuple[tuple[Comparison, ...], ...]
    reference: str
    reference_seconds: float
    reference_rss: int
    load_seconds: float
    artifact_rss: int
    reference_note: str = ""

    @property
    def ok(self) -> bool:
        """Every output of every sample within tolerance."""
        return all(c.ok for sample in self.comparisons for c in sample)

    @property
    def worst(self) -> Comparison:
        """The comparison that uses most of its tolerance."""
        every = [c for sample in self.comparisons for c in sample]
        return max(every, key=lambda c: (not c.ok, c.relative / c.tolerance if c.tolerance else c.relative))

    @property
    def top1(self) -> float | None:
        """Agreement of the largest element over all rows, where outputs have rows."""
        shares = [c.top1 for sample in self.comparisons for c in sample if c.top1 is not None]
        return float(np.mean(shares)) if shares else None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "ok": self.ok, "top1": self.top1}

    def require(self, where: str) -> None:
        """Raise :class:`AccuracyError` naming every output that is off."""
        bad = [c for sample in self.comparisons for c in sample if not c.ok]
        if bad:
            told = "; ".join(
                c.problem or f"{c.name} off by {c.relative:.2e} (may be {c.tolerance:.0e})" for c in bad[:5]
            )
            raise AccuracyError(
                "accuracy-below",
                where=where,
                cause=f"{told}, beside {self.reference}",
                fix="compile with --verify-each to find the pass that changes numbers, or state --tolerance",
            )


def verify(
    artifact: Path | str,
    reference: Path | str,
    feeds: Sequence[Mapping[str, Array]],
    *,
    tolerance: float | None = None,
    engine: str = "auto",
) -> Verification:
    """Compare an artifact with the ONNX model it was made from.

    Args:
        artifact: a ``.tw`` file.
        reference: an ONNX file.
        feeds: samples, arrays by input name.
        tolerance: largest error relative to the largest reference value; ``None`` is the table of
            :data:`tilewright.accuracy.TOLERANCE`.
        engine: ``onnxruntime``, ``onnx.reference`` or ``auto`` (the first that is installed and takes the model).

    Raises:
        UsageError: no samples.
        InternalError: the artifact does not run.
    """
    if not feeds:
        raise UsageError("no-samples", where="verify", cause="no inputs to compare on", fix="give at least one sample")
    want, note = _reference(Path(reference), feeds, engine)
    cost = (want.load_seconds + sum(want.seconds), want.peak_rss)
    name = f"{want.engine} {want.version}"
    return verify_outputs(artifact, feeds, want.outputs, name, cost=cost, note=note, tolerance=tolerance)


def verify_outputs(
    artifact: Path | str,
    feeds: Sequence[Mapping[str, Array]],
    want: Sequence[Mapping[str, Array]],
    reference: str,
    *,
    cost: tuple[float, int] | None = None,
    note: str = "",
    tolerance: float | None = None,
) -> Verification:
    """Compare an artifact with outputs that are known.

    Args:
        artifact: a ``.tw`` file; it runs in a process of its own.
        feeds: samples, arrays by input name.
        want: their outputs by name.
        reference: who gave them.
        cost: seconds and bytes of memory that they took, where that was in a process of its own.
        note: why the reference was not another one.
        tolerance: as for :func:`verify`.
    """
    got = engines.run_apart("tilewright", Path(artifact), feeds)
    comparisons = []
    for mine, theirs in zip(got.outputs, want, strict=True):
        if set(mine) != set(theirs):
            raise UsageError(
                "outputs-differ",
                where=str(reference),
                cause=f"the artifact gives {sorted(mine)}, the reference {sorted(theirs)}",
                fix="give the model that the artifact was compiled from",
            )
        comparisons.append(tuple(accuracy.compare(n, mine[n], theirs[n], tolerance) for n in mine))
    seconds, memory = cost or (0.0, 0)
    return Verification(tuple(comparisons), reference, seconds, memory, got.load_seconds, got.peak_rss, note)


def _reference(path: Path, feeds: Sequence[Mapping[str, Array]], engine: str) -> tuple[engines.Runs, str]:
    if engine != "auto":
        return engines.run_apart(engine, path, feeds), ""
    note = "onnxruntime is not installed"
    if engines.available("onnxruntime"):
        try:
            return engines.run_apart("onnxruntime", path, feeds), ""
        except InternalError as error:
            note = str(error).splitlines()[-1]
    return engines.run_apart("onnx.reference", path, feeds), note
