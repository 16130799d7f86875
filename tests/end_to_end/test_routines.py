"""Operators that are routines, at several sizes of one artifact, beside their definitions or ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser
from tilewright import driver
from tilewright.errors import TilewrightError
from tilewright.options import Options
from tilewright.runtime import load
from tilewright.runtime.errors import InputError

from tests.end_to_end.routine_cases import GRAPHS, Array, Graph, normal, number


def model_of(text: str, opset: int = 21) -> Any:
    """A model from the text of its graph."""
    return parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')


def session_of(text: str, *, opset: int = 21, empty: bool = False) -> Any:
    """A session; with ``empty`` any dimension of an input may be 0."""
    model = model_of(text, opset)
    shapes = [
        (v.name, tuple("0.." if d.dim_param else str(d.dim_value) for d in v.type.tensor_type.shape.dim))
        for v in model.graph.input
    ]
    options = Options(targets=("cpu:native",), input_shapes=tuple(shapes) if empty else ())
    return load(driver.compile(model, options=options).to_bytes(), threads=2)


def expected_of(graph: Graph, model: Any) -> Any:
    """A function from feeds to results by name."""
    if graph.expected is not None:
        return graph.expected
    onnxruntime = pytest.importorskip("onnxruntime")
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in model.graph.output]
    return lambda feeds: dict(zip(names, peer.run(None, feeds), strict=True))


def check(graph: Graph, got: dict[str, Array], want: dict[str, Array]) -> None:
    """Integers and moved elements exactly, sums within the tolerance of the graph relative to the largest."""
    for name, right in want.items():
        left = got[name].view(right.dtype) if right.dtype.name == "bfloat16" else got[name]
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        if right.dtype.kind in "fV" and right.size:
            a, b = left.astype(np.float64), right.astype(np.float64)
            largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
            np.testing.assert_allclose(a, b, rtol=0, atol=graph.rtol * (1 + largest), err_msg=name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize("name", GRAPHS)
def test_routines(name: str) -> None:
    graph = GRAPHS[name]
    empty = any(0 in array.shape for feeds in graph.runs for array in feeds.values())
    session = session_of(graph.text, opset=graph.opset, empty=empty)
    expected = expected_of(graph, model_of(graph.text))
    names = [o.name for o in session.outputs]
    for feeds in graph.runs:
        check(graph, dict(zip(names, session.run(None, feeds), strict=True)), expected(feeds))


LSTM = "LSTM<hidden_size=4, layout={layout}>(x, w, r, , , h)"


def test_layouts_agree() -> None:
    """ONNX Runtime has no batch-first layers."""
    x, w, r, h = normal(3, 5, 2), normal(1, 16, 2), normal(1, 16, 4), normal(3, 1, 4)
    text = (
        "g (float[B,S,2] x, float[1,16,2] w, float[1,16,4] r, float[B,1,4] h) => "
        f"(float[B,S,1,4] y, float[B,1,4] yh, float[B,1,4] yc) {{ y, yh, yc = {LSTM.format(layout=1)} }}"
    )
    other = (
        "g (float[S,B,2] x, float[1,16,2] w, float[1,16,4] r, float[1,B,4] h) => "
        f"(float[S,1,B,4] y, float[1,B,4] yh, float[1,B,4] yc) {{ y, yh, yc = {LSTM.format(layout=0)} }}"
    )
    y, yh, yc = session_of(text).run(None, {"x": x, "w": w, "r": r, "h": h})
    z, zh, zc = session_of(other).run(None, {"x": x.swapaxes(0, 1), "w": w, "r": r, "h": h.swapaxes(0, 1)})
    np.testing.assert_array_equal(y, z.transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(yh, zh.swapaxes(0, 1))
    np.testing.assert_array_equal(yc, zc.swapaxes(0, 1))


def test_constants_of_a_layer_are_not_those_of_the_model() -> None:
    """Weights that are rearranged while compiling get names that no other constant has."""
    arrays = {"w": normal(1, 20, 4), "r": normal(1, 20, 5), "b": normal(1, 40)}
    results = []
    for names in (["w", "r", "b"], ["y__1", "y__3", "y__2"]):
        text = (
            f"g (float[S,B,4] x) => (float[S,1,B,5] y) <float[1,20,4] {names[0]}, float[1,20,5] {names[1]}, "
            f"float[1,40] {names[2]}> {{ y = LSTM<hidden_size=5>(x, {', '.join(names)}) }}"
        )
        model = model_of(text)
        del model.graph.initializer[:]
        del model.graph.value_info[:]
        for name, array in zip(names, arrays.values(), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        session = load(driver.compile(model, options=Options(targets=("cpu:native",))).to_bytes())
        results.append(session.run(None, {"x": np.ones((3, 2, 4), np.float32)})[0])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("operator", ["RNN", "GRU", "LSTM"])
def test_layers_of_other_types(operator: str) -> None:
    """f64 beside f16, whose sums are wide: the difference is that of rounding inputs and outputs."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
    arrays = {"x": normal(5, 3, 4), "w": normal(1, gates * 20, 4), "r": 0.2 * normal(1, gates * 20, 20)}
    arrays = {name: a.astype(np.float16) for name, a in arrays.items()}
    results = []
    for kind, dtype in (("float16", np.float16), ("float", np.float32), ("double", np.float64)):
        text = (
            f"g ({kind}[S,B,4] x, {kind}[1,{gates * 20},4] w, {kind}[1,{gates * 20},20] r) => ({kind}[S,1,B,20] y) "
            f"{{ y = {operator}<hidden_size=20>(x, w, r) }}"
        )
        (y,) = session_of(text).run(None, {name: a.astype(dtype) for name, a in arrays.items()})
        results.append(y.astype(np.float64))
    np.testing.assert_allclose(results[0], results[2], rtol=0, atol=1e-3)
    np.testing.assert_allclose(results[1], results[2], rtol=0, atol=1e-5)


REFUSED = {
    "more than there are": (
        "g (float[A,B] x, int64[1] k) => (float[A,K] y, int64[A,K] i) { y, i = TopK(x, k) }",
        {"x": normal(2, 5), "k": np.array([6])},
    ),
    "fewer than none": (
        "g (float[A,B] x, int64[1] k) => (float[A,K] y, int64[A,K] i) { y, i = TopK(x, k) }",
        {"x": normal(2, 5), "k": np.array([-1])},
    ),
    "an axis that is not there": (
        "g (float[A,B,1] x, int64 a) => (float[C,D,2] y) { y = DFT(x, , a) }",
        {"x": normal(3, 4, 1), "a": number(2)},
    ),
    "a transform of nothing": (
        "g (float[A,B,1] x, int64 n) => (float[A,D,2] y) { y = DFT(x, n) }",
        {"x": normal(3, 4, 1), "n": number(0)},
    ),
    "frames that do not move": (
        "g (float[A,B,1] x, int64 s, float[W] w) => (float[A,F,G,2] y) { y = STFT(x, s, w) }",
        {"x": normal(3, 40, 1), "s": number(0), "w": normal(4)},
    ),
    "a sequence longer than the tensor": (
        "g (float[S,B,2] x, float[1,4,2] w, float[1,4,4] r, int32[B] n) => (float[S,1,B,4] y) "
        "{ y = RNN<hidden_size=4>(x, w, r, , n) }",
        {"x": normal(3, 2, 2), "w": normal(1, 4, 2), "r": normal(1, 4, 4), "n": np.array([3, 4], np.int32)},
    ),
    "a sequence shorter than nothing": (
        "g (float[S,B,2] x, float[1,4,2] w, float[1,4,4] r, int32[B] n) => (float[S,1,B,4] y) "
        "{ y = RNN<hidden_size=4>(x, w, r, , n) }",
        {"x": normal(3, 2, 2), "w": normal(1, 4, 2), "r": normal(1, 4, 4), "n": np.array([-1, 3], np.int32)},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_that_are_refused(name: str) -> None:
    text, feeds = REFUSED[name]
    with pytest.raises(InputError):
        session_of(text).run(None, feeds)


LAYER = "float[S,B,4] x, float[1,20,4] w, float[1,20,5] r"
GRAMS = "min_gram_length=1, max_gram_length=2, max_skip_count=0"

#: Graphs that make no sense, and a word of the reason.
WRONG = {
    "y = LSTM<hidden_size=-1>(x, w, r)": (LAYER, "must be equal"),
    'y = LSTM<direction="up">(x, w, r)': (LAYER, "direction"),
    'y = LSTM<direction="bidirectional">(x, w, r)': (LAYER, "must be equal"),
    'y = LSTM<activations=["Foo", "Tanh", "Tanh"]>(x, w, r)': (LAYER, "no activation"),
    'y = LSTM<activations=["Tanh"]>(x, w, r)': (LAYER, "activations"),
    "y = GRU(x, w, r)": (LAYER, "must be equal"),
    "y = LSTM<clip=-1.0>(x, w, r)": (LAYER, "clip"),
    "y = LSTM<layout=7>(x, w, r)": (LAYER, "layout"),
    "y = LSTM(x, w, r, w)": (LAYER, "input 3"),
    "y = Unique<axis=9>(x)": ("float[A,4] x", "axis 9"),
    "y, i = TopK<axis=9>(x, k)": ("float[A,4] x, int64[1] k", "axis 9"),
    "y = DFT(x)": ("float[A,4] x", "a last axis of 4"),
    f'y = TfIdfVectorizer<mode="TF", {GRAMS}, ngram_counts=[0, 9], ngram_indexes=[0], pool_int64s=[1]>(x)': (
        "int64[A] x",
        "no n-grams",
    ),
    f'y = TfIdfVectorizer<mode="TF", {GRAMS}, ngram_counts=[0], ngram_indexes=[9223372036854775807], '
    "pool_int64s=[1]>(x)": ("int64[A] x", "no columns"),
    "y = ImageDecoder(x)": ("uint8[A] x", "compressed images"),
    "y = RandomUniformLike(x)": ("float[A] x", "random numbers"),
}


@pytest.mark.parametrize("node", WRONG)
def test_graphs_that_make_no_sense(node: str) -> None:
    inputs, reason = WRONG[node]
    with pytest.raises(TilewrightError, match=reason):
        driver.compile(model_of(f"g ({inputs}) => (float[P,Q] y) {{ {node} }}"), options=Options())
