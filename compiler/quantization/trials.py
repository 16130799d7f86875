"""Quantized states of one graph: made for a set of layers, run on samples, judged, and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.ir.skeleton import skeleton_bytes
from tilewright.passes.quantize.base import Calibration, Capability, Feed, Layer, Runner, Settings
from tilewright.quantization.request import Metric
from tilewright.quantization.scores import Score, score

Array = NDArray[Any]
State = tuple[ir.Model, tuple[Layer, ...]]
#: The entry to all methods, :func:`tilewright.passes.quantize.methods.quantize`.
Quantize = Callable[..., list[Layer]]

#: Quantized states that are kept; each has its own weights.
KEPT = 2
#: Settings that change numbers and no kernel, at their cheapest.
_CHEAP: dict[str, Any] = {"calibrator": "minmax", "algorithm": "rtn"}
#: Types that a layer has which is not quantized.
_FLOATS = frozenset(["f64", "f32", "f16", "bf16"])
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


class SharedReads:
    """A runner that reads the values which trials ask of the float graph all at once: one compilation for all of them.

    Args:
        graph: whose values they are; other graphs go to ``runner`` as they come.
        runner: runs a graph.
    """

    def __init__(self, graph: ir.Model, runner: Runner):
        self._key, self._runner = _identity(graph), runner
        self._values: dict[str, None] = {}

    def __call__(self, model: ir.Model, feeds: Sequence[Feed], values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """As :class:`tilewright.passes.quantize.base.Runner`."""
        if not values or _identity(model) != self._key:
            return self._runner(model, feeds, values)
        self._values |= dict.fromkeys(values)
        return self._chosen(model, feeds, tuple(values))

    def _chosen(self, model: ir.Model, feeds: Sequence[Feed], values: tuple[str, ...]) -> Iterator[dict[str, Array]]:
        for found in self._runner(model, feeds, tuple(self._values)):
            yield {name: found[name] for name in values}


def _identity(model: ir.Model) -> tuple[bytes, tuple[int, ...]]:
    return skeleton_bytes(model), tuple(id(v.const_value) for v in model.graph.initializers.values())


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
        self._calibration, self._judge, self._quantize = calibration, judge, quantize
        self._runner = SharedReads(graph, runner)
        self._states: OrderedDict[frozenset[str] | None, State] = OrderedDict()
        self._scores: dict[tuple[frozenset[str], int | None], Score] = {}
        self._every: frozenset[str] = frozenset()
        self.rows = self.sketch(None)[1]
        self.excepted = _matching(excepted, [row.name for row in self.rows])
        self._every = frozenset(row.name for row in self.rows if is_quantized(row, settings))
        self.layers = self._every - self.excepted

    @property
    def metric(self) -> str:
        """What a drop is a drop of, for a reader."""
        return self._judge.metric if self._judge is not None else ""

    def state(self, layers: frozenset[str]) -> State:
        """The graph with ``layers`` quantized, and a row for each layer."""
        if layers not in self._states:
            while len(self._states) >= KEPT:
                self._states.popitem(last=False)
            self._states[layers] = self._made(layers, self.settings, self._calibration)
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

    def sketch(self, layers: frozenset[str] | None) -> State:
        """The same kernels as :meth:`state` has, with numbers from the first sample and the cheapest rules."""
        c = self._calibration
        first = None if c is None else Calibration(c.feeds[:1], c.source, c.sha256, c.random)
        return self._made(layers, replace(self.settings, **_CHEAP), first)

    def _made(self, layers: frozenset[str] | None, settings: Settings, calibration: Calibration | None) -> State:
        model = self.graph.clone()
        if layers is not None and not layers:
            return model, tuple(replace(row, got="f32", why="") for row in self.rows)
        # All that can be: no choice, so that what lies between the layers goes along where the target computes so.
        settings = replace(settings, layers=None if layers == self._every else layers)
        return model, tuple(self._quantize(model, settings, self.capability, calibration, self._runner))


def is_quantized(row: Layer, settings: Settings) -> bool:
    """Whether a layer got something else than the float type that it had."""
    first = row.got.split(" ", 1)[0]
    return bool(first) and (first not in _FLOATS or first == {"fp16": "f16"}.get(settings.method, settings.method))


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
