"""Writes at run-time positions: numbers, and when a plan may write where the old contents are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tilewright.ir.ranges import Range
from tilewright.plan.plan import Copy
from tilewright.runtime.errors import InputError

from tests.ops.interpret import run_interpreted, typed

F, L = TensorProto.FLOAT, TensorProto.INT64
NATIVE = ("cpu:native",)
RNG = np.random.default_rng(5)


def _model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, tuple[Any, ...]]], outputs: dict[str, tuple[Any, ...]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "scatter",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, F, s) for n, s in outputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)


def _floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """An operator, the declared shapes of ``x``, ``u`` and ``i``, and their contents."""

    name: str
    op: str
    shapes: tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]
    x: np.ndarray[Any, Any]
    u: np.ndarray[Any, Any]
    i: np.ndarray[Any, Any]
    attributes: dict[str, Any] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        order = "xui" if self.op == "TensorScatter" else "xiu"
        node = helper.make_node(self.op, list(order), ["y"], **self.attributes)
        x, u, i = self.shapes
        return _model([node], {"x": (F, x), "u": (F, u), "i": (L, i)}, {"y": x})


ROWS = np.stack([RNG.permutation(9)[:4] for _ in range(5)], axis=1)
CACHE, NEW = ("B", 2, 12, 8), ("B", 2, "S", 8)
CASES = [
    Case("elements", "ScatterElements", ((9, "N"), (4, "N"), (4, "N")), _floats(9, 5), _floats(4, 5), ROWS),
    Case("negative", "ScatterElements", ((9, "N"), (4, "N"), (4, "N")), _floats(9, 5), _floats(4, 5), ROWS - 9),
    Case(
        "last-axis",
        "ScatterElements",
        (("N", 9), ("N", 4), ("N", 4)),
        _floats(5, 9),
        _floats(5, 4),
        ROWS.T.copy(),
        {"axis": -1},
    ),
    Case(
        "nd",
        "ScatterND",
        (("A", 5, 8), ("N", 8), ("N", 2)),
        _floats(4, 5, 8),
        _floats(3, 8),
        np.array([[0, 1], [3, 4], [2, -1]]),
    ),
    Case(
        "nd-elements",
        "ScatterND",
        (("A", 5), ("N",), ("N", 2)),
        _floats(4, 5),
        _floats(3),
        np.array([[0, 1], [3, 4], [2, 0]]),
    ),
    Case(
        "cache", "TensorScatter", (CACHE, NEW, ("B",)), _floats(3, 2, 12, 8), _floats(3, 2, 4, 8), np.array([0, 8, 3])
    ),
    Case(
        "ring",
        "TensorScatter",
        (CACHE, NEW, ("B",)),
        _floats(3, 2, 12, 8),
        _floats(3, 2, 4, 8),
        np.array([11, 8, 9]),
        {"mode": "circular"},
    ),
    Case(
        "axis-1",
        "TensorScatter",
        (("B", 12, 8), ("B", "S", 8), ("B",)),
        _floats(2, 12, 8),
        _floats(2, 1, 8),
        np.array([11, 0]),
        {"axis": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numbers(case: Case) -> None:
    feeds = {"x": case.x, "u": case.u, "i": case.i}
    (expected,) = ReferenceEvaluator(case.model()).run(None, feeds)
    bounds = {n: Range(1, 64) for n in "ABNS"}
    np.testing.assert_array_equal(run_interpreted(typed(case.model(), bounds), feeds)["y"], expected)
    session = tw.load(tw.compile(case.model(), NATIVE, verify=False))
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected)


@pytest.mark.parametrize("bad", [9, -10])
def test_outside_is_refused(bad: int) -> None:
    case = CASES[0]
    session = tw.load(tw.compile(case.model(), NATIVE, verify=False))
    where = case.i.copy()
    where[2, 1] = bad
    with pytest.raises(InputError, match="an index in the inputs"):
        session.run(None, {"x": case.x, "u": case.u, "i": where})


def test_a_tensor_scattered_into_itself() -> None:
    node = helper.make_node("ScatterElements", ["x", "i", "x"], ["y"])
    model = _model([node], {"x": (F, (4, "N")), "i": (L, (4, "N"))}, {"y": (4, "N")})
    x, where = _floats(4, 3), np.stack([RNG.permutation(4) for _ in range(3)], axis=1)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x, "i": where})
    session = tw.load(tw.compile(model, NATIVE, verify=False))
    np.testing.assert_array_equal(session.run(None, {"x": x, "i": where})[0], expected)


def _step(readers: str) -> onnx.ModelProto:
    """One step of a decoder with a cache of fixed size; ``readers`` of it: before, after, or the old one after."""
    nodes = [
        helper.make_node("TensorScatter", ["past", "new", "at"], ["present"]),
        helper.make_node("ReduceSum", ["present", "axes"], ["total"], keepdims=0),
    ]
    if readers == "old":
        nodes.append(helper.make_node("Mul", ["total", "total"], ["square"]))
        nodes.append(helper.make_node("Transpose", ["square"], ["turned"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["past", "turned"], ["y"]))
    else:
        nodes.append(helper.make_node("Mul", ["total", "total"], ["y"]))
    inputs = {"past": (F, (1, 12, 8)), "new": (F, (1, "S", 8)), "at": (L, (1,))}
    made = _model(nodes, inputs, {"y": (1, 12, 1) if readers == "old" else (1, 8), "present": (1, 12, 8)})
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    return made


@pytest.mark.parametrize(("readers", "copies"), [("new", 0), ("old", 1)])
def test_a_state_is_updated_where_it_is(readers: str, copies: int) -> None:
    model = _step(readers)
    artifact = tw.compile(model, NATIVE, states={"past": "present"}, verify=False)
    assert sum(isinstance(i, Copy) for i in artifact.parts[0].plan.entries[0].code) >= copies
    if copies == 0:
        assert not any(isinstance(i, Copy) for i in artifact.parts[0].plan.entries[0].code)
    session, cache, expected = tw.load(artifact), np.zeros((1, 12, 8), np.float32), np.zeros((1, 12, 8), np.float32)
    reference = ReferenceEvaluator(model)
    for at, length in ((0, 3), (3, 1), (4, 1), (11, 1)):
        new, where = _floats(1, length, 8), np.array([at])
        y, expected = reference.run(None, {"past": expected, "new": new, "at": where})
        got = session.run(["y"], {"past": cache, "new": new, "at": where}, out={"present": cache})[0]
        np.testing.assert_array_equal(cache, expected)
        np.testing.assert_allclose(got, y, rtol=1e-5)


def test_without_a_state_the_input_stays() -> None:
    session = tw.load(tw.compile(_step("new"), NATIVE, verify=False))
    cache = _floats(1, 12, 8)
    kept = cache.copy()
    (present,) = session.run(["present"], {"past": cache, "new": _floats(1, 1, 8), "at": np.array([5])})
    np.testing.assert_array_equal(cache, kept)
    assert (np.delete(present, 5, 1) == np.delete(kept, 5, 1)).all() and (present[:, 5] != kept[:, 5]).all()


def test_a_temporary_is_updated_where_it_is() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("ScatterElements", ["a", "i", "u"], ["b"]),
        helper.make_node("ScatterElements", ["b", "i", "w"], ["c"]),
        helper.make_node("Add", ["c", "c"], ["y"]),
    ]
    shapes = dict.fromkeys("xuw", (F, (4, "N"))) | {"i": (L, (4, "N"))}
    model = _model(nodes, shapes, {"y": (4, "N")})
    artifact = tw.compile(model, NATIVE, verify=False)
    entry = artifact.parts[0].plan.entries[0]
    assert not any(isinstance(i, Copy) for i in entry.code)
    assert sum(b.kind == "temporary" for b in entry.buffers) == 1
    feeds = {n: _floats(4, 3) for n in "xuw"} | {"i": np.stack([RNG.permutation(4) for _ in range(3)], axis=1)}
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_array_equal(tw.load(artifact).run(None, feeds)[0], expected)
