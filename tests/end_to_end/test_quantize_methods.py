"""The methods on whole models: valid ONNX, the same numbers by ONNX Runtime and by us, and what they do to a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Settings
from tilewright.passes.quantize.correct_bias import CorrectBias, measure_shifts
from tilewright.passes.quantize.methods import quantize
from tilewright.passes.quantize.quantize_dynamic import row_round_trip
from tilewright.passes.quantize.smooth_quant import SmoothQuant, smoothed
from tilewright.passes.quantize.smoothing import choose_factors, watch
from tilewright.runner import GraphRunner
from tilewright.selection import resolve_targets

from models.zoo import small

Array = NDArray[Any]
Feed = dict[str, Array]
RUNNER = GraphRunner()


def common() -> Capability:
    return Capability.common([target for _, target in resolve_targets(Options())])


def calibration(feeds: Sequence[Feed]) -> Calibration:
    return Calibration(tuple(feeds), "made up for a test", "")


class Case:
    """A canonical model of the zoo, data to calibrate on and other data to judge by."""

    def __init__(self, name: str, folder: Path):
        zoo = small()[name]
        self.model = import_model(zoo.build(folder))
        run_pipeline(self.model, canonicalization())
        length = zoo.checks[0][1]
        self.calibration = calibration([zoo.feed(2, length, seed) for seed in range(4)])
        self.feed = zoo.feed(2, length, 99)


_cases: dict[str, Case] = {}


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name = request.param
    if name not in _cases:
        _cases[name] = Case(name, tmp_path_factory.mktemp(name))
    return _cases[name]


def by_onnxruntime(model: ir.Model, feed: Feed) -> dict[str, Array]:
    """Every operator as it stands: fused kernels of u8 × i8 saturate on machines with AVX2 alone."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(model).SerializeToString()
    session = runtime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def energy(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())


METHODS = [
    ("resnet50", Settings("int8")),
    ("bert-base", Settings("smoothquant")),
    ("bert-base", Settings("int8-dynamic")),
    pytest.param("mobilenetv2", Settings("int8", calibrator="percentile", symmetric=True), marks=pytest.mark.slow),
    pytest.param("vit-b16", Settings("int8", calibrator="entropy"), marks=pytest.mark.slow),
    pytest.param("gpt2", Settings("smoothquant", smoothing=0.5), marks=pytest.mark.slow),
    pytest.param("llama-prefill", Settings("smoothquant"), marks=pytest.mark.slow),
    pytest.param("llama-prefill", Settings("int8-dynamic"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("case", "settings"), METHODS, indirect=["case"])
def test_models(case: Case, settings: Settings) -> None:
    """The checker takes it, every layer is told of, and the two engines differ by far less than quantization loses.

    They sum in another order, so a number that is half way between two integers may be rounded to another one: a
    hundredth of the energy of the quantization's own error is left to that.
    """
    model = case.model.clone()
    layers = quantize(model, settings, common(), case.calibration, RUNNER)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    names = {n.name: n.op_type for n in case.model.graph}
    assert all(names[layer.name] == layer.op_type and layer.asked == "int8" for layer in layers)
    assert all((layer.got == "int8 × int8") != bool(layer.why) for layer in layers)
    assert sum(n.op_type == "DequantizeLinear" for n in model.graph) >= 2 * sum(not layer.why for layer in layers) > 0
    want, got = by_onnxruntime(case.model, case.feed), by_onnxruntime(model, case.feed)
    outputs = [str(v.name) for v in model.graph.outputs]
    (ours,) = RUNNER(model, [case.feed], outputs)
    for name in outputs:
        lost = energy(got[name] - want[name])
        assert 0 < lost < 0.02 * energy(want[name]), f"{name}: more than 17 dB below the signal are lost"
        assert energy(ours[name] - got[name]) <= 0.01 * lost, name


@pytest.mark.parametrize("case", ["bert-base"], indirect=True)
def test_dynamic_needs_no_data_and_reads_each_tensor_once(case: Case) -> None:
    model = case.model.clone()
    quantize(model, Settings("int8-dynamic"), common())
    quantized = [n for n in model.graph if n.op_type == "QuantizeLinear"]
    assert len({n.inputs[0] for n in quantized}) == len(quantized) == 9
    row = quantized[0]
    assert row.attributes["block_size"].as_int() == 64 and row.attributes["axis"].as_int() == -1
    scale = row.inputs[1]
    chain = []
    while scale is not None and scale is not row.inputs[0]:
        node = scale.producer()
        assert node is not None
        chain.append(node.op_type)
        scale = node.inputs[0]
    assert chain == ["Div", "Max", "ReduceMax", "Abs"]


@pytest.mark.parametrize("case", ["bert-base"], indirect=True)
def test_rows_of_zeros_and_of_tiny_numbers(case: Case) -> None:
    """A row of zeros stays one; the smallest numbers make no infinity."""
    rows = np.zeros((3, 8), np.float32)
    rows[1] = 1e-40
    rows[2, 3] = -5
    assert np.array_equal(row_round_trip(rows)[[0, 2]], rows[[0, 2]]) and np.isfinite(row_round_trip(rows)).all()


@pytest.mark.parametrize("exponent", [0.5, None])
@pytest.mark.parametrize("case", ["bert-base", pytest.param("llama-prefill", marks=pytest.mark.slow)], indirect=True)
def test_smoothing_keeps_the_numbers(case: Case, exponent: float | None) -> None:
    """Every output before anything is rounded to integers: products and quotients by factors, a few roundings of f32.

    Behind a norm that nobody else reads (llama's) no Mul is added; the others of BERT need one.
    """
    model, capability = case.model.clone(), common()
    readers = smoothed(model, capability, None)
    channels = watch(model, [str(v.name) for v in readers], case.calibration, RUNNER)
    factors = choose_factors(readers, channels, exponent, row_round_trip)
    assert SmoothQuant(capability, factors).run(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    want, got = by_onnxruntime(case.model, case.feed), by_onnxruntime(model, case.feed)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=2e-5 * np.abs(array).max(), err_msg=name)
    if exponent is not None:
        muls = [sum(n.op_type == "Mul" for n in m.graph) for m in (case.model, model)]
        # Layer 1's last norm feeds the pooler only through a Gather; a norm that the residual reads as well has a Mul.
        assert muls[1] - muls[0] == (9 if "last_hidden_state" in want else 2)


@pytest.mark.parametrize("case", ["resnet50", "bert-base"], indirect=True)
def test_corrected_biases_take_the_mean_error_away(case: Case) -> None:
    """Of weights alone, measured again after the correction with the biases included."""
    before, after = case.model.clone(), case.model.clone()
    settings = Settings("int8", bias_correction=False)
    layers = [layer.name for layer in quantize(after, settings, common(), case.calibration, RUNNER) if not layer.why]
    shifts = measure_shifts(before, after, layers, case.calibration, RUNNER)
    assert set(shifts) == set(layers) and all(np.abs(s).max() > 0 for s in shifts.values())
    CorrectBias(shifts).run(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    nodes = {str(n.name): n for n in after.graph}
    for node in before.graph:  # the corrected biases under the weights as they are quantized: what is left of the mean
        if node.name in shifts and node.op_type == "Conv":
            corrected = nodes[node.name].inputs[2]
            assert corrected is not None and corrected.producer() is not None
    again = measure_shifts(before, after, layers, case.calibration, RUNNER)
    for layer in layers:
        if nodes[layer].op_type == "Conv":  # its bias is a part of it, rounded to a step of the accumulator
            scale = nodes[layer].inputs[2].producer().inputs[1].const_value.numpy()
            assert np.abs(again[layer]).max() <= scale.max() + 1e-6
        else:
            bias = [v for u in nodes[layer].outputs[0].uses() for v in u.node.inputs if v.const_value is not None]
            assert any(str(v.name).endswith(("_corrected", "_bias")) for v in bias)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["bert-base"], indirect=True)
@pytest.mark.parametrize("method", ["int8", "smoothquant"])
def test_no_samples(case: Case, method: Any) -> None:
    for data in (None, calibration([])):
        with pytest.raises(UsageError, match=r"\[calibration-missing\]"):
            quantize(case.model.clone(), Settings(method), common(), data, RUNNER)


@pytest.mark.parametrize("case", ["resnet50"], indirect=True)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite(case: Case, bad: float) -> None:
    feed = {"image": np.full_like(case.feed["image"], bad)}
    with pytest.raises(UsageError, match=r"value 'image', calibration sample 1: .*\[calibration-not-finite\]"):
        quantize(case.model.clone(), Settings("int8"), common(), calibration([case.feed, feed]), RUNNER)


@pytest.mark.parametrize("case", ["resnet50"], indirect=True)
def test_samples_of_zeros(case: Case) -> None:
    """Ranges of zero are encoded exactly: the model gives finite numbers, the right ones for zeros."""
    zeros = {"image": np.zeros_like(case.feed["image"])}
    model = case.model.clone()
    quantize(model, Settings("int8", bias_correction=False), common(), calibration([zeros]), RUNNER)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (found,) = by_onnxruntime(model, zeros).values()
    (want,) = by_onnxruntime(case.model, zeros).values()
    assert energy(found - want) < 0.01 * energy(want)


@pytest.mark.parametrize("case", ["bert-base"], indirect=True)
def test_names(case: Case) -> None:
    with pytest.raises(UsageError, match=r"\[unknown-layer\]"):
        quantize(case.model.clone(), Settings("int8-dynamic", layers=frozenset(["nowhere"])), common())
    with pytest.raises(UsageError, match=r"\[unknown-method\]"):
        quantize(case.model.clone(), Settings("int3"), common())  # type: ignore[arg-type]
    chosen = "layer0/wide/product/MatMul"
    model = case.model.clone()
    layers = quantize(model, Settings("int8-dynamic", layers=frozenset([chosen])), common())
    assert [layer.name for layer in layers if layer.got == "int8 × int8"] == [chosen]
