"""``auto``: the fastest mixture of quantized and float layers that stays within a bound.

For each method that the target absorbs, layers that it makes no faster stay float (:mod:`.costs`). The others are
ordered by what quantizing each alone does to the outputs, on a few samples (:func:`ranked`). As few of the most
sensitive as the bound needs are promoted to float (bisection over that order, judged on all samples); then promoted
ones are tried again, the least sensitive first. Methods are tried in the order of their predicted times, and one is
left out where even all of it is predicted no faster than the best mixture so far. The same data and records give the
same result.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tilewright.passes.quantize.base import Layer, Settings
from tilewright.quantization.costs import Costs, Place, affordable, costs_of
from tilewright.quantization.scores import Score
from tilewright.quantization.trials import Trials, is_quantized

#: Rounds in which layers that became slower beside float ones are taken out.
ROUNDS = 6
#: Layers of which each is tried alone.
SINGLES = 24
#: Promoted layers that are tried again at most.
RETRIES = 8

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Layers that are quantized by one method, and what that comes to.

    Attributes:
        settings: the method.
        layers: those that are quantized.
        score: on the samples that judge.
        reasons: why each of the other layers is not, by name.
        seconds: predicted for the whole graph, ``float_seconds`` with nothing quantized.
    """

    settings: Settings
    layers: frozenset[str]
    score: Score
    reasons: Mapping[str, str]
    seconds: float = math.nan
    float_seconds: float = math.nan


@dataclass(slots=True)
class Speed:
    """Which layers a method makes faster on every one of some targets; the costs of states are computed once.

    Attributes:
        trials: states of the method.
        places: the targets.
        plain: what the float graph costs on each.
    """

    trials: Trials
    places: tuple[Place, ...]
    plain: tuple[Costs, ...]
    _known: dict[tuple[frozenset[str], int], Costs | None] = field(default_factory=dict)

    def faster(self, layers: frozenset[str]) -> tuple[frozenset[str], dict[str, str], float]:
        """The layers of ``layers`` that are faster quantized, why the others are not, and the predicted total."""
        reasons: dict[str, str] = {}
        kept, before = layers, None
        while kept and kept != before:
            before = kept
            for at in range(len(self.places)):
                slow = self._filtered(kept, at)
                reasons |= slow
                kept -= frozenset(slow)
        return kept, reasons, sum(c.total for at in range(len(self.places)) if (c := self._of(kept, at)) is not None)

    def _filtered(self, layers: frozenset[str], at: int) -> dict[str, str]:
        """The layers that are not faster on one target, each with the reason."""
        reasons: dict[str, str] = {}
        kept = layers
        for _ in range(ROUNDS):
            costs = self._of(kept, at)
            if costs is None:
                return reasons | dict.fromkeys(sorted(kept), f"{self._named(at)} has no kernel for it")
            slow = {n: told for n in sorted(kept) if (told := self._slower(n, costs, at))}
            reasons |= slow
            kept -= frozenset(slow)
            if not slow or not kept:
                break
        costs = self._of(kept, at)
        if kept and costs is not None and self._gain(costs, kept, at) <= 0:
            ratio = costs.total / self.plain[at].total if self.plain[at].total else 1.0
            told = f"slower in {kind_of(self.trials.settings)}{self._on(at)}: predicted {ratio:.2f}× of float in all"
            reasons |= dict.fromkeys(sorted(kept), told)
        return reasons

    def _of(self, layers: frozenset[str], at: int) -> Costs | None:
        """What the graph costs with ``layers`` quantized; ``None`` where a kernel is missing."""
        if not layers:
            return self.plain[at]
        key = (layers, at)
        if key not in self._known:
            model = self.trials.sketch(layers)[0]
            self._known[key] = affordable(model, self.trials.layers, self.places[at])
        return self._known[key]

    def _slower(self, name: str, costs: Costs, at: int) -> str:
        """How much slower a layer is than in float; empty where it is faster."""
        plain = self.plain[at]
        recorded = name in costs.recorded and name in plain.recorded
        ours = (costs.recorded if recorded else costs.predicted)[name]
        theirs = (plain.recorded if recorded else plain.predicted)[name]
        if ours < theirs:
            return ""
        ratio = f"{ours / theirs:.2f}×" if theirs else "as long"
        how = "recorded" if recorded else "predicted"
        return f"slower in {kind_of(self.trials.settings)}{self._on(at)}: {how} {ratio}"

    def _gain(self, costs: Costs, kept: frozenset[str], at: int) -> float:
        """Seconds that the whole graph saves, measured layers as they were measured and the rest as predicted."""
        plain = self.plain[at]
        gain = plain.total - costs.total
        for name in kept:
            if name in costs.recorded and name in plain.recorded:
                gain += plain.recorded[name] - costs.recorded[name]
                gain -= plain.predicted[name] - costs.predicted[name]
        return gain

    def _named(self, at: int) -> str:
        return self.places[at].target.spelling

    def _on(self, at: int) -> str:
        return f" on {self._named(at)}" if len(self.places) > 1 else ""


def kind_of(settings: Settings) -> str:
    """What a method makes of a layer, for a reader."""
    return {"smoothquant": "int8", "int8-dynamic": "dynamic int8", "int8-weights": "int8 weights"}.get(
        settings.method, settings.method
    )


def within(score: Score, bound: float | None) -> bool:
    """Whether a score keeps to a bound; everything does where there is none."""
    return bound is None or score.drop <= bound


def search_methods(every: Sequence[Trials], places: Sequence[Place], bound: float, say: Say) -> tuple[Mixture, Trials]:
    """The fastest mixture by any of some methods, and the method's trials; see the module. ``every`` is not empty.

    The result may miss the bound: then nothing but float is left, and even that misses it.
    """
    first = every[0]
    floated = first.score(frozenset())
    if not within(floated, bound):
        return Mixture(first.settings, frozenset(), floated, {}), first
    names = frozenset(row.name for row in first.rows)
    plain = tuple(costs_of(first.graph.clone(), names, place) for place in places)
    total = sum(c.total for c in plain)
    best, chosen = Mixture(first.settings, frozenset(), floated, {}, total, total), first
    speeds = [Speed(trials, tuple(places), plain) for trials in every]
    reasons: dict[str, str] = {}
    tried = [(speed, *speed.faster(speed.trials.layers)) for speed in speeds]
    for speed, layers, slow, seconds in sorted(tried, key=lambda t: t[3]):
        if not layers or seconds >= best.seconds:
            _keep(reasons, slow)
            continue
        trials = speed.trials
        say(f"{trials.settings.method}: {len(layers)} of {len(trials.rows)} layers are faster, accuracy is searched")
        found = promoted(trials, layers, bound, speed)
        _keep(reasons, slow | dict(found.reasons))
        if found.layers and within(found.score, bound) and found.seconds < best.seconds:
            best = replace(found, reasons=slow | dict(found.reasons), float_seconds=total)
            chosen = trials
    return (best, chosen) if best.layers else (replace(best, reasons=reasons), chosen)


def _keep(reasons: dict[str, str], more: Mapping[str, str]) -> None:
    """Add reasons of layers that have none yet: of the method that came nearest."""
    for name, told in more.items():
        reasons.setdefault(name, told)


def promoted(trials: Trials, layers: frozenset[str], bound: float, speed: Speed | None = None) -> Mixture:
    """``layers`` without the fewest that keep to the bound, the most sensitive ones first."""
    reasons: dict[str, str] = {}
    out: list[str] = []
    if not within(trials.score(layers), bound):
        order, told = _fewest(trials, layers, bound)
        out = _demoted(trials, layers, order, bound)
        reasons = {name: _sensitive(told[name], trials) for name in out}
    kept = layers - frozenset(out)
    seconds = math.nan
    if speed is not None:
        kept, slow, seconds = speed.faster(kept)  # beside float layers some no longer pay
        reasons |= slow
    return Mixture(trials.settings, kept, trials.score(kept), reasons, seconds)


def ranked(trials: Trials, layers: frozenset[str]) -> Iterator[tuple[str, float]]:
    """Layers with the drop that quantizing each alone makes on a few samples, the most sensitive first.

    Of up to :data:`SINGLES` layers each is tried. Of more, groups of neighbours are, and the worst group is halved
    until one layer is left: the order is then that of sums of noise, and layers that do little are never tried alone.
    """
    order = [row.name for row in trials.rows if row.name in layers]
    size = 1 if len(order) <= SINGLES else max(1, round(math.sqrt(len(order))))
    groups = [tuple(order[i : i + size]) for i in range(0, len(order), size)]
    heap = [_weighed(trials, group) for group in groups]
    heapq.heapify(heap)
    while heap:
        drop, _, group = heapq.heappop(heap)
        if len(group) == 1:
            yield group[0], -drop
            continue
        for half in (group[: len(group) // 2], group[len(group) // 2 :]):
            heapq.heappush(heap, _weighed(trials, half))


def _weighed(trials: Trials, group: tuple[str, ...]) -> tuple[float, float, tuple[str, ...]]:
    found = trials.score(frozenset(group), few=True)
    return -found.drop, found.snr, group


def _fewest(trials: Trials, layers: frozenset[str], bound: float) -> tuple[list[str], dict[str, float]]:
    """The most sensitive layers that have to be float, as few as that needs, and the drop of each alone.

    One, two, four … are tried, then what lies between by bisection, as if each further one could only help.
    """
    source = ranked(trials, layers)
    told: dict[str, float] = {}
    order: list[str] = []

    def kept(count: int) -> bool:
        while len(order) < count:
            name, drop = next(source)
            order.append(name)
            told[name] = drop
        return within(trials.score(layers - frozenset(order[:count])), bound)

    low = high = 1
    while high < len(layers) and not kept(high):
        low, high = high + 1, min(2 * high, len(layers))
    while low < high:
        middle = (low + high) // 2
        if kept(middle):
            high = middle
        else:
            low = middle + 1
    kept(high)
    return order[:high], told


def _demoted(trials: Trials, layers: frozenset[str], out: Sequence[str], bound: float) -> list[str]:
    """``out`` without those that can be quantized after all; the least sensitive is tried first."""
    left = list(out)
    for name in list(reversed(out))[1 : 1 + RETRIES]:  # the last one was needed: bisection stopped there
        trial = [n for n in left if n != name]
        if within(trials.score(layers - frozenset(trial)), bound):
            left = trial
    return left


def _sensitive(drop: float, trials: Trials) -> str:
    kind = kind_of(trials.settings)
    return f"sensitive: {trials.metric} drop {drop:.2g} when it alone is in {kind}"


def rows_of(mixture: Mixture, trials: Trials, asked: str) -> tuple[Layer, ...]:
    """A row for each layer: what was asked, what it got, why."""
    made = {row.name: row for row in trials.state(mixture.layers)[1]} if mixture.layers else {}
    rows = []
    for row in trials.rows:
        got = made.get(row.name)
        if row.name in mixture.layers and got is not None:
            rows.append(replace(got, asked=asked))
            continue
        why = "excepted" if row.name in trials.excepted else mixture.reasons.get(row.name, row.why)
        plain = "f32" if is_quantized(row, trials.settings) else row.got
        rows.append(Layer(row.name, row.op_type, asked, plain, why))
    return tuple(rows)
