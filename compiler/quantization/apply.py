"""A graph quantized as it was asked: by one method, or by the mixture that ``auto`` finds for a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from tilewright.calibration import held_out, sizes_of
from tilewright.errors import AccuracyError, UsageError
from tilewright.options import Precision
from tilewright.passes.quantize.base import Calibration, Capability, Layer, Method, Runner, Settings
from tilewright.quantization import request
from tilewright.quantization.costs import Place, name_layers
from tilewright.quantization.request import Given
from tilewright.quantization.scores import Score
from tilewright.quantization.search import Mixture, Say, promoted, rows_of, search_methods, within
from tilewright.quantization.trials import Judge, Quantize, Trials, is_quantized
from tilewright.target import Target

#: Which entries of a target's ``[quantize]`` data a method needs something in.
_NEEDS: Mapping[Method, Callable[[Capability], object]] = {
    "int8": lambda c: c.static,
    "int8-dynamic": lambda c: c.dynamic,
    "int8-weights": lambda c: "i8" in c.weights,
    "int4": lambda c: "i4" in c.weights,
    "fp8": lambda c: any(f.startswith("f8") for f in c.floats),
    "fp16": lambda c: "f16" in c.floats,
    "bf16": lambda c: "bf16" in c.floats,
}


@dataclass(frozen=True, slots=True)
class Quantized:
    """A graph with its layers quantized.

    Attributes:
        model: the graph; that which was given where nothing is quantized.
        rows: a line for each layer.
        method: that which was used; empty where nothing is quantized.
        score: beside the float graph; ``None`` where there was nothing to judge on.
        judged: on which samples.
        seconds, float_seconds: predicted for the targets, where they were; else not a number.
    """

    model: ir.Model
    rows: tuple[Layer, ...]
    method: str
    score: Score | None = None
    judged: str = ""
    seconds: float = float("nan")
    float_seconds: float = float("nan")


@dataclass(slots=True)
class Quantizer:
    """Quantizes one graph, for any number of targets; what they have in common is done once.

    Attributes:
        graph: imported and canonicalized. Its nodes are named.
        precision: what is asked.
        calibration: samples; ``None`` where there are none.
        runner: runs a graph.
        given: metric and records.
        say: takes a line for the user.
        quantize: the entry to the methods; ``None`` is :func:`tilewright.passes.quantize.methods.quantize`.
    """

    graph: ir.Model
    precision: Precision
    calibration: Calibration | None
    runner: Runner
    given: Given = field(default_factory=Given)
    say: Say = lambda line: None
    quantize: Quantize | None = None
    _judge: Judge | None = None
    _trials: dict[tuple[Settings, Capability], Trials] = field(default_factory=dict)

    def __post_init__(self) -> None:
        request.check(self.precision)
        name = self.graph.graph.name or "model"
        request.require_data(self.precision, self.calibration, name)
        if self.precision.asked == "auto" or request.METHODS[self.precision.asked]:
            _require_float(self.graph, name)
        name_layers(self.graph)

    def quantized(self, capability: Capability, targets: Sequence[Target], level: int = 2) -> Quantized:
        """The graph quantized for ``targets``, which all have ``capability``; they matter to ``auto`` alone.

        Raises :class:`AccuracyError` (``bound-missed``) where the bound cannot be kept, told with the best that could.
        """
        if self.precision.asked == "auto":
            return self._searched(capability, targets, level)
        if not request.METHODS[self.precision.asked]:
            return Quantized(self.graph, (), "")
        trials = self._of(request.settings_of(self.precision), capability)
        model, rows = trials.state(trials.layers)
        score = trials.score(trials.layers) if self._judged() else None
        if score is not None and not within(score, self.precision.max_drop):
            self._missed(trials, score)
        asked = self.precision.asked
        rows = tuple(_row(row, trials, asked) for row in rows)
        return Quantized(model, rows, trials.settings.method, score, self._told())

    def _searched(self, capability: Capability, targets: Sequence[Target], level: int) -> Quantized:
        assert self.calibration is not None
        assert self.precision.max_drop is not None
        methods = candidates(capability, self.quantize)
        if not methods:
            cause = f"{', '.join(t.spelling for t in targets)} absorbs nothing that is quantized"
            raise UsageError("nothing-to-quantize", where="precision auto", cause=cause, fix="leave --precision out")
        sizes = sizes_of(self.calibration.feeds[0], self.graph)
        places = [Place(t, sizes, self.given.records, level) for t in targets]
        every = [self._of(request.settings_for(self.precision, m), capability) for m in methods]
        found, trials = search_methods(every, places, self.precision.max_drop, self.say)
        if not within(found.score, self.precision.max_drop):
            self._refuse(found)
        rows = rows_of(found, trials, "auto")
        model = trials.state(found.layers)[0]
        method = trials.settings.method if found.layers else ""
        return Quantized(model, rows, method, found.score, self._told(), found.seconds, found.float_seconds)

    def _of(self, settings: Settings, capability: Capability) -> Trials:
        key = (settings, capability)
        if key not in self._trials:
            fitting = held_out(self.calibration)[0] if self.calibration is not None else None
            judge, excepted = self._judged(), self.precision.excepted
            self._trials[key] = Trials(
                self.graph, settings, capability, fitting, self.runner, judge, excepted, self.quantize
            )
        return self._trials[key]

    def _judged(self) -> Judge | None:
        if self._judge is None and self.calibration is not None:
            feeds = held_out(self.calibration)[1]
            self._judge = Judge(self.graph, feeds, self.runner, self.precision.metric, self.given.metric)
        return self._judge

    def _told(self) -> str:
        if self.calibration is None:
            return ""
        fitting, judging = held_out(self.calibration)
        count = f"{len(judging)} sample{'s' * (len(judging) != 1)}"
        made_up = " (random, made up)" if self.calibration.random else ""
        if len(fitting.feeds) < len(self.calibration.feeds):
            return f"{count} held out of {len(self.calibration.feeds)}{made_up}"
        return f"{count}, the same that it was calibrated on: too few to hold some out{made_up}"

    def _missed(self, trials: Trials, score: Score) -> None:
        """Raise the error of a fixed method that misses the bound, with the fewest layers that have to be float."""
        bound = self.precision.max_drop
        assert bound is not None
        best = promoted(trials, trials.layers, bound)
        if not within(best.score, bound):
            self._refuse(best)
        out = sorted(trials.layers - best.layers)
        told = " ".join(f"--except {name}" for name in out[:6]) + (" …" if len(out) > 6 else "")
        raise AccuracyError(
            "bound-missed",
            where=f"{trials.settings.method} on {self._told()}",
            cause=f"outputs are worse by {score.drop:.3g} ({trials.metric}), and may be by {bound:g}; with "
            f"{len(out)} of {len(trials.rows)} layers in float it is {best.score.drop:.3g}",
            fix=f"use auto, or leave those layers out: {told}",
        )

    def _refuse(self, best: Mixture) -> None:
        raise AccuracyError(
            "bound-missed",
            where=f"bound {self.precision.max_drop:g}",
            cause=f"even with every layer in float the drop is {best.score.drop:.3g}, the best there is",
            fix="give a bound of 0 or more, and a metric that is as good for equal outputs",
        )


def _row(row: Layer, trials: Trials, asked: str) -> Layer:
    if row.name in trials.excepted and not is_quantized(row, trials.settings):
        return replace(row, asked=asked, why="excepted")
    return replace(row, asked=asked)


def candidates(capability: Capability, quantize: Quantize | None = None) -> list[Method]:
    """The methods that ``auto`` tries for targets of ``capability``; a stand-in for all of them is asked for each."""
    from tilewright.passes.quantize.methods import METHODS

    return [m for m in request.CANDIDATES if _NEEDS[m](capability) and (quantize is not None or m in METHODS)]


def _require_float(graph: ir.Model, name: str) -> None:
    """Raise :class:`UsageError` for a model that is quantized already."""
    count = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.graph)
    if count:
        cause = f"it is quantized already: {count} nodes quantize or dequantize"
        fix = "quantize the float model, or compile this one as it is, without --precision"
        raise UsageError("already-quantized", where=name, cause=cause, fix=fix)
