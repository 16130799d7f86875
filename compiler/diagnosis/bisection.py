"""Where an artifact goes wrong: the first tensor that diverges, the pass or kernel at fault, a minimal model.

The model is compiled again as the artifact says it was. A graph is a legal ONNX model after every pass, so each state
is run as ONNX defines it, and the first that is off names the pass. Where all states are right, every kernel of the
last one is run on right inputs, and the first that is off is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.accuracy import Comparison
from tilewright.diagnosis import kernels, loss, rebuild
from tilewright.diagnosis.minimal import Minimal, minimal
from tilewright.diagnosis.provenance import Recorded, of_part, read_record
from tilewright.diagnosis.states import Limits, State, steps_of, trace, values_of
from tilewright.entries import digest_of
from tilewright.errors import AccuracyError
from tilewright.options import Options
from tilewright.passes.fusion.outline import inline_fused
from tilewright.runtime import open_artifact
from tilewright.verification import Verification, allowed, reference_outputs, verify_outputs, with_constants

Array = NDArray[Any]
Values = Mapping[str, Array]
Say = Callable[[str], None]

#: What is at fault. ``artifact``: compiled again, the outputs agree. ``model``: it differs from the reference before it
#: is compiled (it was quantized). ``reference``: the two references differ. ``plan``: every kernel is right by itself.
Stage = Literal["artifact", "model", "reference", "import", "pass", "lowering", "kernel", "plan"]


DEFAULT = Limits()


@dataclass(frozen=True, slots=True)
class Fault:
    """Where numbers go wrong.

    Attributes:
        stage, culprit: what is at fault, and its name: of a pass, of a kernel.
        tensor: the first one that is off, in order of execution.
        op_type: of the operator that computes it.
        told: what was found, in a sentence.
        minimal: the smallest model that goes wrong; ``None`` where none does by itself.
    """

    stage: Stage
    culprit: str
    tensor: Comparison
    op_type: str
    told: str
    minimal: Minimal | None = None


@dataclass(frozen=True, slots=True)
class Bisection:
    """Outcome of a search: ``fault`` is ``None`` where every output is within limits; ``notes`` are caveats."""

    verification: Verification
    notes: tuple[str, ...]
    fault: Fault | None

    @property
    def ok(self) -> bool:
        """No divergence."""
        return self.fault is None

    def require(self, where: str) -> None:
        """Raise :class:`AccuracyError` where something diverges."""
        if self.fault is not None:
            t = self.fault.tensor
            cause = f"{t.name}: {t.problem or t.distance}; {self.fault.told}"
            fix = "report the minimal model, or see the notes above"
            raise AccuracyError("diverges", where=where, cause=cause, fix=fix)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; of the minimal model only its size."""
        fault = None
        if self.fault is not None:
            fault = {k: getattr(self.fault, k) for k in ("stage", "culprit", "op_type", "told")}
            found = self.fault.minimal
            fault["tensor"] = asdict(self.fault.tensor)
            fault["minimal"] = found and {"nodes": found.nodes, "comparison": asdict(found.comparison)}
        return {"ok": self.ok, "notes": list(self.notes), "fault": fault}


def bisect(
    artifact: Path,
    reference: Path,
    feeds: Sequence[Values],
    *,
    model: Path | None = None,
    limits: Limits = DEFAULT,
    engine: str = "auto",
    entry: str | None = None,
    say: Say = lambda line: None,
) -> Bisection:
    """Find where ``artifact`` first differs from ``reference`` by more than ``limits``.

    Args:
        artifact: a ``.tw`` file.
        reference: the ONNX model that is right.
        feeds: samples; the search goes by the one that is off most.
        model: what the artifact was compiled from, where that is not ``reference`` but was made from it (quantized).
        engine, entry: as for :func:`tilewright.verification.verify`.
        say: takes a line for the user.

    Raises what verifying and compiling raise, and :class:`UsageError` (``no-provenance``, ``bisect-evaluate``).
    """
    recorded = read_record(open_artifact(artifact).manifest, entry, str(artifact))
    full = with_constants(artifact, entry, feeds)
    want = reference_outputs(reference, full, engine)
    checked = verify_outputs(
        artifact,
        feeds,
        want.outputs,
        str(want),
        note=want.note,
        tolerance=allowed(reference, full, want) if limits == DEFAULT else limits.tolerance,
        minimum=limits.minimum,
        entry=entry,
    )
    notes = _notes(recorded, model or reference)
    if checked.ok:
        return Bisection(checked, notes, None)
    part = max(checked.parts, key=lambda p: max(c.used for sample in p.comparisons for c in sample))
    sample = max(range(len(feeds)), key=lambda i: max(c.used for c in part.comparisons[i]))
    say(f"sample {sample} on {part.target} is off; compiling again")
    options = replace(recorded.options, targets=(part.target,))
    worst = max(part.comparisons[sample], key=lambda c: c.used)
    search = _Search(
        reference, model, feeds[sample], want.outputs[sample], worst, str(want), options, limits, say, recorded.unknown
    )
    search.full = full[sample]
    return Bisection(checked, notes, search.fault())


def _notes(recorded: Recorded, source: Path) -> tuple[str, ...]:
    notes = []
    if (digest := digest_of(source)) != recorded.sha256:
        notes.append(
            f"the artifact was compiled from a model with SHA-256 {recorded.sha256[:12]}…, {source.name} has "
            f"{digest[:12]}…: what is searched is a compilation of {source.name}"
        )
    if recorded.unknown:
        notes.append(f"compiled again without {', '.join(recorded.unknown)}: the artifact does not hold their data")
    return tuple(notes)


@dataclass(slots=True)
class _Search:
    """One sample, what its outputs should be and which one is off most, and how the model is compiled."""

    reference: Path
    model: Path | None
    feed: Values
    want: Values
    off: Comparison
    engine: str
    options: Options
    limits: Limits
    say: Say
    without: tuple[str, ...] = ()  # what the artifact was compiled with and is not compiled with again
    full: Values = field(default_factory=dict)  # the sample with constant inputs, as the reference takes it

    def fault(self) -> Fault:
        """What is at fault; the ways are looked at from the end that is cheapest to rule out."""
        source = self.model or self.reference
        states = trace(source, self.options)
        if self.limits == DEFAULT and self.model is None:
            self.limits = replace(self.limits, steps=steps_of(states[0].graph, self.feed))
        again = rebuild.run(source, self.options, self.feed)
        if self._worst(again) is None:
            told = f"compiled again from {source.name}, the outputs agree: the artifact is of another compiler or model"
            if self.without:
                told = (
                    f"compiled again without {', '.join(self.without)}, the outputs agree: write the quantized model "
                    "with tilewright quantize, compile that, and give it as --model"
                )
            return Fault("artifact", "", self.off, "", told)
        first = values_of(states[0].graph, self.feed)
        if self._worst(first) is not None:
            return self._before_passes(states[0], first, source)
        self.say(f"{len(states)} states of the graph")
        bad = self._first_bad(states)
        if bad:
            return self._in_pass(states[bad - 1], states[bad])
        self.say("all of them are right; running every kernel by itself")
        found = kernels.first_off(states[-1].graph, self.feed, self.options, self.limits)
        if found is None:
            told = "every state of the graph and every kernel by itself is right: memory or order of the plan is wrong"
            return Fault("plan", "", self.off, "", told, self._minimal_compiled(states[-1], self.off.name))
        told = {
            "lowering": f"all {len(states)} states of the graph are right; the tile IR of kernel {found.kernel} is not",
            "kernel": f"all {len(states)} states of the graph are right; {found.told} of kernel {found.kernel} is not",
        }[found.stage]
        made = self._minimal_compiled(states[-1], found.tensor.name)
        return Fault(found.stage, found.kernel, found.tensor, found.op_type, told, made)

    # -- before any pass ---------------------------------------------------------------------------------------------

    def _before_passes(self, state: State, values: Values, source: Path) -> Fault:
        if self.model is not None:
            return Fault(*loss.first_off(state.graph, self.reference, self.feed, self.limits, source.name))
        raw = ir.load(self.reference)
        truth = values_of(ir.to_proto(raw), self.full)
        worst = self._worst(truth)
        if worst is not None:
            told = f"onnx.reference and {self.engine} differ on this model: which of them is right is not known"
            return Fault("reference", "", worst, "", told)
        tensor = self._first(raw, truth, values)
        told = f"the imported graph differs from {source.name}"
        check = rebuild.checks(lambda proto: [rebuild.imported(proto)], self.limits)
        return Fault(
            "import", "import", tensor, _maker(raw, tensor.name), told, minimal(raw, tensor.name, truth, check)
        )

    # -- passes ------------------------------------------------------------------------------------------------------

    def _first_bad(self, states: Sequence[State]) -> int:
        """Index of a state that is off while the one before it is not; 0 where the last one is right."""
        if self._worst(values_of(states[-1].graph, self.feed)) is None:
            return 0
        good, bad = 0, len(states) - 1
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._worst(values_of(states[middle].graph, self.feed)) is None:
                good = middle
            else:
                bad = middle
        return bad

    def _in_pass(self, before: State, after: State) -> Fault:
        truth = values_of(before.graph, self.feed)
        tensor = self._first(before.graph, truth, values_of(after.graph, self.feed))

        def made(proto: Any) -> list[State]:
            states = trace(proto, of_part(self.options))
            return [s for pair in pairwise(states) if pair[1].name == after.name for s in pair]

        check = rebuild.checks(made, self.limits)
        told = f"the state before pass {after.name} (after {before.name}) is right, the one after it is not"
        part = minimal(before.graph, tensor.name, truth, check)
        return Fault("pass", after.name, tensor, _maker(before.graph, tensor.name), told, part)

    def _first(self, graph: ir.Model, truth: Values, values: Values) -> Comparison:
        """The first value of ``graph``, in order, that both have and that is off; an output where it is only that."""
        for node in graph.graph:
            for name in (str(v.name) for v in node.outputs if v.name in truth and v.name in values):
                found = self.limits.compare(name, values[name], truth[name])
                if not found.ok:
                    return found
        worst = self._worst(values)
        assert worst is not None
        return worst

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _worst(self, outputs: Values) -> Comparison | None:
        """The output that is off most; ``None`` where none is off."""
        worst = max((self.limits.compare(n, outputs[n], self.want[n]) for n in self.want), key=lambda c: c.used)
        return None if worst.ok else worst

    def _minimal_compiled(self, state: State, target: str) -> Minimal | None:
        """A part of the last state, its fused operators taken apart, that goes wrong when it is compiled."""
        whole = state.graph.clone()
        # As an output it can be followed: what a fused operator computes gets another name when that is taken apart.
        whole.graph.outputs.append(next(v for n in whole.graph for v in n.outputs if v.name == target))
        inline_fused(whole)
        name = str(whole.graph.outputs.pop().name)
        options = of_part(self.options)
        truth = values_of(whole, self.feed)
        return minimal(whole, name, truth, rebuild.compiled_check(options, self.limits))


def _maker(graph: ir.Model, name: str) -> str:
    return next((n.op_type for n in graph.graph for v in n.outputs if v.name == name), "")
