"""What makes an artifact go wrong is found: a pass, a lowering, emitted code, quantization, or another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tilewright as tw
from click.testing import CliRunner
from tilewright import driver
from tilewright.backends.base import Source
from tilewright.backends.cpu.backend import CpuBackend
from tilewright.cli.main import main
from tilewright.diagnosis.bisection import Bisection, Fault
from tilewright.errors import AccuracyError, TilewrightError, UsageError
from tilewright.ir.evaluate import evaluate
from tilewright.ops import lower
from tilewright.passes.base import Pass, PassResult

from tests.diagnosis.networks import FLOAT, W1, W2, W3, model, quantized

Patch = pytest.MonkeyPatch
NET = model(
    """net (float[N,16] x) => (float[N,16] y) {
      a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Add(c, b) e = Softmax(d) f = Tanh(e) y = MatMul(f, w3)
    }""",
    w1=W1, w2=W2, w3=W3,
)  # fmt: skip


class BreakNumbers(Pass):
    """Make the first addition a subtraction."""

    name: ClassVar[str] = "break-numbers"

    def run(self, model: ir.Model) -> PassResult:
        node = next((n for n in model.graph if n.op_type == "Add"), None)
        if node is not None:
            node.op_type = "Sub"
        return PassResult(node is not None)


class BreakPairs(Pass):
    """Wrong only where a Relu feeds a product: no operator by itself shows it."""

    name: ClassVar[str] = "break-pairs"

    def run(self, model: ir.Model) -> PassResult:
        for node in model.graph:
            source = node.inputs[0].producer() if node.op_type == "MatMul" and node.inputs[0] else None
            if source is not None and source.op_type == "Relu":
                node.replace_input_with(0, source.inputs[0])
                return PassResult(True)
        return PassResult(False)


def with_pass(patch: Patch, wrong: Pass, at: int = 12) -> None:
    """Put a pass into every pipeline of the driver."""
    real = driver.default_pipeline

    def pipeline(*arguments: Any) -> list[Pass]:
        passes = real(*arguments)
        return [*passes[:at], wrong, *passes[at:]]

    patch.setattr(driver, "default_pipeline", pipeline)


def compiled(proto: Any, **options: Any) -> Any:
    return tw.compile(proto, targets=("cpu:native",), verify=False, **options)


def fault_of(found: Bisection) -> Fault:
    assert found.fault is not None
    return found.fault


def assert_minimal(fault: Fault, *ops: str) -> None:
    """The minimal model is these operators and a valid model that goes wrong."""
    assert fault.minimal is not None, fault
    onnx.checker.check_model(fault.minimal.model, full_check=True)
    assert [n.op_type for n in fault.minimal.model.graph.node] == list(ops)
    assert not fault.minimal.comparison.ok
    evaluate(fault.minimal.model, fault.minimal.feed)


def test_no_divergence() -> None:
    found = tw.bisect(compiled(NET), NET)
    assert found.ok and found.fault is None and not found.notes
    found.require("m.tw")


def test_a_wrong_pass(monkeypatch: Patch) -> None:
    with_pass(monkeypatch, BreakNumbers())
    fault = fault_of(tw.bisect(compiled(NET), NET))
    assert (fault.stage, fault.culprit, fault.tensor.name, fault.op_type) == ("pass", "break-numbers", "d", "Add")
    assert_minimal(fault, "Add")


def test_a_wrong_pass_that_needs_two_operators(monkeypatch: Patch) -> None:
    with_pass(monkeypatch, BreakPairs())
    fault = fault_of(tw.bisect(compiled(NET), NET))
    assert (fault.culprit, fault.tensor.name) == ("break-pairs", "c")
    assert_minimal(fault, "Relu", "MatMul")


def test_a_wrong_lowering(monkeypatch: Patch) -> None:
    lower.load_lowerings()
    monkeypatch.setitem(lower._RULES, "Tanh", lambda context: context.input(0))
    fault = fault_of(tw.bisect(compiled(NET), NET))
    assert (fault.stage, fault.tensor.name) == ("lowering", "f"), fault
    assert "is not" in fault.told and fault.culprit in fault.told
    assert_minimal(fault, "Tanh")


def test_wrong_code(monkeypatch: Patch) -> None:
    """The C of one kernel is changed after it was emitted."""
    real = CpuBackend.emit

    def emit(self: CpuBackend, kernels: Sequence[Any], target: Any) -> Source:
        source = real(self, kernels, target)
        files = {n: t.replace("tanh", "exp") if "softmax" not in n else t for n, t in source.files.items()}
        return replace(source, files=files)

    tanh = model("net (float[N,16] x) => (float[N,16] y) { a = Relu(x) y = Tanh(a) }")
    monkeypatch.setattr(CpuBackend, "emit", emit)
    fault = fault_of(tw.bisect(compiled(tanh), tanh))
    assert (fault.stage, fault.tensor.name) == ("kernel", "y"), fault
    assert "tile IR is right" in fault.told


def test_a_layer_with_a_bad_range() -> None:
    """The artifact is right; the model that it was compiled from was quantized badly."""
    bad = quantized(c_range=0.2)
    found = tw.bisect(compiled(bad), FLOAT, model=bad, min_accuracy=0.99)
    fault = fault_of(found)
    assert (fault.stage, fault.tensor.name, fault.op_type) == ("model", "c", "MatMul")
    assert fault.minimal is not None and fault.minimal.reference is not None
    assert [n.op_type for n in fault.minimal.reference.graph.node] == ["MatMul"]
    assert {n.op_type for n in fault.minimal.model.graph.node} == {"MatMul", "QuantizeLinear", "DequantizeLinear"}
    assert not found.notes
    assert tw.bisect(compiled(quantized()), FLOAT, model=quantized(), min_accuracy=0.99).ok


def test_another_model_is_said_to_be_one() -> None:
    """The artifact was compiled from other weights: compiled again, the outputs agree."""
    other = onnx.ModelProto()
    other.CopyFrom(FLOAT)
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(W2, "w1"))
    found = tw.bisect(compiled(other), FLOAT)
    fault = fault_of(found)
    assert (fault.stage, fault.minimal) == ("artifact", None)
    assert not fault.tensor.ok
    assert "was compiled from a model with SHA-256" in found.notes[0]


def test_quantizing_that_the_record_cannot_repeat_is_said() -> None:
    """As an artifact that was quantized when it was compiled: its own graph is not the model's."""
    whole = compiled(quantized())
    whole = replace(whole, provenance={**whole.provenance, "precision": {"asked": "int8"}})
    found = tw.bisect(whole, FLOAT)
    assert "without quantization" in found.notes[-1]
    assert "--model" in fault_of(found).told
    assert tw.bisect(whole, FLOAT, min_accuracy=0.99).ok


def test_one_of_several_entry_points(monkeypatch: Patch) -> None:
    """Of two entry points with a state one is wrong; sizes are open, and bounded."""
    other = model("net (float[N,16] x, float[N,M] s) => (float[N,M] t) { u = Add(s, s) t = Tanh(u) }")
    options = {"input_shapes": {"x": ("1..8", 16), "s": ("1..8", "M")}, "states": {"s": "t"}}
    with_pass(monkeypatch, BreakNumbers(), 0)
    artifact = compiled(
        {"first": model("net (float[N,16] x) => (float[N,16] y) { y = Relu(x) }"), "second": other}, **options
    )
    assert tw.bisect(artifact, model("net (float[N,16] x) => (float[N,16] y) { y = Relu(x) }")).ok
    fault = fault_of(tw.bisect(artifact, other, entry="second"))
    assert (fault.culprit, fault.tensor.name) == ("break-numbers", "u")
    assert_minimal(fault, "Add")


def identity(into: str, out: str) -> onnx.ModelProto:
    return model(f"net (float[N,16] {into}) => (float[N,16] {out}) {{ {out} = Identity({into}) }}")


def save(folder: Path, artifact: Any) -> tuple[Path, Path]:
    onnx.save(NET, folder / "m.onnx")
    artifact.save(folder / "m.tw")
    return folder / "m.tw", folder / "m.onnx"


def test_command(monkeypatch: Patch, tmp_path: Path) -> None:
    artifact, reference = save(tmp_path, compiled(NET))
    right = CliRunner().invoke(main, ["bisect", str(artifact), "--ref", str(reference)])
    assert (right.exit_code, right.output.splitlines()[-1]) == (0, "no divergence")
    with_pass(monkeypatch, BreakNumbers())
    save(tmp_path, compiled(NET))
    arguments = ["bisect", str(artifact), "--ref", str(reference), "-o", f"{tmp_path}/found", "--json", f"{tmp_path}/j"]
    wrong = CliRunner().invoke(main, arguments)
    assert wrong.exit_code == 5, wrong.output
    assert "fault      pass break-numbers" in wrong.output
    assert "diverges   d (Add)" in wrong.output
    told = json.loads((tmp_path / "j").read_text())
    assert told["bisection"]["fault"]["minimal"]["nodes"] == 1
    again = ["compile", f"{tmp_path}/found/minimal.onnx", "-o", f"{tmp_path}/n.tw", "-t", "cpu:native"]
    shown = CliRunner().invoke(main, [*again, "--data", f"{tmp_path}/found/minimal.npz"])
    assert shown.exit_code == 5, "what was written shows the fault by itself"


@pytest.mark.parametrize(
    ("damage", "exit_code", "code"),
    [
        (lambda f: (f / "m.tw").write_bytes(b"PK\x03\x04" + bytes(100)), 9, ""),
        (lambda f: (f / "m.tw").unlink(), 2, ""),
        (lambda f: (f / "m.onnx").write_bytes(b"\x08\x0a"), 3, ""),
        (
            lambda f: onnx.save(model("n (float[N,4] z) => (float[N,4] y) { y = Relu(z) }"), f / "m.onnx"),
            2,
            "reference-inputs",
        ),
        (
            lambda f: onnx.save(model("n (float[N,16] x) => (float[N,16] z) { z = Relu(x) }"), f / "m.onnx"),
            2,
            "outputs-differ",
        ),
        (lambda f: np.savez(f / "d.npz", x=np.full((2, 16), np.nan, np.float32)), 0, ""),
        (lambda f: np.savez(f / "d.npz", x=np.ones((2, 3), np.float32)), 2, "input-shape-conflict"),
        (lambda f: np.savez(f / "d.npz", z=np.ones((2, 3), np.float32)), 2, "data-names"),
        (lambda f: (f / "d.npz").write_bytes(b"nothing"), 2, "input-unreadable"),
    ],
    ids=["artifact", "no-artifact", "model", "inputs", "outputs", "nan", "shape", "names", "data"],
)
def test_bad_input(tmp_path: Path, damage: Callable[[Path], Any], exit_code: int, code: str) -> None:
    artifact, reference = save(tmp_path, compiled(NET))
    damage(tmp_path)
    data = ["--data", f"{tmp_path}/d.npz"] if (tmp_path / "d.npz").exists() else []
    done = CliRunner().invoke(main, ["bisect", str(artifact), "--ref", str(reference), *data])
    assert done.exit_code == exit_code, done.output
    assert code in done.output


@pytest.mark.parametrize(
    "provenance",
    [{}, {"options": 3}, {"options": {"level": True}}, {"models": [1]}, {"options": {"input_shapes": [[1]]}}],
    ids=str,
)
def test_a_record_that_cannot_be_read(provenance: dict[str, Any]) -> None:
    whole = compiled(NET)
    kept = {} if not provenance else {**whole.provenance, **provenance}
    if isinstance(provenance.get("options"), dict):
        kept["options"] = {**whole.provenance["options"], **provenance["options"]}
    with pytest.raises(UsageError, match="no-provenance"):
        tw.bisect(replace(whole, provenance=kept), NET)


def test_hostile_options_are_errors() -> None:
    whole = compiled(NET)
    options = {**whole.provenance["options"], "level": 99}
    assert tw.bisect(replace(whole, provenance={**whole.provenance, "options": options}), NET).ok  # nothing is compiled
    with pytest.raises(TilewrightError):
        tw.bisect(replace(whole, provenance={**whole.provenance, "options": options}), FLOAT)
    with pytest.raises(UsageError, match="no-samples"):
        tw.bisect(whole, NET, feeds=[])
    with pytest.raises(AccuracyError, match="diverges"):
        tw.bisect(whole, FLOAT).require("m.tw")
