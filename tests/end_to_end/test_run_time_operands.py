"""Shapes, axes and counts that only a run tells, beside ONNX Runtime; and runs that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import parser
from tilewright import driver
from tilewright.errors import InternalError
from tilewright.frontend.onnx import import_model
from tilewright.ir.facts import set_facts
from tilewright.ir.graph import type_of
from tilewright.ir.late import late_symbols, set_late_symbols
from tilewright.options import Options
from tilewright.plan.late import LateSymbols
from tilewright.plan.plan import Allocate, Free, LoadScalar, SetScalar
from tilewright.runtime import load
from tilewright.runtime.errors import InputError

Array = np.ndarray[Any, Any]

F = np.random.default_rng(0).standard_normal

#: Text of a graph, and feeds of several runs of one artifact.
GRAPHS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "a shape, then arithmetic on what has it": (
        "g (float[B,6] x, int64[2] s, float[1] c) => (float[M,N] y) { a = Reshape(x, s) b = Mul(a, c) y = Relu(b) }",
        [
            {"x": F((2, 6)), "s": [3, 4], "c": [2.0]},
            {"x": F((5, 6)), "s": [-1, 10], "c": [1.0]},
            {"x": F((4, 6)), "s": [0, -1], "c": [0.5]},
        ],
    ),
    "a shape that is computed": (
        "g (float[B,6] x, int64[1] n) => (float[M,N,K] y) <int64[1] m = {-1}> "
        "{ t = Concat<axis=0>(n, m) u = Concat<axis=0>(t, n) y = Reshape(x, u) }",
        [{"x": F((6, 6)), "n": [3]}, {"x": F((4, 6)), "n": [2]}, {"x": F((1, 6)), "n": [1]}],
    ),
    "a shape that is there after what has it": (
        "g (float[A] x, int64[2] s) => (float[M,N] y) { a = Relu(x) t = Neg(s) u = Neg(t) y = Reshape(a, u) }",
        [{"x": F(12), "s": [3, 4]}, {"x": F(3000), "s": [-1, 10]}],
    ),
    "a product of two tensors of one run-time shape": (
        "g (float[A] x, float[A] z, int64[2] s) => (float[M,M] y) "
        "{ a = Reshape(x, s) b = Reshape(z, s) c = Transpose(b) y = MatMul(a, c) }",
        [{"x": F(12), "z": F(12), "s": [3, 4]}, {"x": F(10), "z": F(10), "s": [5, 2]}],
    ),
    "positions, and what is at them": (
        "g (float[B,4] x) => (float[K] y, int64[2,K] p) "
        "{ z = Relu(x) p = NonZero(z) q = Transpose(p) y = GatherND(z, q) }",
        [{"x": F((3, 4))}, {"x": -np.ones((2, 4))}, {"x": np.ones((1, 4))}],
    ),
    "a size of a size that no kernel reads": (
        "g (float[B,6] x, int64[2] s) => (float[M,N] y) { c = ConstantOfShape(s) t = Shape(c) y = Reshape(x, t) }",
        [{"x": F((2, 6)), "s": [3, 4]}, {"x": F((5, 6)), "s": [1, 30]}],
    ),
    "a shape that nothing needs": (
        "g (float[B,6] x, int64[2] s) => (float[B,6] y) { c = Reshape(x, s) d = Relu(c) y = Exp(x) }",
        [{"x": F((2, 6)), "s": [3, 4]}],
    ),
    "a size that is found, of what no kernel reads": (
        "g (float[B,4] x, float[C,2] z) => (float[M,N] y) "
        "{ p = NonZero(x) s = Shape(p) q = Relu(z) y = Reshape(q, s) }",
        [{"x": np.eye(4)[:3], "z": F((3, 2))}, {"x": np.ones((2, 4)), "z": F((8, 2))}],
    ),
    "two sizes that a run must find equal": (
        "g (float[A] x, float[B,C] z, int64[2] s) => (float[B,C] y) { a = Reshape(x, s) b = Relu(a) y = Add(b, z) }",
        [{"x": F(12), "z": F((3, 4)), "s": [3, 4]}, {"x": F(6), "z": F((2, 3)), "s": [-1, 3]}],
    ),
}  # fmt: skip


def _model(text: str) -> Any:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')


def _feeds(model: Any, given: Mapping[str, Any]) -> dict[str, Array]:
    kinds = {1: np.float32, 7: np.int64}
    return {v.name: np.asarray(given[v.name], kinds[v.type.tensor_type.elem_type]) for v in model.graph.input}


def _session(text: str, level: int = 2) -> Any:
    options = Options(targets=("cpu:native",), level=level)
    return load(driver.compile(_model(text), options=options).to_bytes())


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", GRAPHS)
def test_run_time_operands(name: str, level: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    text, runs = GRAPHS[name]
    model, session = _model(text), _session(text, level)
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for given in runs:
        feeds = _feeds(model, given)
        for got, want in zip(session.run(None, feeds), peer.run(None, feeds), strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


RESHAPE = "g (float[B,6] x, int64[2] s) => (float[M,N] y) { a = Reshape(x, s) y = Relu(a) }"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([5, 5], "is not within 0 and 0"),
        ([-1, -1], "is not within"),
        ([-2, 6], "element 0 of 's'"),
        ([2**40, 2**40], "overflows|is not within"),
    ],
)
def test_a_shape_that_does_not_fit_refuses_the_run(shape: list[int], reason: str) -> None:
    session = _session(RESHAPE)
    with pytest.raises(InputError, match=reason):
        session.run(None, {"x": np.zeros((2, 6), np.float32), "s": np.array(shape)})
    assert session.run(None, {"x": np.zeros((2, 6), np.float32), "s": np.array([4, 3])})[0].shape == (4, 3)


def test_memory_of_late_sizes_is_given_back() -> None:
    text = (
        "g (float[B,6] x, int64[2] s) => (float[N,M] y) "
        "{ a = Reshape(x, s) b = Exp(a) t = Transpose(b) c = MatMul(t, b) y = Softmax(c) }"
    )
    planned = driver.plan(_model(text), options=Options(targets=("cpu:x86-64-v3",)))
    code = planned["cpu:x86-64-v3"].built.plan.entries[0].code
    allocated = [i.buffer for i in code if isinstance(i, Allocate)]
    assert allocated
    assert sorted(allocated) == sorted(i.buffer for i in code if isinstance(i, Free))
    assert [i for i in code if isinstance(i, LoadScalar)]
    names = [i.name for i in code if isinstance(i, SetScalar | LoadScalar)]
    assert len(names) == len(set(names))


def test_a_symbol_that_nothing_sets_is_our_bug() -> None:
    model = import_model(_model(RESHAPE))
    late = late_symbols(model)
    assert {symbol.element for symbol in late.values()} == {0, 1, None}
    set_late_symbols(model, {n: s for n, s in late.items() if s.element is None})
    set_facts(model, {})
    with pytest.raises(InternalError, match="nothing sets"):
        LateSymbols(model, type_of(model.graph.outputs[0]).shape).require_all()
