"""``auto``: which layers are promoted to float, which stay there since integers are slower, and what is told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tilewright.calibration import calibration_of
from tilewright.errors import AccuracyError, UsageError
from tilewright.frontend.onnx import import_model
from tilewright.ops.program import Run
from tilewright.options import Options, Precision
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Capability, Layer, Settings
from tilewright.quantization import request, search
from tilewright.quantization.apply import Quantized, Quantizer
from tilewright.quantization.costs import lowered
from tilewright.quantization.records import Records, work_key
from tilewright.quantization.request import Given
from tilewright.quantization.scores import Score
from tilewright.quantization.trials import Trials
from tilewright.selection import resolve_targets

from .chains import chain, rows
from .graphs import evaluated

(TARGET,) = (target for _, target in resolve_targets(Options(targets=("cpu:x86-64-v3",)), build=False))
WIDE = (32, 128, 160, 192, 96)
TINY = (4, 4, 4)


def quantized(
    widths: tuple[int, ...],
    precision: Precision,
    *,
    spoiled: int | None = None,
    given: Given | None = None,
    height: int = 32,
    methods: tuple[str, ...] = ("int8",),
) -> Quantized:
    """A chain quantized for one CPU level; graphs are run by the reference evaluator, ``auto`` tries ``methods``."""
    graph = import_model(chain(widths, spoiled))
    run_pipeline(graph, canonicalization())
    data = calibration_of(rows(widths[0], count=4, height=height), graph)
    maker = Quantizer(graph, precision, data, evaluated, given or Given())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "CANDIDATES", methods)
        return maker.quantized(Capability.of(TARGET), [TARGET])


def told(found: Quantized) -> dict[str, tuple[str, str]]:
    return {row.name: (row.got, row.why) for row in found.rows}


def test_exactly_the_sensitive_layer_is_promoted() -> None:
    found = quantized(WIDE, Precision("auto", max_drop=0.002), spoiled=2)
    got = told(found)
    assert [name for name, (kind, _) in got.items() if kind == "f32"] == ["layer2"]
    assert got["layer2"][1].startswith("sensitive: cosine drop")
    assert found.score is not None
    assert found.score.drop <= 0.002
    assert found.seconds < found.float_seconds
    assert found.judged == "1 sample held out of 4"


def test_the_same_data_gives_the_same_mixture() -> None:
    one, other = (quantized(WIDE, Precision("auto", max_drop=0.002), spoiled=1) for _ in range(2))
    assert one.rows == other.rows
    assert one.score == other.score


def test_where_integers_are_slower_floats_stay() -> None:
    found = quantized(TINY, Precision("auto", max_drop=0.5), height=1)
    assert {kind for kind, _ in told(found).values()} == {"f32"}
    assert all(why.startswith("slower in ") for _, why in told(found).values())
    assert found.method == ""
    assert found.score is not None
    assert found.score.drop == 0


def test_a_record_goes_before_a_prediction() -> None:
    plain = quantized(WIDE, Precision("auto", max_drop=0.5))
    assert told(plain)["layer1"][0] != "f32"
    records = measured(plain, slow="layer1")
    found = quantized(WIDE, Precision("auto", max_drop=0.5), given=Given(records=records))
    assert told(found)["layer1"][0] == "f32"
    assert told(found)["layer1"][1] == "slower in int8: recorded 3.00×"
    assert told(found)["layer0"][0] != "f32"


def measured(plain: Quantized, slow: str) -> Records:
    """A record of every kernel: those of integers take a quarter of the time of floats, ``slow`` three times that."""
    graph = import_model(chain(WIDE))
    run_pipeline(graph, canonicalization())
    seconds: dict[Any, float] = {}
    for model, integers in ((graph, False), (plain.model, True)):
        for node in model.graph:
            if node.name.startswith("layer"):
                node.meta["tilewright.layers"] = (node.name,)
        for step in lowered(model, TARGET, 2)[1]:
            assert isinstance(step, Run)
            mine = slow in step.node.meta.get("tilewright.layers", ())
            sizes = tuple(32 for _ in step.kernel.facts)
            key = (TARGET.spelling, work_key(step.kernel), sizes, 1)
            seconds[key] = 1.0 if not integers else 3.0 if mine else 0.25
    return Records(seconds)


@pytest.mark.parametrize("precision", [Precision("auto", max_drop=-1.0), Precision("int8", max_drop=-1.0)])
def test_a_bound_that_nothing_keeps(precision: Precision) -> None:
    with pytest.raises(AccuracyError, match="even with every layer in float the drop is 0") as caught:
        quantized((16, 16, 16), precision)
    assert (caught.value.code, caught.value.exit_code) == ("bound-missed", 5)


def test_a_fixed_method_tells_the_best_that_could() -> None:
    with pytest.raises(AccuracyError, match=r"with 1 of 4 layers in float it is 0\.000") as caught:
        quantized(WIDE, Precision("int8", max_drop=0.002), spoiled=2)
    assert caught.value.fix.endswith("--except layer2")
    found = quantized(WIDE, Precision("int8", max_drop=0.002, excepted=("layer2",)), spoiled=2)
    assert told(found)["layer2"] == ("f32", "excepted")
    assert found.method == "int8"


@pytest.mark.parametrize(
    ("precision", "code"),
    [
        (Precision("int9"), "unknown-precision"),
        (Precision("int8", method="gptq"), "unknown-method"),
        (Precision("auto"), "auto-needs"),
        (Precision("auto", method="int8", max_drop=0.1), "unknown-method"),
        (Precision("int8", settings=(("colour", 1),)), "quantize-setting"),
        (Precision("int8", settings=(("calibrator", "guess"),)), "quantize-setting"),
        (Precision("int8", settings=(("percentile", 1.0),)), "quantize-setting"),
        (Precision("int4", settings=(("group", 7),)), "quantize-setting"),
        (Precision("int8", metric="bleu"), "quantize-setting"),
        (Precision("int8", max_drop=math.nan), "quantize-setting"),
        (Precision("int8", excepted=("nobody*",)), "unknown-layer"),
        (Precision("fp32", method="int8"), "unknown-method"),
    ],
)
def test_requests_that_make_no_sense(precision: Precision, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantized((8, 8), precision)
    assert caught.value.code == code


@pytest.mark.parametrize("asked", ["int8", "int4", "auto"])
def test_what_needs_samples_says_so(asked: str) -> None:
    graph = import_model(chain((8, 8)))
    bound = 0.1 if asked == "auto" else None
    with pytest.raises(UsageError, match="calibration data") as caught:
        Quantizer(graph, Precision(asked, max_drop=bound), None, evaluated)
    assert caught.value.code == ("auto-needs" if asked == "auto" else "calibration-missing")


def test_a_metric_of_ones_own() -> None:
    def positive(outputs: Any) -> float:
        return float(np.mean([o["y"] > 0 for o in outputs]))

    found = quantized(WIDE, Precision("int8", max_drop=0.2, metric="given"), given=Given(metric=positive))
    assert found.score is not None
    assert abs(found.score.drop) < 0.2
    with pytest.raises(UsageError) as caught:
        quantized(TINY, Precision("int8", metric="given"), given=Given(metric=lambda outputs: math.nan))
    assert caught.value.code == "metric-unusable"


def test_top1() -> None:
    every = request.CANDIDATES
    found = quantized(WIDE, Precision("auto", max_drop=0.0, metric="top1"), spoiled=2, methods=every)
    assert found.method in every
    assert found.score is not None
    assert (found.score.drop, found.score.top1) == (0.0, 1.0)


@dataclass
class Noise:
    """Trials whose layers each add a noise of their own: the search without graphs."""

    noise: dict[str, float]
    seen: set[frozenset[str]] = field(default_factory=set)
    settings: Settings = field(default_factory=lambda: Settings("int8"))
    metric: str = "cosine"

    @property
    def rows(self) -> tuple[Layer, ...]:
        return tuple(Layer(name, "MatMul", "int8", "int8 × int8") for name in self.noise)

    def score(self, layers: frozenset[str], few: bool = False) -> Score:
        if not few:
            self.seen.add(layers)
        drop = sum(self.noise[name] for name in layers)
        return Score(drop, 1 - drop, -10 * math.log10(drop or 1e-12), None, 1)


@pytest.mark.parametrize("count", [1, 2, 5, 24, 100])
@pytest.mark.parametrize("bad", [0, 1, 3, 1000])
def test_as_few_as_the_bound_needs(count: int, bad: int) -> None:
    loud = {i * 7919 % count for i in range(min(bad, count))}
    trials = Noise({f"l{i}": 0.1 if i in loud else 1e-6 for i in range(count)})
    found = search.promoted(cast_trials(trials), frozenset(trials.noise), 0.01)
    assert trials.noise.keys() - found.layers == {f"l{i}" for i in loud}
    assert found.score.drop <= 0.01
    assert len(trials.seen) <= 2 * math.log2(count + 1) + search.RETRIES + 4


def cast_trials(noise: Noise) -> Trials:
    """What the search asks of trials."""
    return noise  # type: ignore[return-value]
