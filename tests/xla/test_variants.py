"""Programs of exact sizes where a dimension cannot be padded, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tilewright as tw
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tilewright.backends.xla import rule as rules
from tilewright.backends.xla.rule import Padding
from tilewright.runtime.errors import InputError

from tests.xla.reference import model_of
from tests.xla.run import compiled as program

pytest.importorskip("jaxlib")


@pytest.fixture
def unmaskable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relu as an operator that nobody has thought through."""
    rules.load_rules()
    monkeypatch.setitem(rules._RULES, "Relu", replace(rules._RULES["Relu"], padding=Padding.NONE))


NODES = [
    helper.make_node("Add", ["x", "x"], ["a"], name="first"),
    helper.make_node("Relu", ["a"], ["b"], name="middle"),
    helper.make_node("Mul", ["b", "b"], ["y"], name="last"),
]
INPUTS = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S"])]
MODEL = helper.make_model(
    helper.make_graph(NODES, "g", INPUTS, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "S"])]),
    opset_imports=[helper.make_opsetid("", 20)],
    ir_version=10,
)


def compiled(shape: tuple[str, str], **settings: object) -> tuple[list[dict[str, int]], tuple[str, ...], tw.Session]:
    artifact = tw.compile(MODEL, ("xla:cpu",), input_shapes={"x": shape}, verify=False, **settings)  # type: ignore[arg-type]
    (target,) = artifact.report.targets
    return [dict(p.sizes) for p in target.programs], target.fallback, tw.load(artifact, device="xla-cpu")


def check(session: tw.Session, b: int, s: int) -> None:
    x = np.random.default_rng(0).standard_normal((b, s)).astype(np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.maximum(2 * x, 0) ** 2)


def test_every_size_where_these_are_few(unmaskable: None) -> None:
    sizes, fallback, session = compiled(("1..2", "3..6"))
    assert sizes == [{"B": b, "S": s} for b in (1, 2) for s in (3, 4, 5, 6)]
    assert not fallback
    check(session, 1, 3)
    check(session, 2, 5)


def test_the_host_part_where_they_are_many(unmaskable: None) -> None:
    _, fallback, session = compiled(("1..4", "1..64"))
    assert "Relu cannot work on a padded dimension (B, S)" in fallback[0]
    assert "--bucket B==16,32" in fallback[0]
    check(session, 3, 17)


def test_exact_sizes_that_are_asked_for(unmaskable: None) -> None:
    sizes, fallback, session = compiled(("1..4", "1..64"), buckets={"B": (1, 3), "S": (16, 17)}, exact=("B", "S"))
    assert sizes == [{"B": b, "S": s} for b in (1, 3) for s in (16, 17)]
    assert not fallback
    check(session, 3, 17)


def test_sizes_asked_for_to_be_padded_become_every_size(unmaskable: None) -> None:
    """What is asked is up to 3 and up to 4; every size of these is run."""
    sizes, fallback, session = compiled(("1..4", "1..64"), buckets={"B": (1, 3), "S": (4,)})
    assert sizes == [{"B": b, "S": s} for b in (1, 2, 3) for s in (1, 2, 3, 4)]
    assert not fallback
    check(session, 2, 3)


# -- sizes that padding would make too small, and sizes that have to be equal ------------------------------------------

ROWS = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
CUT = """g (float[S] x, float[8] w) => (float[A] y) <int64[1] a = {0}>
    { n = Shape(x) e = Shape(w) y = Slice(w, n, e, a) }"""
REMAINDER = """g (float[S] x) => (float[A] y) <int64[1] f = {4}, int64[1] z = {0}, int64[1] a = {0}>
    { n = Shape(x) d = Mod(n, f) y = Slice(x, z, d, a) }"""
FILLED = """g (float[S] x) => (float[A] y) <int64[1] e = {8}, int64[1] z = {0}>
    { n = Shape(x) d = Sub(e, n) p = Concat<axis=0>(z, d) y = Pad(x, p) }"""
JOINED = """g (float[P,4] p, float[S,4] s, float[T,4] t) => (float[A,4] y)
    { c = Concat<axis=0>(p, s) y = Add(c, t) }"""
FLAT = """g (float[S,2] x, float[T,3] y) => (float[A] z) <int64[1] m = {-1}>
    { a = Reshape(x, m) b = Reshape(y, m) z = Add(a, b) }"""
EMPTY = """g (float[S,4] x) => (float[4] y, float[S,4] z) <int64[1] a = {0}>
    { y = ReduceSum<keepdims=0>(x, a) z = Softmax<axis=0>(x) }"""


@pytest.mark.parametrize(
    ("text", "shapes", "sizes", "runs"),
    [
        (CUT, {"x": ("S=1..5",)}, [{"S": n} for n in range(1, 6)], [{"x": 3, "w": 8}, {"x": 5, "w": 8}]),
        (REMAINDER, {"x": ("S=1..6",)}, [{"S": n} for n in range(1, 7)], [{"x": 3}, {"x": 4}, {"x": 5}]),
        (FILLED, {"x": ("S=1..8",)}, [{"S": n} for n in (1, 2, 4, 8)], [{"x": 3}, {"x": 8}]),
        (
            FLAT,
            {"x": ("S=1..9", 2), "y": ("T=1..6", 3)},
            [{"S": s, "T": t} for s, t in ((3, 2), (6, 4), (9, 6))],
            [{"x": (3, 2), "y": (2, 3)}, {"x": (9, 2), "y": (6, 3)}],
        ),
        (
            JOINED,
            {"p": ("P=1..2", 4), "s": ("S=1..2", 4), "t": ("T=1..4", 4)},
            [{"P": p, "S": s} for p in (1, 2) for s in (1, 2)],
            [{"p": (2, 4), "s": (1, 4), "t": (3, 4)}],
        ),
        (EMPTY, {"x": ("S=0..4", 4)}, [{"S": n} for n in (1, 2, 4)], [{"x": (0, 4)}, {"x": (3, 4)}]),
    ],
    ids=["cut", "remainder", "filled", "flat", "joined", "empty"],
)
def test_sizes(
    text: str, shapes: dict[str, Any], sizes: list[dict[str, int]], runs: list[dict[str, int | tuple[int, ...]]]
) -> None:
    artifact = tw.compile(model_of(text), ("xla:cpu",), input_shapes=shapes, verify=False)
    (target,) = artifact.report.targets
    assert [dict(p.sizes) for p in target.programs] == sizes and not target.fallback
    session = tw.load(artifact, device="xla-cpu")
    for run in runs:
        feeds = {n: np.resize(ROWS, shape) for n, shape in run.items()}
        wanted = ReferenceEvaluator(model_of(text)).run(None, feeds)
        for got, want in zip(session.run(None, feeds), wanted, strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_run_with_sizes_that_are_not_equal_is_refused() -> None:
    shapes = {"x": ("S=1..9", 2), "y": ("T=1..6", 3)}
    artifact = tw.compile(model_of(FLAT), ("xla:cpu",), input_shapes=shapes, verify=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="6 is not 9"):
        tw.load(artifact, device="xla-cpu").run(None, {"x": ROWS[:3, :2], "y": ROWS[:3, :3]})


def test_counts_beyond_32_bits() -> None:
    """A size is a number of 32 bits in a program that is padded; where a count may be more, sizes are exact."""
    text = "g (float[A,B,C] x) => (int64 y) { y = Size(x) }"
    found = program(text, {"x": ("A=65535..65536", 256, 256)})
    assert [dict(v.sizes) for v in found.compiled.variants] == [{"A": 65535}, {"A": 65536}]
    assert not found.compiled.padded and f"dense<{65536**2}> : tensor<i64>" in found.text
    found = program(text, {"x": ("A=65535..65536", 16, 16)})
    assert found.compiled.padded == ("A",)
