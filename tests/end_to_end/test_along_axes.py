"""Operators along axes on element types and sizes that matter, beside the reference evaluator in f64; what a run must
refuse, and sets without elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.errors import TilewrightError
from tilewright.options import Options
from tilewright.runtime import load
from tilewright.runtime.errors import InputError

from tests.ops.cases.along_axes import GROUPS, Group
from tests.ops.cases.pointwise import np_dtype

Array = np.ndarray[Any, Any]

SIZES = ({"N": 2, "M": 7}, {"N": 1, "M": 1}, {"N": 5, "M": 33})
#: Of results near 1; sums of 33 products of narrow inputs are rounded once.
TOLERANCE = {"float": 2e-5, "double": 1e-11, "float16": 4e-3, "bfloat16": 3e-2}
QUICK = {"float", "float16", "int32", "uint8"}


def _model(group: Group, dtype: str) -> onnx.ModelProto:
    nodes = " ".join(f"y{n} = {text}" for n, text in enumerate(group.nodes))
    outputs = ", ".join(f"{_kind(text, dtype)} y{n}" for n, text in enumerate(group.nodes))
    inputs = group.inputs.replace("T[", f"{dtype}[")
    text = f"g ({inputs}) => ({outputs}) <{group.constants}> {{ {nodes} }}"
    return parser.parse_model(f'<ir_version: 10, opset_import: ["": 24]> {text}')


def _kind(node: str, dtype: str) -> str:
    return "int64" if node.startswith("Arg") else dtype


def _session(model: onnx.ModelProto) -> Any:
    return load(driver.compile(model, options=Options(targets=("cpu:native",))).to_bytes())


def _feeds(model: onnx.ModelProto, sizes: dict[str, int], given: dict[str, list[int]]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [sizes.get(d.dim_param, d.dim_value) for d in tensor.shape.dim]
        kind = np_dtype(onnx.TensorProto.DataType.Name(tensor.elem_type).lower())
        if value.name in given or 0 in shape:
            feeds[value.name] = np.array(given.get(value.name, []), kind).reshape(shape)
        elif kind.kind in "iu":
            feeds[value.name] = rng.integers(0 if kind.kind == "u" else -2, 3, shape).astype(kind)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(kind)
    return feeds


def _reference(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """In f64, whatever the model's floats are."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in (1, 10, 16):
            value.type.tensor_type.elem_type = 11
    widened = {n: a.astype(np.float64) if a.dtype.kind in "fV" else a for n, a in feeds.items()}
    return [np.asarray(y) for y in ReferenceEvaluator(wide).run(None, widened)]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if dtype in QUICK else pytest.mark.slow)
        for name, group in GROUPS.items()
        for dtype in group.dtypes
    ],
)
def test_groups(name: str, dtype: str) -> None:
    group = GROUPS[name]
    model = _model(group, dtype)
    session, wrong = _session(model), []
    for n, sizes in enumerate(SIZES):
        feeds = _feeds(model, sizes, group.given[n % len(group.given)])
        for node, got, want in zip(group.nodes, session.run(None, feeds), _reference(model, feeds), strict=True):
            problem = _difference(got, want, _kind(node, dtype))
            wrong += [f"{node} at {sizes}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


def _difference(got: Array, want: Array, dtype: str) -> str:
    got = got.view(np_dtype("bfloat16")) if dtype == "bfloat16" else got
    if (got.dtype, got.shape) != (np_dtype(dtype), want.shape):
        return f"{got.dtype}{got.shape} instead of {dtype}{want.shape}"
    if dtype not in TOLERANCE:
        return "" if np.array_equal(got, want.astype(got.dtype)) else f"{got} instead of {want}"
    limit = TOLERANCE[dtype] * max(1.0, float(np.abs(want).max(initial=0)))
    off = float(np.abs(got.astype(np.float64) - want).max(initial=0))
    return "" if off <= limit else f"off by {off}"


LOSS = "int64[N,M] l, T[5] w"
LOSSES = [
    f"{op}<{attributes}>({operands})"
    for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
    for attributes in ('reduction="none"', 'reduction="sum"', 'reduction="mean", ignore_index=-1', "ignore_index=2")
    for operands in ("x, l", "x, l, w")
]


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_losses(dtype: str) -> None:
    group = Group(f"T[N,5,M] x, {LOSS}", "", tuple(LOSSES))
    model = _model(group, dtype)
    session, rng, wrong = _session(model), np.random.default_rng(1), []
    for sizes in SIZES:
        feeds = _feeds(model, sizes, {})
        feeds["l"] = rng.integers(0, 5, feeds["l"].shape)
        feeds["w"] = np.abs(feeds["w"])
        for node, got, want in zip(group.nodes, session.run(None, feeds), _reference(model, feeds), strict=True):
            problem = _difference(got, want, dtype)
            wrong += [f"{node} at {sizes}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


def test_an_ignored_label_may_be_no_class_and_another_refuses_the_run() -> None:
    nodes = ("NegativeLogLikelihoodLoss<ignore_index=-1>(x, l)",)
    session = _session(_model(Group("T[N,5] x, int64[N] l", "", nodes), "float"))
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    (loss,) = session.run(None, {"x": x, "l": np.array([-1, 2])})
    assert loss == -7
    for label in (5, -2, 2**62):
        with pytest.raises(InputError):
            session.run(None, {"x": x, "l": np.array([0, label])})


#: What is left of a set without elements.
EMPTY = {
    "Sum": 0, "Mean": np.nan, "Prod": 1, "Max": -np.inf, "Min": np.inf, "L1": 0, "L2": 0, "LogSum": -np.inf,
    "LogSumExp": -np.inf, "SumSquare": 0,
}  # fmt: skip


def test_empty_sets() -> None:
    nodes = tuple(f"Reduce{op}(x, a)" for op in EMPTY)
    model = _model(Group("T[2,N,3] x, int64[1] a", "", nodes), "float")
    options = Options(targets=("cpu:native",), input_shapes=(("x", ("2", "N=0..4", "3")), ("a", ("1",))))
    session = load(driver.compile(model, options=options).to_bytes())
    results = session.run(None, {"x": np.zeros((2, 0, 3), np.float32), "a": np.array([1])})
    for op, got in zip(EMPTY, results, strict=True):
        np.testing.assert_array_equal(got, np.full((2, 1, 3), EMPTY[op], np.float32), op)
    for got in session.run(None, {"x": np.zeros((2, 0, 3), np.float32), "a": np.array([2])}):
        assert got.shape == (2, 0, 1)


def test_extremes_of_integers_and_of_truth_values() -> None:
    nodes = ("ReduceMax(x, a)", "ReduceMin(x, a)")
    for dtype, least, most in (("int8", -128, 127), ("uint8", 0, 255), ("bool", 0, 1)):
        session = _session(_model(Group("T[2,0] x, int64[1] a", "", nodes), dtype))
        top, bottom = session.run(None, {"x": np.zeros((2, 0), np_dtype(dtype)), "a": np.array([1])})
        assert (int(top[0, 0]), int(bottom[1, 0])) == (least, most)


def _mean_variance(x: Array, *axes: int) -> Array:
    return np.asarray((x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9))


def _norm(x: Array, p: int, axis: int) -> Array:
    norm = (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
    return np.asarray(np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)))


def _local_response(x: Array, size: int, beta: float) -> Array:
    before = (size - 1) // 2
    windows = [(x[:, max(0, c - before) : c - before + size] ** 2).sum(1) for c in range(x.shape[1])]
    return np.asarray(x / (1.5 + 0.2 / size * np.stack(windows, 1)) ** beta)


#: Nodes that the reference evaluator cannot run or (onnx 1.23: LRN, and LpNormalization of axis 0 or p 1) gets wrong.
FORMULAS: dict[str, Callable[[Array], Array]] = {
    "MeanVarianceNormalization(x)": lambda x: _mean_variance(x, 0, 2, 3),
    "MeanVarianceNormalization<axes=[-1]>(x)": lambda x: _mean_variance(x, -1),
    "MeanVarianceNormalization<axes=[1,2]>(x)": lambda x: _mean_variance(x, 1, 2),
    "LpNormalization(x)": lambda x: _norm(x, 2, -1),
    "LpNormalization<axis=0>(x)": lambda x: _norm(x, 2, 0),
    "LpNormalization<axis=1, p=1>(x)": lambda x: _norm(x, 1, 1),
    "LRN<size=3, alpha=0.2, bias=1.5>(x)": lambda x: _local_response(x, 3, 0.75),
    "LRN<size=2, alpha=0.2, bias=1.5, beta=0.4>(x)": lambda x: _local_response(x, 2, 0.4),
    "LRN<size=50, alpha=0.2, bias=1.5>(x)": lambda x: _local_response(x, 50, 0.75),
}


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_normalizations_by_their_formulas(dtype: str) -> None:
    model = _model(Group("T[N,6,M,2] x", "", tuple(FORMULAS)), dtype)
    session, wrong = _session(model), []
    for sizes in SIZES:
        x = _feeds(model, sizes, {})["x"]
        x[0, :, 0] = 0
        for (node, formula), got in zip(FORMULAS.items(), session.run(None, {"x": x}), strict=True):
            problem = _difference(got, formula(x.astype(np.float64)), dtype)
            wrong += [f"{node} at {sizes}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("axes", [[3, 0], [0, -4], [1, 1], [1, -2]])
def test_axes_that_are_none_or_the_same_refuse_the_run(axes: list[int]) -> None:
    session = _session(_model(Group("T[2,N,3] x, int64[2] a", "", ("ReduceSum<keepdims=0>(x, a)",)), "float"))
    feeds = {"x": np.ones((2, 4, 3), np.float32)}
    with pytest.raises(InputError):
        session.run(None, {**feeds, "a": np.array(axes)})
    np.testing.assert_array_equal(session.run(None, {**feeds, "a": np.array([-1, 1])})[0], [12, 12])


def test_training_moves_the_running_statistics() -> None:
    text = (
        "g (float[N,3,M] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N,3,M] y, float[3] p, float[3] q)"
        " { y, p, q = BatchNormalization<training_mode=1, momentum=0.7>(x, s, b, m, v) }"
    )
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    session = _session(model)
    for sizes in SIZES:
        feeds = _feeds(model, sizes, {})
        for got, want in zip(session.run(None, feeds), ReferenceEvaluator(model).run(None, feeds), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "node",
    [
        "ReduceSum(x, a)",
        "LRN<size=0>(x)",
        "LpNormalization<p=3>(x)",
        "MeanVarianceNormalization<axes=[7]>(x)",
        "GroupNormalization<num_groups=0>(x, v, v)",
        "GroupNormalization<num_groups=2>(x, v, v)",
        "Softmax<axis=3>(x)",
        "Det(v)",
        'Einsum<equation="ij">(x)',
        'Einsum<equation="abc->ad">(x)',
        'Einsum<equation="a b!c">(x)',
        'Einsum<equation="abc->aa">(x)',
        "NegativeLogLikelihoodLoss(x, k)",
    ],
)
def test_what_is_wrong_is_said(node: str) -> None:
    group = Group("T[2,3,4] x, T[3] v, int64[5] k", "int64[1] a = {3}", (node,))
    with pytest.raises(TilewrightError) as error:
        _session(_model(group, "float"))
    assert error.value.exit_code in (3, 4)
