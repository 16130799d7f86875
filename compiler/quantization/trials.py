"""Quantized states of one graph: made for a set of layers, run on samples, judged, and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.passes.quantize.base import Calibration, Capability, Feed, Layer, Runner, Settings
from tilewright.quantization.request import Metric
from tilewright.quantization.scores import Score, score

Array = NDArray[Any]
State = tuple[ir.Model, tuple[Layer, ...]]
#: The entry to all methods, :func:`tilewright.passes.quantize.methods.quantize`.
Quantize = Callable[..., list[Layer]]

#: Quantized states that are kept; each has its own weights.
KEPT = 2
#: Samples on which layers are compared with each other; a mixture is judged on all.
FEW = 4


class Judge:
    """Runs states of a graph on the samples that were held out, beside the graph itself.

    Args:
        graph: the float model, imported and canonicalized.
        feeds: samples to judge by.
        runner: runs a graph.
        metric, given: see :func:`tilewright.quantization.scores.score`.
    """

    def __init__(
        self,
        graph: ir.Model,
        feeds: Sequence[Feed],
        runner: Runner,
        metric: str = "cosine",
        given: Metric | None = None,
    ):
        self._feeds, self._runner, self._metric, self._given = tuple(feeds), runner, metric, given
        self.metric = {"top1": "top-1", "given": "your metric’s"}.get(metric, metric)
        self.outputs = tuple(str(v.name) for v in graph.graph.outputs)
        self.want: tuple[Mapping[str, Array], ...] = tuple(runner(graph, self._feeds, self.outputs))
        self.evaluations = 0

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self._feeds)

    def __call__(self, model: ir.Model, count: int | None = None) -> Score:
        """The score of ``model`` on the first ``count`` samples (all of them when ``None``)."""
        self.evaluations += 1
        feeds = self._feeds[:count]
        return score(self.want[:count], self._runner(model, feeds, self.outputs), self._metric, self._given)


class Trials:
    """States of ``graph`` in which some layers are quantized by one method.

    Args:
        graph: as for :class:`Judge`; its nodes have names of their own. It is not changed.
        settings: the method. Its ``layers`` are ignored.
        capability: what may be absorbed.
        calibration: samples to calibrate on; ``None`` where there are none.
        runner: runs a graph.
        judge: ``None`` where nothing can be judged.
        excepted: patterns of layers that are never quantized.
        quantize: the entry to the methods.
    """

    def __init__(
        self,
        graph: ir.Model,
        settings: Settings,
        capability: Capability,
        calibration: Calibration | None,
        runner: Runner,
        judge: Judge | None,
        excepted: Sequence[str] = (),
        quantize: Quantize | None = None,
    ):
        if quantize is None:
            from tilewright.passes.quantize.methods import quantize as every_method

            quantize = every_method
        self.graph, self.settings, self.capability = graph, settings, capability
        self._calibration, self._runner, self._judge, self._quantize = calibration, runner, judge, quantize
        self._states: OrderedDict[frozenset[str] | None, State] = OrderedDict()
        self._scores: dict[tuple[frozenset[str], int | None], Score] = {}
        every = self._made(None)
        self.rows = every[1]
        self.excepted = _matching(excepted, [row.name for row in self.rows])
        self.layers = frozenset(row.name for row in self.rows if not row.why) - self.excepted
        if not self.excepted:
            self._states[self.layers] = every

    @property
    def metric(self) -> str:
        """What a drop is a drop of, for a reader."""
        return self._judge.metric if self._judge is not None else ""

    def state(self, layers: frozenset[str]) -> State:
        """The graph with ``layers`` quantized, and a row for each layer."""
        if layers not in self._states:
            while len(self._states) >= KEPT:
                self._states.popitem(last=False)
            self._states[layers] = self._made(layers)
        self._states.move_to_end(layers)
        return self._states[layers]

    def score(self, layers: frozenset[str], few: bool = False) -> Score:
        """How good that is; on :data:`FEW` samples, or on all."""
        assert self._judge is not None
        count = FEW if few and self._judge.samples > FEW else None
        key = (layers, count)
        if key not in self._scores:
            self._scores[key] = self._judge(self.state(layers)[0] if layers else self.graph, count)
        return self._scores[key]

    def _made(self, layers: frozenset[str] | None) -> State:
        model = self.graph.clone()
        if layers is not None and not layers:
            return model, tuple(replace(row, got="f32", why="") for row in self.rows)
        settings = replace(self.settings, layers=layers)
        return model, tuple(self._quantize(model, settings, self.capability, self._calibration, self._runner))


def _matching(patterns: Sequence[str], names: Sequence[str]) -> frozenset[str]:
    """The names that patterns mean. Raises :class:`UsageError` for a pattern that means none."""
    found: set[str] = set()
    for pattern in patterns:
        here = {n for n in names if fnmatchcase(n, pattern)}
        if not here:
            told = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            fix = f"name layers that the report of `tilewright quantize` lists: {told}"
            raise UsageError("unknown-layer", where=f"--except {pattern}", cause="no layer has this name", fix=fix)
        found |= here
    return frozenset(found)
