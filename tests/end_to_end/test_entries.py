"""Several models in one artifact, which share kernels and weights, and states, which are updated in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from click.testing import CliRunner
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.cli.main import main
from tilewright.options import Options
from tilewright.runtime import load
from tilewright.runtime.session import Session

NATIVE = Options(targets=("cpu:native",))

PREFILL = """
<ir_version: 9, opset_import: ["" : 18]>
prefill (float[N,32] x) => (float[N,48] y) { m = MatMul(x, w)  y = Relu(m) }
"""
DECODE = """
<ir_version: 9, opset_import: ["" : 18]>
decode (float[M,32] x, float[M,48] bias) => (float[M,48] y) { m = MatMul(x, w)  a = Add(m, bias)  y = Tanh(a) }
"""
CACHE = """
<ir_version: 9, opset_import: ["" : 18]>
cache (float[N,16] past, float[1,16] x) => (float[N,16] present, float[N,16] seen) {
    rest = Slice(past, one, end, zero)
    present = Concat<axis=0>(rest, x)
    both = Add(past, present)
    seen = Tanh(both)
}
"""
CACHE_CONSTANTS = {"one": np.array([1]), "end": np.array([2**31 - 1]), "zero": np.array([0])}


def model(text: str, constants: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    made = parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in (constants or {}).items())
    return made


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((32, 48)).astype(np.float32)


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return got.shape == want.shape and bool(np.abs(got - want).max() <= 1e-5 * np.abs(want).max())


def check(session: Session, models: Mapping[str, onnx.ModelProto]) -> None:
    """Each entry point gives the numbers of its own model."""
    for entry, source in models.items():
        feed = {i.name: noise(5, i.type.tensor_type.shape.dim[1].dim_value) for i in source.graph.input}
        (want,) = ReferenceEvaluator(source).run(None, feed)
        (got,) = session.run(None, feed, entry=entry)
        assert close(got, want), entry


@pytest.mark.parametrize("name", ["w", "other"])
def test_equal_weights_are_stored_once(name: str) -> None:
    second = model(DECODE.replace("w)", f"{name})"), {name: weight()})
    models = {"prefill": model(PREFILL, {"w": weight()}), "decode": second}
    alone = driver.compile(models["prefill"], options=NATIVE).report.weight_bytes
    artifact = driver.compile(models, options=NATIVE)
    assert artifact.report.weight_bytes == alone > 0
    data = artifact.to_bytes()
    check(load(data), models)
    assert data == driver.compile(models, options=NATIVE).to_bytes()


def test_equal_names_of_different_weights() -> None:
    models = {"prefill": model(PREFILL, {"w": weight()}), "decode": model(DECODE, {"w": weight(7)})}
    artifact = driver.compile(models, options=NATIVE)
    names = {name.partition("[")[0] for name in artifact.constants}
    assert names == {"w", "w~2"}
    data = artifact.to_bytes()
    assert artifact.report.weight_bytes == 2 * driver.compile(models["decode"], options=NATIVE).report.weight_bytes
    check(load(data), models)
    assert data == driver.compile(models, options=NATIVE).to_bytes()


def test_kernels_are_shared() -> None:
    one, two = (model(PREFILL, {"w": weight(seed)}) for seed in (0, 7))
    alone = driver.compile(one, options=NATIVE).report.targets[0]
    both = driver.compile({"a": one, "b": two}, options=NATIVE)
    (target,) = both.report.targets
    assert (target.distinct, target.launches) == (alone.distinct, 2 * alone.launches)
    assert list(both.report.entries) == ["a", "b"]
    check(load(both.to_bytes()), {"a": one, "b": two})


def test_sizes_apply_where_the_input_is() -> None:
    models = {"prefill": model(PREFILL, {"w": weight()}), "decode": model(DECODE, {"w": weight()})}
    session = tw.load(tw.compile(models, NATIVE.targets, input_shapes={"bias": (2, 48), "x": ("1..8", 32)}))
    prefill, decode = session.manifest.entries
    assert [i.shape for i in prefill.inputs] == [("N", 32)] and prefill.symbols[0].max == 8
    assert [i.shape for i in decode.inputs] == [(2, 32), (2, 48)]
    with pytest.raises(tw.UsageError, match="input-shape-name"):
        tw.compile(models, NATIVE.targets, input_shapes={"nothing": (1,)})


def test_every_entry_is_verified() -> None:
    models = {"prefill": model(PREFILL, {"w": weight()}), "decode": model(DECODE, {"w": weight()})}
    artifact = tw.compile(models, NATIVE.targets)
    assert tw.verify(artifact, models["decode"], entry="decode").ok
    assert not tw.verify(artifact, model(DECODE, {"w": weight(7)}), entry="decode").ok
    with pytest.raises(tw.UsageError, match="unknown-entry-point"):
        tw.verify(artifact, models["decode"], entry="other")


def test_exported_programs_share_a_module() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.GELU()).eval()
    programs = {n: torch.export.export(module, (torch.randn(rows, 32),)) for n, rows in (("six", 6), ("four", 4))}
    artifact = tw.compile(programs, NATIVE.targets)
    alone = tw.compile(programs["six"], NATIVE.targets, verify=False)
    assert artifact.report.weight_bytes == alone.report.weight_bytes
    with pytest.raises(tw.UsageError, match="torch-arguments"):
        tw.compile({"six": module, "four": module}, NATIVE.targets, example_args=(torch.randn(1, 32),))


# -- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 2])
def test_a_cache_is_updated_in_place(level: int) -> None:
    source = model(CACHE, CACHE_CONSTANTS)
    artifact = tw.compile(source, NATIVE.targets, states={"past": "present"}, level=level)
    session, reference = tw.load(artifact), ReferenceEvaluator(source)
    assert session.manifest.entries[0].states == (("past", "present"),)
    memory = noise(6, 16)
    expected, apart = memory.copy(), memory.copy()
    for step in range(9):
        x = noise(1, 16, seed=step)
        apart, apart_seen = session.run(None, {"past": apart, "x": x})
        present, seen = session.run(None, {"past": memory, "x": x}, out={"present": memory})
        expected, expected_seen = reference.run(None, {"past": expected, "x": x})
        assert present is memory
        np.testing.assert_array_equal(memory, expected)
        np.testing.assert_array_equal(apart, expected)
        assert close(seen, expected_seen) and close(apart_seen, expected_seen)


IN_PLACE = {
    "elementwise": "a = Add(p, q)  np = Mul(a, x)  nq = Sub(p, np)  y = Add(np, q)",
    "swapped": "np = Identity(q)  nq = Identity(p)  y = Add(p, q)",
    "kept": "np = Identity(p)  nq = Add(q, x)  y = Identity(p)",
    "from-an-input": "np = Identity(x)  nq = Identity(p)  y = Identity(q)",
    "turned-over": "np = Transpose<perm=[1,0]>(p)  nq = Identity(np)  y = Identity(np)",
    "one-value-twice": "y = Relu(p)  np = Identity(y)  nq = Identity(y)",
}


@pytest.mark.parametrize("body", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("outputs", [("np", "nq", "y"), ("y", "nq", "np")], ids=["states-first", "states-last"])
def test_two_states(body: str, outputs: tuple[str, ...]) -> None:
    listed = ", ".join(f"float[4,4] {o}" for o in outputs)
    source = model(
        '<ir_version: 9, opset_import: ["" : 18]> '
        f"two (float[4,4] p, float[4,4] q, float[4,4] x) => ({listed}) {{ {body} }}"
    )
    options = Options(targets=NATIVE.targets, states=(("p", "np"), ("q", "nq")))
    session, reference = load(driver.compile(source, options=options).to_bytes()), ReferenceEvaluator(source)
    p, q = noise(4, 4, seed=1), noise(4, 4, seed=2)
    old = {"p": p.copy(), "q": q.copy()}
    for step in range(3):
        x = noise(4, 4, seed=10 + step)
        want = dict(zip(outputs, reference.run(None, {**old, "x": x}), strict=True))
        got = dict(zip(outputs, session.run(None, {"p": p, "q": q, "x": x}, out={"np": p, "nq": q}), strict=True))
        assert all(close(got[name], want[name]) for name in outputs)
        assert close(p, want["np"]) and close(q, want["nq"])
        old = {"p": want["np"], "q": want["nq"]}


def test_a_state_holds_in_the_entries_that_have_it() -> None:
    models = {"prefill": model(PREFILL, {"w": weight()}), "step": model(CACHE, CACHE_CONSTANTS)}
    artifact = tw.compile(models, NATIVE.targets, states={"past": "present"})
    assert [e.states for e in tw.load(artifact).manifest.entries] == [(), (("past", "present"),)]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((("past", "nothing"),), "state-name"),
        ((("nothing", "present"),), "state-name"),
        ((("x", "present"),), "state-type"),
        ((("past", "present"), ("past", "seen")), "state-twice"),
        ((("past", "present"), ("x", "present")), "state-twice"),
    ],
)
def test_states_that_cannot_be(states: tuple[tuple[str, str], ...], code: str) -> None:
    with pytest.raises(tw.UsageError, match=code):
        driver.compile(model(CACHE, CACHE_CONSTANTS), options=Options(targets=NATIVE.targets, states=states))


@pytest.mark.parametrize("models", [{}, {"": "x.onnx"}, {"a\n": "x.onnx"}])
def test_entries_that_cannot_be(models: dict[str, str]) -> None:
    with pytest.raises(tw.UsageError, match="entry-name"):
        tw.compile(models)


# -- the command line ------------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path) -> None:
    onnx.save(model(PREFILL, {"w": weight()}), tmp_path / "p.onnx")
    onnx.save(model(CACHE, CACHE_CONSTANTS), tmp_path / "c.onnx")
    first, second, file = str(tmp_path / "p.onnx"), f"step={tmp_path / 'c.onnx'}", str(tmp_path / "a.tw")
    command = ["compile", first, "--entry", second, "--state", "past=present", "-t", "cpu:native", "-o", file]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "main: p.onnx" in done.output and "step: c.onnx" in done.output and "PASSED" in done.output
    told = CliRunner().invoke(main, ["inspect", file], catch_exceptions=False).output
    assert "step: c.onnx" in told and "past and present are one memory" in told
    verify = ["verify", file, "--entry", "step", "--ref", str(tmp_path / "c.onnx")]
    assert CliRunner().invoke(main, verify, catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--entry", "decode"], "pair-syntax"),
        (["--state", "=present"], "pair-syntax"),
        (["--entry", "main=b.onnx"], "entry-name"),
    ],
)
def test_command_line_errors(arguments: list[str], code: str) -> None:
    done = CliRunner().invoke(main, ["compile", "a.onnx", *arguments])
    assert done.exit_code == 2 and code in done.output
