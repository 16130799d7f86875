"""Measuring: pairing, percentiles, arithmetic of the roof, and the count of a model's work."""

import json
import time
from pathlib import Path

import pytest
from tilewright import driver, feeds, runtime
from tilewright.backends.cpu.machine import runnable
from tilewright.benchmark.interleave import FEWEST_ROUNDS, Interleaved, interleave, percentiles
from tilewright.benchmark.measure import bench
from tilewright.benchmark.records import describe, sizes_of
from tilewright.benchmark.records import measure as measure_kernels
from tilewright.benchmark.roofline import Roofline
from tilewright.benchmark.scenarios import MULTI_STREAM_SAMPLES, multi_stream, offline, server, single_stream
from tilewright.benchmark.work import count_work
from tilewright.errors import UsageError
from tilewright.options import Options

from models import minilm


def test_ratios_are_paired_by_round() -> None:
    """Noise that meets both engines of a round leaves their ratio alone."""
    measured = Interleaved({}, {"a": (1.0, 10.0, 2.0), "b": (2.0, 20.0, 4.0)})
    ratio = measured.ratio("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 0.5)


def test_every_engine_runs_in_every_round() -> None:
    order: list[str] = []
    engines = {name: lambda name=name: (order.append(name), time.sleep(0.06)) for name in "ab"}
    measured = interleave(engines, 0.0)
    assert {name: len(turns) for name, turns in measured.turns.items()} == {"a": FEWEST_ROUNDS, "b": FEWEST_ROUNDS}
    warm = 2 * 5  # two warm and three timed runs each decide the number of runs a turn
    turns = [order[warm + i] for i in range(0, len(order) - warm, 2)]
    assert turns[:4] == ["a", "b", "b", "a"], "the first of a round changes"


def test_percentiles() -> None:
    found = percentiles([i / 100 for i in range(101)])
    assert found["p50"] == pytest.approx(0.5)
    assert found["p90"] == pytest.approx(0.9)
    assert found["p99"] == pytest.approx(0.99)


def test_the_lower_roof_counts() -> None:
    roof = Roofline(1, operations=100.0, bandwidth=10.0)
    assert roof.seconds(100.0, 1.0) == 1.0
    assert roof.seconds(100.0, 20.0) == 2.0
    assert roof.best(Roofline(1, 50.0, 20.0)) == Roofline(1, 100.0, 20.0)
    assert roof.seconds(0.0, 1.0, integers=100.0) == 1.0  # not measured: as others
    assert Roofline(1, 100.0, 10.0, integers=400.0).seconds(50.0, 1.0, integers=200.0) == 1.0


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder compiled for every batch and length."""
    folder = tmp_path_factory.mktemp("encoder")
    options = Options(targets=(runnable()[-1].spelling,))
    driver.compile(minilm.build_small(folder), options=options).save(folder / "small.tw")
    return folder / "small.tw"


def shapes_at(batch: int, length: int) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (batch, length))


@pytest.mark.parametrize(("batch", "length"), [(1, 8), (3, 17), (2, 64)])
def test_work_of_an_encoder_by_hand(encoder: Path, batch: int, length: int) -> None:
    c = minilm.SMALL
    h, i = c.hidden_size, c.intermediate_size
    dense = 2 * batch * length * c.num_hidden_layers * (4 * h * h + 2 * h * i)
    attention = 2 * 2 * batch * length * length * h * c.num_hidden_layers
    work = count_work(encoder, shapes_at(batch, length))
    # beside the products: biases, residual sums, gelu, normalization and softmax, a few operations an element each
    elements = batch * length * c.num_hidden_layers * (10 * h + 8 * h + 12 * i) + attention / h * 10
    assert dense + attention < work.operations < dense + attention + 2 * elements
    products = 4 * c.num_hidden_layers * (4 * h * h + 2 * h * i)
    assert products < work.weight_bytes < 1.3 * products + 4 * h * (batch + 1) * length


def test_a_record_without_running(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", None)  # nothing can be loaded
    few, many = (describe(encoder, sizes_of(encoder, shapes_at(1, s))) for s in (8, 128))
    assert few.launches == many.launches == sum(k.launches for k in many.kernels)
    assert few.flops < many.flops
    assert few.arena < many.arena
    assert (many.conversions, many.scheduled) == (0, 1.0)
    assert {"contraction", "scan", "rows"} <= {k.kind for k in many.kernels}
    assert all(k.predicted > 0 and k.measured is None and k.share is None for k in many.kernels)
    json.dumps(many.as_dict())


def test_a_measured_record(encoder: Path) -> None:
    (feed,) = feeds.samples(encoder, shapes_at(2, 16), count=1)
    record = describe(encoder, sizes_of(encoder, shapes_at(2, 16)))
    machine = Roofline(1, operations=1e9, bandwidth=1e9, near=((1 << 20, 2e9),))
    found = measure_kernels(record, encoder, feed, machine)
    assert found.arena == runtime.load(encoder, threads=1).memory(feed).arena
    assert all(k.measured is not None and k.measured >= 0 for k in found.kernels)
    for k in found.kernels:
        assert k.limit == pytest.approx(max((k.flops + k.calls) / 1e9, k.bytes / 2e9), rel=1e-6)


def test_an_artifact_without_the_work_of_its_kernels() -> None:
    golden = Path(__file__).parent / "runtime" / "golden" / "format-1.tw"
    with pytest.raises(UsageError, match="work-unknown"):
        describe(golden, {})


def run() -> None:
    time.sleep(0.002)


def test_scenarios_count_what_they_run() -> None:
    single = single_stream(run, 0.1)
    assert single.latency["p50"] >= 0.002
    assert single.samples_per_second <= 500
    many = multi_stream(run, 0.1, 4)
    assert many.samples_per_second > many.queries  # 8 samples a query
    assert many.latency["p50"] >= MULTI_STREAM_SAMPLES / 4 * 0.002
    loaded = server(run, 0.2, 2, rate=100.0)
    assert (loaded.queries, loaded.offered) == (20, 100.0)
    calls: list[None] = []
    whole = offline(lambda: calls.append(run()), 0.3, 2)
    assert whole.queries == len(calls) - 1 > 0  # the first one only warms up
    assert 0 < whole.samples_per_second <= 2 * 500


def test_waiting_counts_in_the_server_scenario() -> None:
    """More queries than can be served: latency grows with the queue, it is not the time of a run."""
    loaded = server(run, 0.3, 1, rate=2000.0)
    assert loaded.latency["p99"] > 10 * 0.002


@pytest.mark.parametrize(
    "arguments",
    [
        {"scenario": "double-stream"},
        {"against": {"frob": "m.onnx"}},
        {"scenario": "offline", "roofline": True},
        {"scenario": "server"},
        {"rate": 3.0},
        {"scenario": "offline", "against": {"onnxruntime": "m.onnx"}},
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict) -> None:
    with pytest.raises(UsageError, match="bench-arguments"):
        bench("none.tw", {}, **arguments)
